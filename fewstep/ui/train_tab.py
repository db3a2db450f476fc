"""The tab Train: a recipe from a few choices, its plan, and a run that is watched and stopped."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from fewstep.errors import UserError
from fewstep.evaluation.report.plots import losses
from fewstep.evaluation.report.runs import TrainingRun
from fewstep.methods import METHODS, method_title
from fewstep.ui.recipes import CARDS, PROCESSOR, planned, read_recipe, recipe
from fewstep.ui.render import message_html, run_html
from fewstep.ui.runs import Trainings

EVERY = 2.0
"""Seconds between two looks at a run."""


def train_tab(trainings: Trainings, folders: Sequence[Path]) -> None:
    """Build the tab; what it reads and writes lies inside of the folders."""
    methods = [(method_title(name), name) for name in METHODS]
    card = list(CARDS)[1] if torch.cuda.is_available() else PROCESSOR
    with gr.Row(elem_classes="fs-row"):
        model = gr.Dropdown(
            models_in(folders), value="bundled", allow_custom_value=True, label="Model",
            info="bundled, a folder, a file or a Hub id", elem_id="model",
        )  # fmt: skip
        data = gr.Dropdown(
            data_in(folders), value="bundled", allow_custom_value=True, label="Data",
            info="bundled, or a folder of images", elem_id="data",
        )  # fmt: skip
        method = gr.Dropdown(
            methods, value="multi-boundary-cd", label="Method", info="how the student is trained",
            elem_id="method",
        )  # fmt: skip
        size = gr.Dropdown(
            list(CARDS), value=card, label="Card", info="whose memory the recipe fits",
            elem_id="card",
        )  # fmt: skip
    text = gr.Textbox(
        recipe("bundled", "bundled", "multi-boundary-cd", card), label="Recipe", lines=12,
        max_lines=24, info="every setting may be changed here", elem_id="recipe",
    )  # fmt: skip
    with gr.Row(elem_classes="fs-row"):
        name = gr.Textbox("mine", label="Run", info="its folder below runs/", elem_id="run")
        plan = gr.Button("Plan", elem_id="plan")
        start = gr.Button("Start or continue", variant="primary", elem_id="start")
        stop = gr.Button("Save and stop", elem_id="stop")
    needs = gr.HTML(elem_id="needs", js_on_load=None)
    shown = gr.HTML(elem_id="progress", js_on_load=None)
    timer = gr.Timer(EVERY, active=False)

    choices = [model, data, method, size]
    at_once: dict[str, Any] = {
        "queue": False,
        "show_progress": "hidden",
        "api_visibility": "private",
    }
    filled = [text, needs]
    gr.on([choice.input for choice in choices], fill_in, choices, filled, **at_once)
    plan.click(partial(plan_in_words, folders), [text, size], needs, api_visibility="private")
    begin = partial(start_run, trainings, folders)
    start.click(begin, [name, text], [needs, shown, timer], **at_once)
    stop.click(partial(stop_run, trainings), name, [needs, shown, timer], **at_once)
    timer.tick(partial(look, trainings), name, [shown, timer], **at_once)
    name.submit(partial(look, trainings), name, [shown, timer], **at_once)


def models_in(folders: Sequence[Path]) -> list[str]:
    """Return the models that the page offers: diffusers folders, at most two levels down."""
    found = (
        p.parent
        for f in folders
        for deep in ("*", "*/*")
        for p in f.glob(f"{deep}/model_index.json")
    )
    return ["bundled", *sorted(map(shortest, found))]


def data_in(folders: Sequence[Path]) -> list[str]:
    """Return the folders that the page offers as data: those beside, and those in data/."""
    found = (p for f in folders for deep in ("*", "data/*") for p in f.glob(deep) if p.is_dir())
    return ["bundled", *sorted(shortest(p) for p in found if not p.name.startswith((".", "_")))]


def shortest(path: Path) -> str:
    """Return a path as one would type it here."""
    here = Path.cwd()
    return (
        str(path.resolve().relative_to(here)) if path.resolve().is_relative_to(here) else str(path)
    )


def told(function: Callable[[], str]) -> str:
    """Return what a function says, or a user's mistake as a sentence."""
    try:
        return function()
    except (UserError, OSError) as error:
        return message_html(str(error))


def fill_in(model: str, data: str, method: str, card: str) -> tuple[object, str]:
    """Return the recipe for the choices."""
    try:
        return recipe(model.strip(), data.strip(), method, card), ""
    except UserError as error:
        return gr.skip(), message_html(str(error))


def plan_in_words(folders: Sequence[Path], text: str, card: str) -> str:
    """Return what the recipe's run needs, or what is wrong with the recipe."""
    return told(lambda: message_html(planned(read_recipe(text, folders), card), "note"))


def start_run(
    trainings: Trainings, folders: Sequence[Path], name: str, text: str
) -> tuple[str, object, gr.Timer]:
    """Start or continue a run, once its recipe has been read."""
    try:
        read_recipe(text, folders)
        trainings.start(name, text)
    except (UserError, OSError) as error:
        return message_html(str(error)), gr.skip(), gr.Timer()
    return "", *look(trainings, name)


def stop_run(trainings: Trainings, name: str) -> tuple[str, object, gr.Timer]:
    """Ask a run to save and stop."""
    try:
        trainings.stop(name)
    except UserError as error:
        return message_html(str(error)), gr.skip(), gr.Timer()
    return message_html("saving; the run stops after its step", "note"), gr.skip(), gr.Timer()


def look(trainings: Trainings, name: str) -> tuple[str, gr.Timer]:
    """Return how far a run is, and whether to look again."""
    try:
        run = trainings.folder(name)
        running = trainings.is_running(run)  # before its state, which may be the last
        state = trainings.state(name)
        return run_html(state, loss_plot(run, state.step)), gr.Timer(active=running)
    except (UserError, OSError) as error:
        return message_html(str(error)), gr.Timer(active=False)


@lru_cache(maxsize=16)
def loss_plot(run: Path, step: int) -> str:
    """Return the loss of a run that is at a step, as SVG; drawn once a step."""
    return losses([TrainingRun.read(run)]) if step > 1 else ""
