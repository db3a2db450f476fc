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
PROBE = """<script>addEventListener("load", () => { document.title = JSON.stringify({
  width: innerWidth, needed: document.documentElement.scrollWidth,
  broken: [...document.images].filter(i => !i.naturalWidth).length,
  pictures: document.images.length, plots: document.querySelectorAll("figure svg").length,
  paper: getComputedStyle(document.body).backgroundColor }); });</script></body>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed"),
]


def opened(folder, width, dark):
    """Open the report in a window of this width, and return what the page says of itself."""
    page = folder / "probed.html"
    page.write_text(make_report(folder).read_text("utf-8").replace("</body>", PROBE), "utf-8")
    told = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900",
         f"--blink-settings=preferredColorScheme={0 if dark else 1}", page.as_uri()],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", told.stdout, re.DOTALL)
    assert title, told.stderr
    return json.loads(unescape(title[1]))


@pytest.mark.parametrize("width", [500, 1400])
def test_the_page_fits_its_window_and_shows_every_picture_and_plot(width, tmp_path):
    page = opened(tmp_path, width, dark=False)
    assert page["needed"] <= page["width"] <= width
    assert page["broken"] == 0
    assert page["pictures"] == 4
    assert page["plots"] >= 5


def test_the_page_is_dark_where_the_reader_wants_it(tmp_path):
    light, dark = (opened(tmp_path, 800, dark)["paper"] for dark in (False, True))
    assert sum(map(int, re.findall(r"\d+", light))) > 600
    assert sum(map(int, re.findall(r"\d+", dark))) < 150
