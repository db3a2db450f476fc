"""Files that release 0.1.0 wrote are read by today's code: a run, its cache, its artefacts."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fewstep.config import load_config
from fewstep.student.contract import LORA_FILE, Contract
from fewstep.student.pipeline import FewStepPipeline
from fewstep.training.distill import distill_run

RELEASED = Path(__file__).parent / "fixtures" / "release-0.1.0"
ARTEFACTS = [RELEASED / "cd" / "artefact", RELEASED / "multi-boundary-artefact"]


@pytest.fixture
def released(tmp_path):
    """A copy of the released run and its cache, which may be written to."""
    shutil.copytree(RELEASED, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_released_run_continues_from_its_checkpoint_and_its_cache(released):
    """Stopped after 2 of 4 steps, it ends with the weights that the release itself ended with."""
    run, cache = released / "cd", released / "cache"
    encoded = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    assert distill_run(load_config(run / "config.toml"), run) == 4
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()]
    assert steps == [1, 2, 3, 4]
    assert encoded == {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    ours = load_file(run / "artefact" / LORA_FILE)
    theirs = load_file(RELEASED / "cd" / "artefact" / LORA_FILE)
    assert ours.keys() == theirs.keys()
    for name, weights in ours.items():  # another processor rounds otherwise
        torch.testing.assert_close(weights, theirs[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("artefact", ARTEFACTS, ids=lambda path: path.parent.name)
def test_a_released_contract_is_written_again_as_it_was_in_todays_version(artefact):
    text = (artefact / "fewstep.json").read_text(encoding="utf-8")
    released, ours = json.loads(text), json.loads(Contract.from_json(text).to_json())
    assert (released.pop("format_version"), ours.pop("format_version")) == (1, 2)
    assert released.pop("seal") != ours.pop("seal")
    assert released == ours


@pytest.mark.parametrize("artefact", ARTEFACTS, ids=lambda path: path.parent.name)
def test_a_released_artefact_samples(artefact):
    (sampled,) = FewStepPipeline.from_pretrained(artefact)("a red heart", seed=1)
    assert sampled.image.size == (64, 64)


def test_a_config_of_the_first_release_may_say_pictures(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[method]\nname = "cd"\n[data]\npath = "a.json"\npictures = "photos"\n')
    assert load_config(path).data.images == "photos"


def test_a_run_of_older_libraries_continues(released):
    """transformers before 5.6 put `text_model.` before the names of a text encoder's weights."""
    run = released / "cd"
    codec_of_0_1_with_transformers_4_57 = json.dumps(
        {
            "codec": "aeb0da59112d7bf038936dec9703ac569cfca0c366c58ad2582291756e4011e9",
            "scaling_factor": 0.3205949068069458,
            "tokenizer": "b581a71ec059c8af239f61935fe06b9685debf33ac7852cc042c278ac9cdd312",
        }
    )
    (run / "codec.sha256").write_text(
        sha256(codec_of_0_1_with_transformers_4_57.encode()).hexdigest()
    )
    assert distill_run(load_config(run / "config.toml"), run) == 4
