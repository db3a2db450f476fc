"""`fewstep ui`: the page and its server, which answers this machine alone unless told otherwise."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import gradio as gr

from fewstep.console import next_command
from fewstep.errors import UserError
from fewstep.evaluation.models import EvaluationSet
from fewstep.student.seeds import image_generators
from fewstep.ui.compare_tab import compare_tab
from fewstep.ui.runs import Trainings
from fewstep.ui.train_tab import train_tab

QUICKSTARTS = ("runs/quickstart", "runs/quickstart-quick")
WAITING = 24
"""The most requests that wait for the model; who comes later is told that it is busy."""

VISITORS = 32
"""How many visitors' results are kept; who comes back after as many others has them made again.
Gradio keeps those of 10,000, of visitors that are gone too, and each takes about a MiB."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run_page(
    sources: Sequence[str],
    host: str,
    port: int | None,
    folders: Sequence[Path],
    password: str | None,
) -> None:
    """Serve the page until a signal comes; trainings that it started are then saved and stopped.

    Raises:
        UserError: if there is no student, or others could reach the page without a password.
    """
    if host not in LOOPBACK and not password:
        raise UserError(
            f"--host is {host}, where others can reach the page and train with it; give them a "
            "--password, or leave --host out"
        )
    models = EvaluationSet.open(list(sources) or [default_source()])
    trainings, ready = Trainings(Path.cwd()), only_once(lambda: warm_up(models))
    with ThreadPoolExecutor(1) as thread:  # waited for at the end, as torch wants to be
        page = build_page(models, ready, trainings, [Path.cwd(), *folders], thread)
        try:
            print(f"open {serve(page, host, port, password)}  (Ctrl-C ends it)", flush=True)
            thread.submit(ready)
            threading.Event().wait()
        finally:
            trainings.close()
            page.close(verbose=False)


def default_source() -> str:
    """Return the quickstart's runs.

    Raises:
        UserError: if there are none.
    """
    for folder in QUICKSTARTS:
        if any(Path(folder).glob("*/artefact")):
            return folder
    raise UserError(
        f"there is no student here yet; name a run or an artefact, or make three first; "
        f"{next_command('quickstart', '--quick')}"
    )


def only_once(work: Callable[[], object]) -> Callable[[], None]:
    """Return what does the work at the first call; calls from other threads wait for its end."""
    lock, done = threading.Lock(), []

    def ready() -> None:
        with lock:
            if not done:
                done.append(work())

    return ready


def build_page(
    models: EvaluationSet,
    ready: Callable[[], None],
    trainings: Trainings,
    folders: Sequence[Path],
    thread: Executor,
) -> gr.Blocks:
    """Build the page; `ready` loads the models, which the page does not wait for.

    The models compute in `thread`, which has to be a single one.
    """
    with gr.Blocks(
        title="fewstep", analytics_enabled=False, delete_cache=(600, 600), fill_width=False
    ) as page:
        gr.HTML("<h1>fewstep</h1>", elem_id="title", js_on_load=None)
        with gr.Tab("Compare", id="compare"):
            compare_tab(models, ready, thread)
        with gr.Tab("Train", id="train"):
            train_tab(trainings, folders)
    page.queue(max_size=WAITING)
    return page


def warm_up(models: EvaluationSet) -> None:
    """Load the models and generate once, as first calls are slow."""
    student = models.student(models.students[0]).sampler()
    student.decode(student.latents([""], image_generators(0, 1), models.resolution))


def theme() -> gr.themes.Base:
    """Return Gradio's theme with the reader's fonts, and quiet or coloured text in darker ink."""
    own = gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return own.set(
        body_text_color_subdued="*neutral_500", color_accent="*primary_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
    )  # fmt: skip


def serve(page: gr.Blocks, host: str, port: int | None, password: str | None = None) -> str:
    """Start the server in threads of its own and return the page's address.

    Raises:
        UserError: if the port is taken.
    """
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False,
            inline=False, inbrowser=False, pwa=False, ssr_mode=False, mcp_server=False,
            enable_monitoring=False, run_history=False, show_error=False, footer_links=[],
            allowed_paths=[], max_file_size="1kb", state_session_capacity=VISITORS,
            auth=("fewstep", password) if password else None,
            theme=theme(), css_paths=Path(__file__).parent / "page.css",
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--port is {port}, which is taken; choose another one") from error
    return address
