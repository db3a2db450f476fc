"""A run that the memory does not suffice for is refused before it starts, or explained."""

from dataclasses import replace

import pytest
import torch
from huggingface_hub import constants

from fewstep.config import AdapterSettings, DataSettings, FakeSettings
from fewstep.console import finish
from fewstep.errors import UserError, is_out_of_memory
from fewstep.models.adapters import usable_ranks
from fewstep.training import memory
from fewstep.training.changes import changed_by, lighter
from fewstep.training.distill import distill_run
from fewstep.training.gpus import Gpu
from fewstep.training.memory import Room, advice, check_memory, is_surely_small
from fewstep.training.plan import Needs, skeleton
from fewstep.training.prepare import prepare_data
from fewstep.training.step_cost import StepCost
from tests.tiny import tiny_config

GIB = 2**30


def counted(asked, on_cpu=False):
    """Stand for the count of a network of 10 GiB: 1 a sample of the batch, and 1/8 a rank."""
    train, rank = asked.train, asked.adapter.rank if asked.adapter else 0
    by_rank, saved = rank * GIB // 8, {"none": 1, "selective": 2, "full": 4}[train.checkpointing]
    moving = train.batch_size * GIB // saved
    weights = {"none": 10, "int8": 5, "nf4": 3}[asked.model.quantize] * GIB
    moments = by_rank // (8 if train.optimizer == "adamw8bit" else 2)
    adapters = by_rank // (8 if train.ema_precision == "bf16" else 4)
    cost = StepCost(1, 1, 0, weights, adapters, moments, by_rank // 4, moving, moving)
    peaks = {"a training step": cost.bytes + cost.gradients, "encoding the data": 2 * GIB}
    return Needs("fp16", on_cpu, 1, 1, 0, cost, peaks, main_bytes=5 * GIB)


@pytest.fixture
def count(monkeypatch):
    monkeypatch.setattr(memory, "needs", counted)
    return counted


def of_rank(rank, **train):
    return replace(tiny_config(**train), adapter=AdapterSettings(rank=rank))


SMALLEST = "it does with train.checkpointing = full, train.batch_size = 1, train.accumulate = 8"
LIGHTEST = "train.optimizer = adamw8bit, train.ema_precision = bf16, model.quantize = nf4"


@pytest.mark.parametrize(
    ("rank", "batch", "room", "told"),
    [
        (64, 8, 26, "fits a card"),
        (64, 8, 22, "it does with train.checkpointing = selective"),
        (64, 8, 19, "it does with train.checkpointing = full, train.batch_size = 4, "
                    "train.accumulate = 2"),
        (64, 8, 17, "it does with train.checkpointing = full, train.optimizer = adamw8bit"),
        (64, 8, 14.25, f"{SMALLEST}, train.optimizer = adamw8bit, train.ema_precision = bf16"),
        (64, 8, 13, "it does with train.checkpointing = selective, train.optimizer = adamw8bit, "
                    "train.ema_precision = bf16, model.quantize = int8"),
        (128, 2, 12, f"it does with train.checkpointing = selective, {LIGHTEST}"),
        (512, 1, 13, "it does with adapter.rank = 16"),
        (64, 8, 6, f"{SMALLEST}, {LIGHTEST}, adapter.rank = 32"),
        (64, 8, 3.1, "whatever its batch and rank: lower data.resolution, or use a smaller model "
                     "or more memory"),
    ],
)  # fmt: skip
def test_the_cheapest_change_that_fits_is_named_and_a_lower_rank_is_the_last(
    count, rank, batch, room, told
):
    config = of_rank(rank, batch_size=batch)
    assert advice(config, counted(config), Room("a card", room * GIB)).endswith(told)


def test_a_change_that_is_advised_fits_by_the_plan():
    config = replace(tiny_config(batch_size=1), adapter=AdapterSettings(rank=16))
    whole = memory.needs(config, on_cpu=False)
    for share, last in ((0.8, "model.quantize"), (0.6, "adapter.rank")):
        room = Room("a card", share * whole.cost.standing)
        changed = memory.change_that_fits(config, room)
        assert changed is not None
        assert last in changed
        assert room.fits(memory.needs(changed_by(config, changed), on_cpu=False))


def test_a_run_that_does_not_fit_main_memory_is_refused_with_what_lowers_it(count, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: int(16.5 * GIB))
    monkeypatch.setattr(memory, "is_surely_small", lambda config, room: False)
    with pytest.raises(UserError) as refused:
        check_memory(of_rank(32, batch_size=8), "cpu")
    assert str(refused.value) == (
        "a training step takes 22.00 GiB, which does not fit this machine's main memory, of which "
        "16.50 GiB are free; it does with train.checkpointing = full; --force tries it as it is"
    )


def test_processes_of_one_machine_share_its_memory(count, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 40 * GIB)
    monkeypatch.setattr(memory, "is_surely_small", lambda config, room: False)
    check_memory(of_rank(8, batch_size=8), "cpu")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "4")
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(UserError, match=r"10\.00 GiB are free for each of 4 processes"):
        check_memory(of_rank(8, batch_size=8), "cpu")


def test_a_gpu_needs_main_memory_beside_it(count, monkeypatch):
    room = Room("the small card", 100 * GIB)
    monkeypatch.setattr(
        Room, "here", lambda device: Room("here", 4 * GIB) if device == "cpu" else room
    )
    monkeypatch.setattr(memory, "is_surely_small", lambda config, room: False)
    with pytest.raises(UserError, match=r"5\.00 GiB of main memory beside the GPU"):
        check_memory(of_rank(8), "cuda")


def test_distill_and_prepare_refuse_before_anything_is_loaded_and_force_tries(
    monkeypatch, tmp_path
):
    def loaded(*args):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(memory, "available_memory", lambda: 400_000)
    config = tiny_config(steps=1)
    with monkeypatch.context() as patch:
        for module in ("setup", "prepare"):
            patch.setattr(f"fewstep.training.{module}.load_family", loaded)
        with pytest.raises(
            UserError, match=r"takes .* MiB.* 390\.62 KiB are free.*--force tries it"
        ):
            distill_run(config, tmp_path / "run")
        with pytest.raises(UserError, match=r"takes .* MiB.*lower data\.resolution.*--force"):
            finish(prepare_data(config, tmp_path / "run"))
        assert not (tmp_path / "run").exists()
    assert distill_run(config, tmp_path / "run", force=True) == 1


def test_a_batch_of_more_than_all_pairs_is_refused_before_the_memory_is_looked_at(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(memory, "available_memory", lambda: 400_000)
    config = tiny_config(batch_size=1024, accumulate=2)
    for force in (False, True):
        with pytest.raises(UserError, match=r"^a step takes 2048 samples .* has 12 pairs: lower"):
            distill_run(config, tmp_path / "run", force=force)


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("path", "imagez", r"data\.path is 'imagez', which is no folder"),
        ("path", "none.txt", r"data\.path is 'none\.txt', which is no folder"),
        ("path", "{000..002}.tar", r"3 of 3 shards are missing"),
        ("path", "owner/none", r"data\.path = 'owner/none': it is no folder or file here"),
        ("init", "none", r"train\.init is 'none', no finished student: there is no file"),
        ("init", ".", r"train\.init is '\.', no finished student: .*fewstep\.json is missing"),
    ],
)
def test_a_mistyped_path_is_named_before_the_memory_is_looked_at(
    monkeypatch, tmp_path, setting, value, told
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(memory, "available_memory", lambda: 400_000)
    if setting == "init":
        commands, config = (distill_run,), tiny_config(init=value)
    else:
        config = replace(tiny_config(), data=DataSettings(path=value))
        commands = distill_run, lambda *of: finish(prepare_data(*of))
    for command in commands:
        with pytest.raises(UserError, match=told):
            command(config, tmp_path / "run")


def test_what_is_surely_small_is_not_counted(monkeypatch, tmp_path):
    config = tiny_config()
    assert is_surely_small(config, Room("here", 2 * GIB))
    assert not is_surely_small(config, Room("here", 2**20)), "its weights are as large"
    hub = replace(config, model=replace(config.model, base="owner/name"))
    assert not is_surely_small(hub, Room("here", 2**50)), "its size is not known here"
    huge = tiny_config(batch_size=10**6)
    assert not is_surely_small(huge, Room("here", 2 * GIB))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to "
                     "allocate 40 bytes. Error code 12 (Cannot allocate memory)"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_memory_that_ends_in_a_step_is_told_with_what_lowers_it(monkeypatch, tmp_path, error):
    from fewstep.training import distill as training

    run, steps = tmp_path / "run", training.steps_of

    def full(*args):
        for result in steps(*args):
            yield result
            if result.step == 3:
                raise error

    with monkeypatch.context() as patch:
        patch.setattr(training, "steps_of", full)
        patch.setattr(memory, "advice", lambda *args: "does not fit a card; it does with less")
        with pytest.raises(UserError, match="it does with less") as told:
            distill_run(tiny_config(), run)
    assert f"{run / 'checkpoints' / '00000002'} is whole" in str(told.value)
    assert distill_run(tiny_config(), run) == 6


def test_other_errors_are_no_lack_of_memory():
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(OSError(28, "No space left on device"))


def test_torch_says_that_main_memory_is_full_as_is_known_here():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)


def test_a_rank_above_what_a_layer_can_use_is_refused_with_the_reason():
    for settings in (
        {"adapter": AdapterSettings(rank=100_000)},
        {"adapter": AdapterSettings(rank=2), "fake": FakeSettings(rank=100_000)},
    ):
        config = replace(tiny_config("trajectory-matching"), **settings)
        name = "fake.rank" if "fake" in settings else "adapter.rank"
        with pytest.raises(UserError, match=f"{name} is 100000.*more than 32 inputs or outputs"):
            skeleton(config, on_cpu=False)


def test_the_highest_rank_that_is_of_use_is_that_of_the_update():
    torch.manual_seed(0)
    change = torch.randn(7, 9) @ torch.randn(9, 5)
    assert torch.linalg.matrix_rank(change) == 5
    network = torch.nn.ModuleDict({"to_q": torch.nn.Linear(5, 7), "out": torch.nn.Linear(2, 2)})
    assert usable_ranks(network, ("to_q",)) == [5]


def test_a_gpu_is_explained_by_its_whole_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "this_gpu", lambda device: Gpu("small card", 1.0, 0, 0))
    config = tiny_config()
    with (
        pytest.raises(UserError, match=r"does not fit a small card, whatever its batch and rank"),
        memory.explained_memory(config, tmp_path, "cuda"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_without_an_adapter_or_an_average_there_are_fewer_bits_to_save():
    full = replace(tiny_config(), adapter=None)
    assert lighter(full) == [{}, {"train.optimizer": "adamw8bit"}]
    settings = [setting for changes in lighter(tiny_config(ema=0.0)) for setting in changes]
    assert "train.ema_precision" not in settings
    done = tiny_config(optimizer="adamw8bit", ema_precision="bf16")
    done = replace(done, model=replace(done.model, quantize="int8"))
    assert lighter(done) == [{}, {"model.quantize": "nf4"}]
