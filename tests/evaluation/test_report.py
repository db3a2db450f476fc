"""The report is one file that asks for nothing else, and shows all that was measured."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO, StringIO
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fewstep.console import progress_bar
from fewstep.errors import UserError
from fewstep.evaluation.comparison import Comparison
from fewstep.evaluation.intervals import Interval
from fewstep.evaluation.labels import shown
from fewstep.evaluation.report.headline import headline, lead, match
from fewstep.evaluation.report.plots import (
    LOOKS,
    against_cost,
    losses,
    losses_by_noise,
    smooth,
)
from fewstep.evaluation.report.runs import TrainingRun
from fewstep.evaluation.report.write import report
from fewstep.evaluation.results import Results, Row
from fewstep.evaluation.terminal import summary
from fewstep.images import grid, png
from fewstep.methods import METHODS

VOID = {"meta", "img", "br", "link", "path", "use", "rect", "stop"}


def row(method: str, steps: int, calls: int, seed: int | None, accuracy: float, seconds: float):
    metrics = {
        "prompt_accuracy": Interval(accuracy, accuracy - 0.02, accuracy + 0.02, 2000),
        "prompt_accuracy.shape": Interval(0.9, 0.88, 0.92, 1800),
        "frechet": Interval(3 - accuracy, 2.0, 3.5, 2000),
        "seconds_per_image": Interval(seconds, seconds, seconds, 64),
    }
    return Row(f"runs/{method}", method, steps, calls, seed, metrics)


ROWS = (
    row("teacher", 50, 100, None, 0.7213, 1.0),
    row("teacher", 4, 8, None, 0.5021, 0.1),
    row("ct", 4, 4, 0, 0.4711, 0.05),
    row("multi-boundary-cd", 4, 4, 0, 0.6111, 0.05),
    row("multi-boundary-cd", 4, 4, 1, 0.6311, 0.05),
    row("multi-boundary-cd", 4, 4, None, 0.6932, 0.05),
)
RESULTS = Results("bundled", "fewstep evaluate <runs>", "abc123", "Some CPU, 2 cores", ROWS)
PROMPTS = ['a <script>alert("x")</script> red heart', "two big stars & a moon"]


class Page(HTMLParser):
    """Collects what a page refers to, its words, and tags that are not closed in their order."""

    def __init__(self, text: str):
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.words, self.open = "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        wanted = ("src", "href", "xlink:href", "srcset", "action", "poster")
        self.references += [value for name, value in attrs if name in wanted]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "mb-cd")


def make_run(folder):
    folder.mkdir()
    (folder / "config.toml").write_text('[method]\nname = "multi-boundary-cd"\n')
    quarters = [0.1, None, 0.3, 0.4]
    lines = [json.dumps({"step": s, "loss": 1 / s, "loss_by_noise": quarters})
             for s in [*range(1, 40), 30]]  # fmt: skip
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4')
    return folder


def noise():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)


def make_report(folder):
    """Write a report of two students with images and a run, and return its path."""
    comparison = Comparison(PROMPTS, {"Teacher, 50 steps": noise(), "CT, 4 steps": noise()})
    run = folder / "run"
    if not run.exists():
        make_run(run)
    return report(RESULTS, comparison, [run], folder / "out" / "report.html")


@pytest.fixture(scope="module")
def images():
    return noise()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return make_report(tmp_path_factory.mktemp("report")).read_text("utf-8")


def test_the_page_is_well_formed_and_refers_to_nothing_outside_of_itself(text):
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(
        reference.startswith(("data:image/png;base64,", "#")) for reference in page.references
    )
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", text)


def test_prompts_and_commands_are_escaped(text):
    assert "<script" not in text
    assert PROMPTS[0] in Page(text).words
    assert "fewstep evaluate <runs>" in Page(text).words


def test_every_row_is_shown_with_its_interval(text):
    words = Page(text).words
    for entry in ROWS:
        accuracy = entry.metrics["prompt_accuracy"]
        assert shown("prompt_accuracy", accuracy.value) in words
        assert f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}%" in words
    assert "n = 2,000" in words
    assert "seed 1" in words


def test_the_headline_compares_the_best_student_with_its_teacher():
    found = match(ROWS)
    assert found
    assert headline(found) == "4 network evaluations instead of 100"
    assert lead(found) == (
        "Multi-boundary CD at 4 steps makes an image 20.0 times as fast as the teacher at 50. "
        "69.3% of its images show everything that their prompt says, against 72.1% of the "
        "teacher’s."
    )


def test_a_report_without_students_images_or_runs_is_still_a_page(tmp_path):
    alone = Results("bundled", "c", "d", "m", ROWS[:1])
    assert Page(report(alone, None, [], tmp_path / "r.html").read_text("utf-8")).open == []


def test_what_was_not_measured_stands_there_with_the_way_to_get_it(tmp_path):
    lacking = replace(RESULTS, unavailable={"fid": "needs weights.pth in a folder: fetch it"})
    page = Page(report(lacking, None, [], tmp_path / "r.html").read_text("utf-8"))
    assert "Not measured" in page.words
    assert "Needs weights.pth in a folder: fetch it" in page.words


def test_all_ids_that_plots_refer_to_are_there_once(text):
    ids = re.findall(r' id="([^"]+)"', text)
    referred = re.findall(r'(?:url\(|href=")#([^")]+)', text)
    assert set(referred) <= set(ids)
    assert len(ids) == len(set(ids))


def test_a_plot_takes_its_ink_from_the_page_and_is_the_same_every_time():
    svg = against_cost(ROWS, "prompt_accuracy")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "currentColor" in svg
    assert svg == against_cost(ROWS, "prompt_accuracy")
    assert against_cost(ROWS, "nothing_of_the_kind") == ""
    assert "seconds an image" in against_cost(ROWS, "prompt_accuracy", by_time=True)


def test_smoothing_keeps_a_constant_and_an_exponential():
    decay = np.exp(-np.arange(200) / 9)
    np.testing.assert_allclose(smooth([3.0] * 200), 3.0)
    np.testing.assert_allclose(smooth(decay)[4:-4], decay[4:-4])


def test_a_run_counts_each_step_once_and_leaves_the_unfinished_line(run):
    found = TrainingRun.read(run)
    assert found.steps == tuple(range(1, 40))
    assert found.title == "Multi-boundary CD"
    assert losses([found])
    assert [len(curve) for curve in found.by_noise] == [39, 0, 39, 39]
    assert found.by_noise[3][0] == (1, 0.4)
    assert "most noise" in losses_by_noise(found)
    assert losses_by_noise(replace(found, by_noise=((), (), (), ()))) == ""


def test_a_folder_that_is_no_run_or_is_damaged_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"no config\.toml"):
        TrainingRun.read(tmp_path)
    (run / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="line 1 is damaged"):
        TrainingRun.read(run)
    for spoilt, words in (
        (b'method = "cd"', "method is 'cd'; it has to be a table"),
        (b"[method", "config.toml is not TOML"),
        (b"\xff", "config.toml is not UTF-8"),
    ):
        (run / "config.toml").write_bytes(spoilt)
        with pytest.raises(UserError, match=words):
            TrainingRun.read(run)


def test_every_method_has_a_title_and_a_look():
    assert set(METHODS) | {"teacher"} == set(LOOKS)


def test_the_grid_holds_every_image_enlarged(images):
    flat = np.zeros((2, 64, 64, 3), np.uint8)
    flat[0], flat[1] = (255, 0, 0), (0, 0, 255)
    sheet = grid({"A, 4 steps": flat, "B": flat}, PROMPTS, side=128)
    colours = sheet.getcolors(1 << 20)
    assert colours
    count = {colour: n for n, colour in colours}
    assert count[255, 0, 0] == count[0, 0, 255] == 2 * 128 * 128
    assert Image.open(BytesIO(png(sheet))).size == sheet.size


def test_a_grid_with_a_missing_image_is_refused(images):
    with pytest.raises(ValueError, match="B: 1 images but 2 prompts"):
        grid({"A": images, "B": images[:1]}, PROMPTS)
    with pytest.raises(ValueError, match="uint8"):
        Comparison(PROMPTS, {"A": images / 255})


def test_a_narrow_terminal_shows_fewer_columns_whole():
    console = Console(width=80, record=True, file=StringIO())
    console.print(summary(RESULTS, console.width))
    text = console.export_text()
    assert "Multi-boundary CD" in text
    assert "67.3 to 71.3%" in text
    assert "…" not in text


def test_a_narrow_terminal_shows_counts_and_times_whole():
    bar = progress_bar()
    long = "words that are longer than any line of this terminal, whatever they are about"
    for what, note in (("training cd", "loss 0.0062  21 img/s"), ("training", long), (long, long)):
        bar.update(bar.add_task(what, total=12000, note=note), completed=4500)
    console = Console(width=80, record=True, file=StringIO())
    console.print(bar.make_tasks_table(bar.tasks))
    lines = console.export_text().splitlines()
    assert len(lines) == 3
    assert all("4500/12000 0:00:00 left -:--:-- " in line for line in lines)
    assert "loss 0.0062  21 img/s" in lines[0]


def test_the_terminal_shows_pooled_rows_and_their_intervals():
    console = Console(width=140, record=True, file=StringIO())
    console.print(summary(RESULTS))
    text = console.export_text()
    assert "69.3%" in text
    assert "67.3 to 71.3%" in text
    assert "61.1%" not in text


def test_three_images_have_no_interval_in_the_terminal_or_the_report(tmp_path):
    metrics = {"frechet": Interval(5.17, 5.17, 5.17, 3), "fid": Interval(2.5, 2.4, 2.6, 3)}
    rows = tuple(replace(one, metrics=metrics) for one in ROWS[:3])
    few = replace(RESULTS, rows=rows)
    console = Console(width=140, record=True, file=StringIO())
    console.print(summary(few))
    page = report(few, None, [], tmp_path / "few.html").read_text("utf-8")
    for text in (console.export_text(), Page(page).words):
        assert "5.17" in text
        assert " to 5.17" not in text
        assert " to 2.6" not in text


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("prompt_accuracy_difference", -0.0304, "−3.0 pts"),
        ("prompt_accuracy_difference", 0.02, "+2.0 pts"),
        ("prompt_accuracy_difference", -0.00001, "0.0 pts"),
        ("prompt_accuracy.count", 0.5, "50.0%"),
        ("seconds_per_image", 0.01654, "0.0165"),
        ("unheard_of", 1e-7, "1e-07"),
    ],
)
def test_numbers_are_written_as_their_metric_is(name, number, words):
    assert shown(name, number) == words
