"""Broken LoRA files, checkpoints and model folders are refused by their names, and never run."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from fewstep.models.extra_loras import add_loras
from fewstep.models.loading import load_model
from tests.artefacts import tiny_family
from tests.broken.checks import files_in, refused
from tests.tiny import save_tiny_pipeline

LAYER = "lora_unet_mid_block_resnets_0_conv1"


class Trap:
    """A pickle that makes a file where it is read."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self):
        return open, (str(self.flag), "w")


def safetensors(header: object, data: bytes = b"") -> bytes:
    """Return a file with this header, which may claim what is not there."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: list, end: int, kind: str = "F32", begin: int = 0) -> dict:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


WHOLE = save({f"{LAYER}.lora_up.weight": torch.zeros(4, 2)})
FILES = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "zeros": bytes(64),
    "text": b"this is no file of weights, whatever its name says\n",
    "HTML": b"<!doctype html><title>Sign in</title>" * 5,
    "a pointer of git-LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "half of one": WHOLE[: len(WHOLE) // 2],
    "without its last byte": WHOLE[:-1],
    "a byte too many": WHOLE + b"\0",
    "a header that claims an exabyte": (2**60).to_bytes(8, "little") + b"{}",
    "a header that claims more than is there": (1000).to_bytes(8, "little") + b"{}",
    "a header that is no JSON": safetensors(b"{'a': 1}"),
    "a header that is a list": safetensors([]),
    "a header that is not UTF-8": safetensors(b"\xff\xfe{}"),
    "a tensor that claims a terabyte": safetensors({"a": entry([2**38], 2**40)}, bytes(8)),
    "a shape that is not its size": safetensors({"a": entry([4], 4)}, bytes(4)),
    "offsets that go backwards": safetensors({"a": entry([1], 0, begin=4)}, bytes(4)),
    "a type that is none": safetensors({"a": entry([1], 4, "F99")}, bytes(4)),
    "a negative shape": safetensors({"a": entry([-1], 4)}, bytes(4)),
    "metadata that are a list": safetensors({"__metadata__": [1], "a": entry([1], 4)}, bytes(4)),
    "no tensor": save({}),
    "tensors of something else": save({"weight": torch.zeros(2)}),
}


def added(path: Path) -> None:
    add_loras(tiny_family(), tiny_family().network, {str(path): 1.0})


@pytest.mark.parametrize("case", FILES)
def test_a_broken_lora_is_refused(tmp_path, case):
    (path := tmp_path / "ink.safetensors").write_bytes(FILES[case])
    refused(lambda: added(path), "ink.safetensors")


@pytest.mark.parametrize("case", FILES)
def test_a_broken_checkpoint_file_is_refused(tmp_path, case):
    (path := tmp_path / "model.safetensors").write_bytes(FILES[case])
    refused(lambda: load_model(path), "model.safetensors")


UP, DOWN = "lora_up.weight", "lora_down.weight"
SHAPES = {
    "an alpha of two numbers": {"alpha": torch.ones(2)},
    "an alpha that is empty": {"alpha": torch.ones(0)},
    "a factor without a rank": {UP: torch.zeros(()), DOWN: torch.ones(2)},
    "a rank of 0": {UP: torch.zeros(32, 0), DOWN: torch.zeros(0, 32, 3, 3)},
    "ranks that differ": {UP: torch.zeros(32, 2), DOWN: torch.zeros(3, 32, 3, 3)},
    "one factor": {DOWN: torch.zeros(2, 32, 3, 3)},
    "a third factor of another rank": {
        UP: torch.zeros(32, 2), DOWN: torch.zeros(2, 32, 1, 1),
        "lora_mid.weight": torch.zeros(5, 5, 3, 3),
    },
}  # fmt: skip


@pytest.mark.parametrize("case", SHAPES)
def test_a_lora_of_impossible_shapes_is_refused(tmp_path, case):
    tensors = {f"{LAYER}.{part}": value for part, value in SHAPES[case].items()}
    (path := tmp_path / "ink.safetensors").write_bytes(save(tensors))
    refused(lambda: added(path), "ink.safetensors")


@pytest.mark.parametrize("name", ["ink.pt", "ink.bin", "ink.ckpt", "ink.pth", "ink.txt", "ink"])
def test_a_lora_of_another_name_is_never_opened(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    refused(lambda: added(tmp_path / name), name, "not a .safetensors file")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["m.ckpt", "m.pt", "m.pth", "m.bin", "m.safetensors"])
@pytest.mark.parametrize("allowed", [False, True])
def test_a_pickle_that_would_run_code_is_never_run(tmp_path, name, allowed):
    (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    refused(lambda: load_model(tmp_path / name, allow_pickle=allowed), name)
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / name)
    refused(lambda: load_model(tmp_path / name, allow_pickle=allowed), name)
    assert not (tmp_path / "sprung").exists()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return save_tiny_pipeline(tmp_path_factory.mktemp("model") / "m")


CONFIGS = {
    "nothing": b"",
    "half of one": b'{"_class_name": "St',
    "a list": b"[]",
    "null": b"null",
    "not UTF-8": b"\xff\xfe\x00",
}
PARTS = ["model_index.json", "unet/config.json", "vae/config.json",
         "scheduler/scheduler_config.json", "text_encoder/config.json"]  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("case", CONFIGS)
def test_a_folder_with_a_broken_config_is_refused(pipeline, part, case):
    whole = (pipeline / part).read_bytes()
    (pipeline / part).write_bytes(CONFIGS[case])
    before = files_in(pipeline)
    try:
        refused(lambda: load_model(pipeline), str(pipeline))
    finally:
        (pipeline / part).write_bytes(whole)
    assert files_in(pipeline) == before | {part: whole}
