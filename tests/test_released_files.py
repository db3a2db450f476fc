"""Files of every format are read by today's code: a run, its cache, its artefacts.

Release 0.1.0 wrote contracts of format 1; those after it are of format 2.
"""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fewstep.config import load_config
from fewstep.student.contract import LORA_FILE, READ_VERSIONS, Contract
from fewstep.student.pipeline import FewStepPipeline
from fewstep.training.distill import distill_run

FIXTURES = Path(__file__).parent / "fixtures"
RELEASED = FIXTURES / "release-0.1.0"
FORMATS = {1: RELEASED, 2: FIXTURES / "format-2"}
ARTEFACTS = [
    pytest.param(version, folder / artefact, id=f"{version}-{artefact}")
    for version, folder in FORMATS.items()
    for artefact in ("cd/artefact", "multi-boundary-artefact")
]


def copied(release, folder):
    """Return a copy of a release's run and its cache, which may be written to."""
    return Path(shutil.copytree(release, folder, dirs_exist_ok=True))


@pytest.fixture
def released(tmp_path):
    return copied(RELEASED, tmp_path)


def test_there_is_a_fixture_of_every_format():
    assert tuple(FORMATS) == READ_VERSIONS


@pytest.mark.parametrize("version", FORMATS)
def test_a_released_run_continues_from_its_checkpoint_and_its_cache(version, tmp_path):
    """Stopped after 2 of 4 steps, it ends with the weights that the release itself ended with."""
    released = copied(FORMATS[version], tmp_path)
    run, cache = released / "cd", released / "cache"
    encoded = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    assert distill_run(load_config(run / "config.toml"), run) == 4
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()]
    assert steps == [1, 2, 3, 4]
    assert encoded == {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    ours = load_file(run / "artefact" / LORA_FILE)
    theirs = load_file(FORMATS[version] / "cd" / "artefact" / LORA_FILE)
    assert ours.keys() == theirs.keys()
    for name, weights in ours.items():  # another processor rounds otherwise
        torch.testing.assert_close(weights, theirs[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("version", "artefact"), ARTEFACTS)
def test_a_released_contract_is_written_again_as_it_was_in_todays_version(version, artefact):
    text = (artefact / "fewstep.json").read_text(encoding="utf-8")
    released, ours = json.loads(text), json.loads(Contract.from_json(text).to_json())
    assert (released.pop("format_version"), ours.pop("format_version")) == (version, 2)
    assert (released.pop("seal") == ours.pop("seal")) == (version == 2)
    assert released == ours


@pytest.mark.parametrize(("version", "artefact"), ARTEFACTS)
def test_a_released_artefact_samples(version, artefact):
    (sampled,) = FewStepPipeline.from_pretrained(artefact)("a red heart", seed=version)
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
