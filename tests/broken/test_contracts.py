"""Broken contracts and files of a run: each is refused by its file, and none of them is changed."""

import pytest

from fewstep.config import load_config
from fewstep.student.contract import CONTRACT_FILE
from fewstep.student.load import read_contract
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.unfinished import RUN_CONTRACT, read_checkpoint
from fewstep.training.run_dir import claim_settings
from tests.artefacts import tiny_contract
from tests.broken.checks import files_in, refused
from tests.tiny import tiny_config


def with_entry(old: str, new: str):
    def changed(text: str) -> bytes:
        assert old in text
        return text.replace(old, new, 1).encode()

    return changed


VERSION, RANK = '"format_version": 2', '"rank": 2'
CONTRACTS = {
    "nothing": lambda text: b"",
    "blank": lambda text: b"\n",
    "half of one": lambda text: text[: len(text) // 2].encode(),
    "without its last brace": lambda text: text.rstrip()[:-1].encode(),
    "two of them": lambda text: (text + text).encode(),
    "not UTF-8": lambda text: b"\xff\xfe" + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "a pickle's first bytes": lambda text: b"\x80\x04\x95",
    "text in quotes": lambda text: b'"fewstep"',
    "lists in lists": lambda text: b"[" * 100_000,
    "a version of 5000 digits": with_entry(VERSION, '"format_version": ' + "9" * 5000),
    "a version in quotes": with_entry(VERSION, '"format_version": "2"'),
    "a version that is a list": with_entry(VERSION, '"format_version": [2]'),
    "a version that is true": with_entry(VERSION, '"format_version": true'),
    "a version below all": with_entry(VERSION, '"format_version": 0'),
    "an entry nested too deep": with_entry(RANK, f'"rank": {"[" * 600}{"]" * 600}'),
    "a guidance that is NaN": with_entry('"guidance_scale": 4.0', '"guidance_scale": NaN'),
    "a guidance that is infinite": with_entry('"guidance_scale": 4.0', '"guidance_scale": 1e999'),
    "a rank in words": with_entry(RANK, '"rank": "two"'),
}


@pytest.mark.parametrize("case", CONTRACTS)
def test_a_broken_contract_is_refused_wherever_it_is_read(tmp_path, case):
    (tmp_path / CONTRACT_FILE).write_bytes(CONTRACTS[case](tiny_contract().to_json()))
    before = files_in(tmp_path)
    refused(lambda: read_contract(tmp_path), CONTRACT_FILE)
    refused(lambda: FewStepPipeline.from_pretrained(tmp_path), CONTRACT_FILE)
    assert files_in(tmp_path) == before


def a_run(folder):
    """Write the files of a run that is not finished, with a checkpoint that holds nothing."""
    claim_settings(tiny_config(), folder)
    (folder / RUN_CONTRACT).write_text(tiny_contract().to_json())
    (last := folder / "checkpoints" / "00000003").mkdir(parents=True)
    (last / "state.json").write_text('{"step": 3}')
    return folder


WEIGHTS = {
    "nothing": b"",
    "text": b"this is no file of weights, whatever its name says\n",
    "a header that claims an exabyte": (2**60).to_bytes(8, "little") + b"{}",
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_a_checkpoint_with_broken_weights_is_refused(tmp_path, case):
    run = a_run(tmp_path)
    (run / "checkpoints" / "00000003" / "averaged.safetensors").write_bytes(WEIGHTS[case])
    before = files_in(run)
    refused(lambda: read_checkpoint(run), "00000003 is damaged", "delete this folder")
    assert files_in(run) == before


def test_a_checkpoint_without_weights_is_refused(tmp_path):
    refused(lambda: read_checkpoint(a_run(tmp_path)), "00000003 is damaged")


@pytest.mark.parametrize("text", [b"", b"[method", b"\xff\xfe", b'[method]\nname = "none"\n'])
def test_a_run_whose_settings_are_broken_is_refused_and_kept(tmp_path, text):
    (a_run(tmp_path) / "config.toml").write_bytes(text)
    before = files_in(tmp_path)
    refused(lambda: claim_settings(tiny_config(), tmp_path))
    assert files_in(tmp_path) == before


def test_the_whole_files_of_a_run_are_read(tmp_path):
    run = a_run(tmp_path)
    assert load_config(run / "config.toml") == tiny_config()
    assert read_contract(run, RUN_CONTRACT) == tiny_contract()
