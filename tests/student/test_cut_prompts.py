"""A prompt that loses its end is said wherever it is sampled, with what is lost."""

import warnings
from dataclasses import replace

import pytest

from fewstep.__main__ import run_command
from fewstep.cli import app
from fewstep.errors import PromptWarning
from fewstep.evaluation.compare import compare_sources
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.sample import SampleOptions, generate
from fewstep.training.distill import distill_run
from tests.tiny import tiny_config, tiny_pipeline

LONG = "a red heart above a blue star " * 3 + "on a dark night"
LOST = r"^'a red .* has 29 tokens, more than the 22 that .* and loses 'a dark night'"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    config = tiny_config("ct", steps=1)  # it takes negative prompts
    distill_run(replace(config, data=replace(config.data, caption_dropout=0.5)), folder)
    return folder


def test_the_pipeline_warns_of_a_prompt_and_of_a_negative_prompt(run):
    pipeline = FewStepPipeline.from_pretrained(run)
    with pytest.warns(PromptWarning, match=LOST) as found:
        pipeline(LONG, num_images_per_prompt=3)
    assert [warning.filename for warning in found] == [__file__], "it points at the caller"
    with pytest.warns(PromptWarning, match="1 of 2 prompts is cut"):
        pipeline("a star", negative_prompt=LONG, guidance_scale=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline("a red heart")


def test_a_plain_model_is_warned_of_too():
    with pytest.warns(PromptWarning, match=LOST):
        generate(str(tiny_pipeline()), [LONG], SampleOptions(num_steps=1))


def test_comparing_warns_of_a_prompt_once_a_model(run, tmp_path):
    with pytest.warns(PromptWarning, match=r"1 of 2 prompts is cut: .* has 29 tokens"):
        compare_sources([str(run)], [LONG, "a star"], None, 0, tmp_path)


def test_the_command_prints_it_as_a_sentence(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    arguments = ["sample", str(run), LONG, "-o", str(tmp_path / "out.png")]
    with warnings.catch_warnings():
        run_command(lambda: app(arguments, standalone_mode=False))
    error = capsys.readouterr().err
    assert error.startswith("fewstep: 'a red heart above a blue star")
    assert "'a dark night'; shorten it, or train a student with model.long_prompts" in error
    assert "Warning" not in error
