"""Students for the page's tests: those that release 0.1.0 wrote, of the bundled teacher."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

RELEASED = Path(__file__).parents[1] / "fixtures" / "release-0.1.0"
SOURCES = [str(RELEASED / "multi-boundary-artefact"), str(RELEASED / "cd" / "artefact")]
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
     if (found := shutil.which(name))), None,
)  # fmt: skip


if not find_spec("gradio"):  # the extra `ui`, which the oldest versions are tested without
    collect_ignore = ["test_browser.py", "test_recipes.py", "test_server.py", "test_tabs.py"]


@pytest.fixture(scope="module")
def models():
    from fewstep.evaluation.models import EvaluationSet

    return EvaluationSet.open(SOURCES)
