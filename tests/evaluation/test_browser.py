"""The report in a real browser: nothing missing, nothing too wide, dark where it is wanted."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from tests.evaluation.test_report import make_report

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
     if (found := shutil.which(name))), None,
)  # fmt: skip
PROBE = """<script>addEventListener("load", () => parent.postMessage(JSON.stringify({
  width: innerWidth, needed: document.documentElement.scrollWidth,
  broken: [...document.images].filter(i => !i.naturalWidth).length,
  images: document.images.length, plots: document.querySelectorAll("figure svg").length,
  paper: getComputedStyle(document.body).backgroundColor }), "*"));</script></body>"""
FRAME = """<!doctype html><script>onmessage = message => document.title = message.data;</script>
<iframe src="probed.html" style="border: 0; width: {width}px; height: 900px"></iframe>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed"),
]


def opened(folder, width, dark=False):
    """Open the report in a frame of this width, and return what the page reports."""
    text = make_report(folder).read_text("utf-8").replace("</body>", PROBE)
    (folder / "probed.html").write_text(text, "utf-8")
    (folder / "frame.html").write_text(FRAME.format(width=width), "utf-8")
    finished = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1000",
         "--virtual-time-budget=10000", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
         (folder / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", finished.stdout, re.DOTALL)
    assert title, finished.stderr
    return json.loads(unescape(title[1]))


@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_fits_its_window_and_shows_every_image_and_plot(width, tmp_path):
    page = opened(tmp_path, width)
    assert page["needed"] <= page["width"] == width
    assert page["broken"] == 0
    assert page["images"] == 4
    assert page["plots"] >= 5


def test_the_page_is_dark_where_the_reader_wants_it(tmp_path):
    light, dark = (opened(tmp_path, 800, dark)["paper"] for dark in (False, True))
    assert sum(map(int, re.findall(r"\d+", light))) > 600
    assert sum(map(int, re.findall(r"\d+", dark))) < 150
