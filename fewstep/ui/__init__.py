"""The page in a browser: compare students with their teacher, and train one.

Begin at `page.py`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from fewstep.errors import UserError


def open_page(
    sources: Sequence[str],
    host: str,
    port: int | None,
    folders: Sequence[Path],
    password: str | None,
) -> None:
    """Serve the page until a signal comes; see `fewstep.ui.page.run_page`.

    Raises:
        UserError: if Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError("the page needs Gradio: pip install 'fewstep[ui]'") from error
    from fewstep.ui.page import run_page

    run_page(sources, host, port, folders, password)
