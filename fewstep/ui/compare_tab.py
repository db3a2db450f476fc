"""The tab Compare: what is asked for, and the columns of images as they grow."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

import gradio as gr
import torch

from fewstep.errors import UserError
from fewstep.evaluation.models import EvaluationSet
from fewstep.methods import method_title
from fewstep.ui.compare import MOST_IMAGES, Column, Request, columns, fill
from fewstep.ui.render import message_html, results_html
from fewstep.ui.steps_picker import steps_picker
from fewstep.ui.world import GROUNDS, JOINTS, MENUS, compose, verdict

EXAMPLE = {True: "a red heart above a blue star", False: "a lighthouse at dusk"}
"""The first prompt, by whether the model is the bundled one."""

SHOW_EVERY = 0.25
"""Seconds between two states of unfinished columns on the page."""

BUSY: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
"""One model computes for one visitor at a time; the others wait in the queue."""


def compare_tab(models: EvaluationSet, ready: Callable[[], object], thread: Executor) -> None:
    """Build the tab; `ready` loads the models, unless they are, in the `thread` that they have."""
    is_bundled = models.base == "bundled"
    prompt = gr.Textbox(EXAMPLE[is_bundled], label="Prompt", elem_id="prompt", max_lines=3)
    if is_bundled:
        menus(prompt)
    with gr.Row(elem_classes="fs-row"):
        seed = gr.Number(7, label="Seed", precision=0, minimum=0, elem_id="seed", min_width=110)
        locked = gr.Checkbox(False, label="Lock the seed", elem_id="lock", min_width=110)
        dice = gr.Button("New seed", elem_id="dice", min_width=110)
        number = gr.Slider(1, MOST_IMAGES, 1, step=1, label="Images", elem_id="number")
    with gr.Row(elem_classes="fs-row"):
        steps = [steps_picker(s, method_title(s.contract.method["name"])) for s in models.students]
    strength = gr.Slider(
        0, 1.5, 1, step=0.05, label="Blend: 0 is the teacher's network, 1 the student",
        elem_id="blend",
    )  # fmt: skip
    negative, guidance = guidance_row(models)
    strip = gr.Checkbox(False, label="Show what each step made of the noise", elem_id="strip")
    with gr.Row(elem_classes="fs-row"):
        go = gr.Button("Generate", variant="primary", elem_id="generate")
        stop = gr.Button("Cancel", elem_id="cancel")
    results = gr.HTML(elem_id="results", js_on_load=None)
    known = gr.State([], time_to_live=600)

    inputs: list[Any] = [known, seed, locked, prompt, number, guidance, strength, negative, strip]
    outputs = [results, seed, known]
    show = partial(generate_on, thread, models, ready)
    quiet = {"show_progress": "minimal", "show_progress_on": results, **BUSY}
    again = partial(show, same_seed=True)
    runs: list[Any] = [
        gr.on([go.click, prompt.submit], show, [*inputs, *steps], outputs, trigger_mode="once",
              api_name="compare", **quiet),
        strength.release(again, [*inputs, *steps], outputs, trigger_mode="always_last",
                         api_visibility="private", **quiet),
    ]  # fmt: skip
    stop.click(None, cancels=runs)
    dice.click(new_seed, None, seed, queue=False, api_visibility="private")


NO_NEGATIVES = "no student here was trained for one; the config guidance-free trains one that is"


def guidance_row(models: EvaluationSet) -> tuple[gr.Textbox, gr.Slider]:
    """Build the negative prompt and the guidance of the teacher and of students that take it."""
    takers = [s.source for s in models.students if s.contract.takes_guidance]
    why = f"for the teacher and {', '.join(takers)}" if takers else NO_NEGATIVES
    with gr.Row(elem_classes="fs-row"):
        negative = gr.Textbox(
            "", label="Negative prompt", info=why, interactive=bool(takers), elem_id="negative"
        )
        guidance = gr.Slider(
            1.5, 12, models.guidance_scale, step=0.5, label="Guidance",
            info=why if takers else "of the teacher; students have theirs inside",
            elem_id="guidance",
        )  # fmt: skip
    return negative, guidance


def menus(prompt: gr.Textbox) -> None:
    """Build the menus that compose a prompt of the bundled world."""
    with gr.Accordion("Compose a prompt", open=False, elem_id="compose"):
        chosen: list[gr.Dropdown] = []
        for place, first in enumerate(("heart", "star")):
            with gr.Row(elem_classes="fs-row"):
                if place:
                    chosen.append(gr.Dropdown(JOINTS, value="above", label="Joint", min_width=90))
                for name, words in MENUS.items():
                    value = first if name == "Shape" else None
                    value = ("red", "blue")[place] if name == "Colour" else value
                    chosen.append(
                        gr.Dropdown(words, value=value or words[0], label=name, min_width=90)
                    )
        chosen.append(gr.Dropdown(GROUNDS, value=GROUNDS[0], label="Background", min_width=90))
    gr.on(
        [menu.input for menu in chosen],
        compose,
        chosen,
        prompt,
        queue=False,
        api_visibility="private",
    )


def new_seed() -> int:
    """Return a random seed."""
    return random.randrange(2**32)


def generate_on(thread: Executor, *given: Any, **options: Any) -> Iterator[Any]:
    """Yield what `generate` does, made in that thread and not in the server's.

    It has dozens, and torch keeps memory for every thread that it has computed in.
    """
    states, end = generate(*given, **options), object()
    while (state := thread.submit(next, states, end).result()) is not end:
        yield state


def generate(
    models: EvaluationSet,
    ready: Callable[[], object],
    known: Sequence[Column],
    seed: int | None,
    locked: bool,
    prompt: str,
    number: int,
    guidance: float,
    strength: float,
    negative: str,
    with_strip: bool,
    *steps: int,
    same_seed: bool = False,
) -> Iterator[tuple[str, int | None, Sequence[Column]]]:
    """Yield the results as HTML, the seed that they have and the columns, while they grow.

    A user's mistake is a sentence in place of the results.
    """
    seed = seed if locked or same_seed else new_seed()
    shown, clock = known, 0.0
    try:
        if seed is None:
            raise UserError("the seed is empty; write a number, or choose New seed")
        request = Request(
            prompt, int(seed), int(number), tuple(map(int, steps)), float(guidance),
            float(strength), negative.strip(), bool(with_strip),
        )  # fmt: skip
        asked = columns(models, request)
        ready()
        for shown in fill(asked, request, models.resolution, known):
            is_final = all(column.images for column in shown)
            if is_final or time.monotonic() - clock > SHOW_EVERY:
                yield (
                    results_html(shown, verdict if models.base == "bundled" else None),
                    seed,
                    shown,
                )
                clock = time.monotonic()
    except (UserError, OSError) as error:
        yield message_html(str(error)), seed, ()
    except torch.cuda.OutOfMemoryError:
        sentence = "the GPU has no memory left; choose fewer images, or close what else uses it"
        yield message_html(sentence), seed, ()
