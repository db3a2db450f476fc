"""The colours of plots, as people with and without colour vision see them."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import fewstep
from fewstep.colours import SIX
from fewstep.evaluation.report.plots import LOOKS, OTHER

TEMPLATE = Path(fewstep.__file__).parent / "evaluation" / "report" / "report.html.jinja"
VISIONS = {
    "all cones": np.eye(3),
    "no long ones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                     [-0.003882, -0.048116, 1.051998]],
    "no middle ones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                       [-0.011820, 0.042940, 0.968881]],
    "no short ones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                      [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
"""Linear RGB to what is seen. Source: Machado, Oliveira & Fernandes 2009, severity 1."""

XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour):
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE 1976 L*a*b*, whose distances are about those that people see."""
    ratios = XYZ @ np.clip(rgb, 0, 1) / XYZ.sum(1)
    x, y, z = np.where(ratios > 216 / 24389, np.cbrt(ratios), (24389 / 27 * ratios + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(*colours):
    """Source: WCAG 2.2, contrast ratio."""
    low, high = sorted(float(XYZ[1] @ linear(colour)) + 0.05 for colour in colours)
    return high / low


def test_the_formulas_give_known_values():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert lab(linear("#ff0000")) == pytest.approx([53.2, 80.1, 67.2], abs=0.1)


@pytest.mark.parametrize("vision", VISIONS)
def test_each_two_colours_are_told_apart(vision):
    seen = [lab(VISIONS[vision] @ linear(colour)) for colour in SIX]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 25


def test_each_colour_stands_out_from_the_light_and_from_the_dark_paper():
    papers = re.findall(r"--paper: (#\w{6})", TEMPLATE.read_text(encoding="utf-8"))
    assert len(papers) == 2
    assert min(contrast(colour, paper) for colour in SIX for paper in papers) > 3


def test_each_method_has_a_colour_and_a_marker_of_its_own():
    looks = [*LOOKS.values(), OTHER]
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == 7
    assert {colour for colour, _ in looks} >= set(SIX)
