"""The page by the clock: what the benchmark counts, and what its committed figures have to hold."""

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio_client")  # of the extra `ui`, which old versions are tested without

from benchmarks import page

RESULTS = page.ROOT / "benchmarks" / "results" / "page.json"


def answering(html):
    job = SimpleNamespace(result=lambda timeout: (html, 3, ()))
    return SimpleNamespace(submit=lambda *given, api_name: job)


def test_only_an_image_of_the_own_seed_by_each_model_is_an_answer():
    gate = SimpleNamespace(wait=lambda timeout: None)
    image = "<figure><figcaption>4 NFE · 0.1 s · seed 3\n</figcaption></figure>"
    assert page.told(answering(image * page.COLUMNS), 3, gate) == "answered"
    for wrong in (image * (page.COLUMNS - 1), image.replace("seed 3", "seed 31") * page.COLUMNS):
        with pytest.raises(ValueError, match="seed 3 got another answer"):
            page.told(answering(wrong), 3, gate)


@pytest.mark.slow
def test_visitors_alone_and_at_once_are_measured():
    result = page.measure(rounds=2, images=2, waves=1, crowd=3)
    first, last = result["seconds_to_first_image"], result["seconds_to_all_images"]
    assert 0 < first["value"] < last["value"]
    assert 0 < result["seconds_to_first_byte"]["value"] <= result["longest_to_first_byte"]
    assert [(wave["answered"], wave["busy"]) for wave in result["waves"]] == [(3, 0)] * 2
    assert all(wave["peak_mib"] > 100 for wave in result["waves"])


def test_the_committed_figures_hold_the_marks():
    result = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert result["longest_to_first_byte"] < 10
    assert result["longest_to_first_image"] < 2
    for wave in result["waves"]:
        assert wave["answered"] + wave["busy"] == result["at_once"] == 50
        assert wave["answered"] >= 25
    assert result["mib_grown_by_a_wave"]["value"] < 5
    assert result["waves"][-1]["mib"] < 1.1 * result["waves"][0]["mib"]
