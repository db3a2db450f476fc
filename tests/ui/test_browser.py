"""The page in a real browser: what a visitor does and sees; nothing leaves this machine.

With FEWSTEP_SCREENSHOTS set to a folder, the pictures of the documentation are written there, of
the students in FEWSTEP_STUDENTS where that is set.
"""

import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from fewstep.config import to_toml
from tests.tiny import save_tiny_pipeline, tiny_config
from tests.ui.conftest import BROWSER, SOURCES

ROOT = Path(__file__).parents[2]
PICTURES = os.environ.get("FEWSTEP_SCREENSHOTS")
SHOTS = Path(PICTURES).absolute() if PICTURES else None  # before a test changes the folder
STUDENTS = os.environ.get("FEWSTEP_STUDENTS", "").split() or SOURCES
CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
PATIENCE = 600_000
"""Milliseconds: for machines that do much else at the same time."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder that the page is started in, with a model of its own."""
    folder = tmp_path_factory.mktemp("here")
    save_tiny_pipeline(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    from fewstep.evaluation.models import EvaluationSet
    from fewstep.ui.page import build_page, serve
    from fewstep.ui.runs import Trainings

    models = EvaluationSet.open([str(Path(source).resolve()) for source in STUDENTS])
    trainings = Trainings(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(ROOT))
        page = build_page(models, lambda: None, trainings, [folder], ThreadPoolExecutor(1))
        try:
            yield serve(page, "127.0.0.1", None)
        finally:
            trainings.close()
            page.close(verbose=False)


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address):
    """Open the page in a window of its own; it may ask this server and no other."""
    contexts, asked = [], []

    def open_page(width=1280, height=1000, scheme="light"):
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        context.set_default_timeout(PATIENCE)
        context.on("request", lambda request: asked.append(request.url))
        contexts.append(context)
        page = context.new_page()
        page.goto(address)
        page.locator("#generate").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    outside = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert asked
    assert not outside


def generate(page, prompt="a red heart above a blue star"):
    """Type a prompt, press the button, and wait for all images."""
    page.locator("#prompt textarea").fill(prompt)
    mark(page)
    page.locator("#generate").click()
    wait_for_images(page)


def mark(page):
    """Mark the results that are shown as old."""
    page.evaluate("document.querySelectorAll('.fs-columns').forEach(one => one.dataset.old = 1)")


def wait_for_images(page):
    """Wait until new results are complete."""
    page.wait_for_function(
        """() => { const now = document.querySelector('.fs-columns');
             return now && !now.dataset.old && !now.querySelector('.fs-empty') }"""
    )


def images(page):
    return page.locator("#results figure img").evaluate_all("all => all.map(one => one.src)")


def lock(page, seed):
    page.locator("#seed input").fill(str(seed))
    page.locator("#lock input").check()


def shoot(page, name):
    if SHOTS:
        page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def assert_no_sideways_scroll(page):
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0


def test_a_prompt_gives_images_with_their_figures_and_a_locked_seed_gives_them_again(visit):
    page = visit()
    lock(page, 7)
    generate(page)
    columns = page.locator(".fs-column").all_inner_texts()
    titles = [text.split("\n")[0] for text in columns]
    assert titles[:2] == ["Teacher", "Teacher"]
    assert STUDENTS != SOURCES or {"Multi-boundary CD", "CD"} <= set(titles[2:])
    for text, nfe in zip(columns, (100, 8, *[4] * len(titles[2:])), strict=True):
        assert re.search(rf"{nfe} NFE · [\d.]+ s · seed 7", text), text
        assert re.search("[✓✗] shape", text), text
    first = images(page)
    assert len(set(first)) == len(titles)
    page.locator("#strip input").check()
    generate(page)
    assert images(page) == first
    assert page.locator(".fs-strip").count() == len(titles)
    strip = page.locator(".fs-strip").nth(2)
    assert strip.locator("img").count() == 5
    assert strip.locator("li").all_inner_texts() == ["noise", *(f"step {i}" for i in range(1, 5))]
    shoot(page, "ui-compare")
    page.locator("#lock input").uncheck()
    generate(page)
    assert not set(images(page)) & set(first)


def test_the_dice_change_the_seed_and_each_of_several_images_has_its_own(visit):
    page = visit()
    lock(page, 7)
    page.locator("#dice").click()
    page.wait_for_function("document.querySelector('#seed input').value !== '7'")
    seed = int(page.locator("#seed input").input_value())
    page.locator("#number input[type=number]").fill("3")
    generate(page)
    captions = page.locator(".fs-column").nth(2).locator("figcaption").all_inner_texts()
    assert [re.findall(r"seed (\d+)", text) for text in captions] == [
        [str(seed + i)] for i in range(3)
    ]
    assert len(set(images(page))) == 3 * page.locator(".fs-column").count()


def test_the_slider_blends_teacher_and_student_from_the_same_noise(visit):
    page = visit()
    generate(page)
    first = images(page)
    mark(page)
    slider = page.locator("#blend input[type=range]").bounding_box()
    page.mouse.click(slider["x"] + slider["width"] / 3, slider["y"] + slider["height"] / 2)
    wait_for_images(page)
    assert re.search(r"\d+% student", page.locator(".fs-column").nth(2).inner_text())
    blended = images(page)
    assert blended[:2] == first[:2], "the teacher's stay"
    assert blended[2] != first[2]


def test_steps_that_a_student_was_not_trained_for_are_greyed_with_the_reason(visit):
    page = visit()
    multi_boundary, cd = page.locator(".fs-steps").all()
    three = multi_boundary.locator("button[data-steps='3']")
    assert three.is_disabled()
    assert "it was trained on 4 segments" in three.get_attribute("title")
    assert "it was trained on 4 segments" in multi_boundary.inner_text()
    assert page.locator("#negative textarea, #negative input").first.is_disabled()
    assert "no student here was trained for one" in page.locator("#negative").inner_text()
    cd.locator("button[data-steps='2']").click()
    generate(page)
    assert "2 NFE" in page.locator(".fs-column").nth(3).inner_text()


def test_a_bad_value_is_a_sentence_and_markup_is_text(visit):
    page = visit()
    page.locator("#prompt textarea").fill("a red elephant")
    page.locator("#generate").click()
    page.locator("#results .fs-error").wait_for()
    assert "does not know 'elephant'" in page.locator("#results").inner_text()
    generate(page, "<a on=black> red heart ${a} {{red}} <big>star</big>")
    assert page.locator("#results figcaption").count() == 4
    assert page.locator("#results big, #results a[on]").count() == 0
    assert "${a} {{red}}" in page.locator("#results img").first.get_attribute("alt")


def test_two_visitors_at_once_get_their_own_images(visit):
    pages = [visit(), visit()]
    for seed, page in enumerate(pages):
        lock(page, seed)
        page.locator("#generate").click()
    for seed, page in enumerate(pages):
        wait_for_images(page)
        captions = page.locator("#results figcaption").all_inner_texts()
        assert all(f"seed {seed}" in caption for caption in captions)


def test_a_cancelled_job_stops(visit, monkeypatch):
    """The job waits at its third step until the page was told that it is cancelled."""
    from fewstep.ui import compare, compare_tab

    steps, cancelled = [], threading.Event()
    monkeypatch.setattr(compare, "TEACHER_STEPS", 900)
    monkeypatch.setattr(compare_tab, "SHOW_EVERY", 0)
    grow = compare.grow

    def slow(*arguments):
        for column in grow(*arguments):
            steps.append(column.total)
            yield column
            assert len(steps) < 3 or cancelled.wait(PATIENCE / 1000)

    monkeypatch.setattr(compare, "grow", slow)
    page = visit()
    lock(page, 7)
    page.locator("#generate").click()
    page.get_by_text(re.compile("step [1-3] of 4$")).wait_for()
    with page.expect_response(re.compile("/cancel")):
        page.locator("#cancel").click()
    cancelled.set()
    monkeypatch.undo()
    generate(page)  # which waits until the job before has ended
    assert len(steps) <= 4


def test_menus_compose_a_prompt(visit):
    page = visit()
    page.get_by_text("Compose a prompt").click()
    choose(page.get_by_label("Background"), page, "mint")
    page.wait_for_function(
        "document.querySelector('#prompt textarea').value === "
        "'a red heart above a blue star on a mint background'"
    )


def choose(menu, page, word):
    menu.click()
    page.get_by_role("option", name=word, exact=True).click()


def recipe(page):
    """Return the recipe of the training: a tiny model's, or for a picture the one that ships."""
    shown = page.locator("#recipe textarea").input_value()
    if SHOTS:
        return shown.replace("4096", "512") + "preview_every = 20\n"
    config = tiny_config(steps=100_000, preview_every=5, save_every=100_000)
    return to_toml(replace(config, model=replace(config.model, base="tiny")))


def test_a_tiny_training_is_started_seen_to_progress_stopped_and_continued(visit, folder):
    page = visit()
    shutil.rmtree(folder / "runs", ignore_errors=True)
    page.get_by_role("tab", name="Train").click()
    text = recipe(page)
    page.locator("#recipe textarea").fill(text)
    page.locator("#start").click()
    page.locator("#progress .fs-preview").wait_for()
    page.locator("#progress svg").wait_for()
    shown = page.locator("#progress").inner_text()
    assert re.search(r"mine: training", shown)
    assert all(word in shown for word in ("Loss", "Images a second", "Time left"))
    if SHOTS:
        page.get_by_text(re.compile("Preview at step [4-9]0")).wait_for(timeout=1e6)
    shoot(page, "ui-train")
    page.locator("#stop").click()
    page.get_by_text("stopped; Start continues it").wait_for()
    step = int(re.search(r"(\d+) of", page.locator("#progress dd").first.inner_text())[1])
    assert (folder / "runs/mine/checkpoints" / f"{step:08d}").is_dir()
    page.locator("#start").click()
    page.wait_for_function(
        f"""Number((document.querySelector('#progress').innerText.match(/(\\d+) of \\d+/)
            || [0, 0])[1]) > {step}"""
    )
    page.locator("#stop").click()
    page.get_by_text("stopped; Start continues it").wait_for()


def test_a_mistake_in_a_recipe_and_a_path_outside_are_sentences(visit):
    page = visit()
    page.get_by_role("tab", name="Train").click()
    recipe = page.locator("#recipe textarea")
    for text, message in (
        ("[method]\nname = 'cd'\n[train]\nlerning_rate = 1", "did you mean learning_rate?"),
        ("[method]\nname = 'cd'\n[model]\nbase = '/etc'", "outside of the folders"),
    ):
        recipe.fill(text)
        page.locator("#start").click()
        page.locator("#needs").get_by_text(message).wait_for()


def wait_for_recipe(page, *parts):
    value = "document.querySelector('#recipe textarea').value"
    page.wait_for_function(f"all => all.every(part => {value}.includes(part))", arg=parts)


def test_choices_fill_the_recipe_in_and_the_plan_says_what_it_needs(visit):
    page = visit()
    page.get_by_role("tab", name="Train").click()
    choose(page.locator("#method input"), page, "CT")
    wait_for_recipe(page, 'name = "ct"')
    page.locator("#plan").click()
    page.locator("#needs").get_by_text(re.compile("[GM]iB of memory at the peak")).wait_for()
    choose(page.locator("#model input"), page, "tiny")
    wait_for_recipe(page, 'base = "tiny"')
    known = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    page.locator("#model input").fill(known)
    page.locator("#model input").press("Enter")
    choose(page.locator("#card input"), page, "T4 (15 GiB)")
    wait_for_recipe(page, f'base = "{known}"', "a T4 imitates bf16 only")
    page.locator("#plan").click()
    page.locator("#needs").get_by_text("fits a T4").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_below_it(visit, scheme):
    """Source: WCAG 2.2, 1.4.3: a contrast of 4.5; what is greyed out may have less."""
    page = visit(scheme=scheme)
    page.locator("#strip input").check()
    generate(page)
    for tab in ("Compare", "Train"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate(CONTRAST) == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scroll_and_dark_is_dark(visit, scheme):
    page = visit(360, 740, scheme)
    generate(page)
    assert_no_sideways_scroll(page)
    shoot(page, f"ui-phone-{scheme}")
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", colour)[:3])) > 380
    assert light == (scheme == "light")
    page.get_by_role("tab", name="Train").click()
    page.locator("#recipe").wait_for()
    assert_no_sideways_scroll(page)
