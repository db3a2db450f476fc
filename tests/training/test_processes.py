"""Two processes are one with twice the batch; stopped or killed, they continue to the bit."""

import atexit
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from fewstep.__main__ import run_command
from fewstep.config import DataSettings, load_config, to_toml
from fewstep.console import finish
from fewstep.distributed import Processes
from fewstep.errors import Interrupted, SettingError
from fewstep.models.loading import load_model
from fewstep.training import distill
from fewstep.training.distill import distill_run, steps_of
from fewstep.training.loop import micro_batches
from fewstep.training.prepare import prepare_data
from fewstep.training.setup import open_dataset
from tests.data.samples import shards
from tests.tiny import tiny_config
from tests.together import run_together
from tests.training.test_distill import same, stop_after

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
              "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
              "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
"""On processors too: with --cpu it would start one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shards(tmp_path_factory.mktemp("data") / "shards", (5, 7))


def config_for(folder: Path, batch_size: int, processes: int, **data):
    settings = DataSettings(path=str(folder), resolution=64, flip=True, caption_dropout=0.2,
                            shuffle_buffer=4, **data)  # fmt: skip
    config = tiny_config(
        steps=4,
        batch_size=batch_size,
        accumulate=2,
        processes=processes,
        target="ema",
        learning_rate=1e-4,  # Adam makes much of rounding where a gradient is nearly 0
    )
    return replace(config, data=settings)


def state(run: Path) -> dict[str, torch.Tensor]:
    last = max((run / "checkpoints").iterdir())
    return {
        f"{name}/{key}": value
        for name in ("trained", "averaged", "optimizer")
        for key, value in load_file(last / f"{name}.safetensors").items()
    }


def close(one, other) -> None:
    """The same gradients and, but for a few, the same weights.

    Adam divides a gradient by its size: where it is 0 but for rounding, which depends on the batch
    size and the processor, the update is the learning rate with a random sign.
    """
    assert one.keys() == other.keys()
    mine, theirs = (torch.cat([v.flatten() for k, v in s.items() if "/exp_avg/" in k])
                    for s in (one, other))  # fmt: skip
    assert (mine - theirs).norm() < 1e-4 * mine.norm()
    weights = [name for name in one if not name.startswith("optimizer/")]
    apart = torch.cat([(one[name] - other[name]).abs().flatten() for name in weights])
    assert (apart < 1e-5).float().mean() > 0.99
    assert apart.max() < 4 * 1e-4, "four steps of the learning rate"


def two(config, run: Path, stop: int | None = None) -> list[int | None]:
    """Distil in two processes; stopped after a step, they leave with the signal's code."""
    return run_together(2, distilled, config, run, stop)


def distilled(rank: int, config, run: Path, last: int | None) -> None:
    try:
        stop_after(last, signal.SIGTERM, config, run)
    except Interrupted as stop:
        os._exit(stop.exit_code)


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory) -> Callable[[bool], Path]:
    """Runs of two processes, from the cache and from the stream."""

    @cache
    def run_of(streaming: bool) -> Path:
        run = tmp_path_factory.mktemp("runs") / "two"
        assert two(config_for(folder, 1, 2, streaming=streaming), run) == [0, 0]
        return run

    return run_of


@pytest.fixture(scope="module")
def together(uninterrupted) -> Path:
    return uninterrupted(False)


@pytest.mark.slow
def test_two_processes_reach_the_weights_of_one_with_the_same_batch(folder, together, tmp_path):
    assert load_config(together / "config.toml").train.processes == 2
    distill_run(config_for(folder, 2, 1), tmp_path / "one")
    close(state(together), state(tmp_path / "one"))
    moved = [v.abs().max() for k, v in state(together).items() if re.match(r"trained/.*lora_B", k)]
    assert max(moved) > 1e-4, "nothing was trained: the test is blind"
    logs = [
        [json.loads(line) for line in (run / "metrics.jsonl").open()]
        for run in (together, tmp_path / "one")
    ]
    assert [entry["step"] for entry in logs[0]] == [1, 2, 3, 4], "the first alone writes"
    for mine, theirs in zip(*logs, strict=True):
        for key in ("loss", "grad_norm"):
            assert mine[key] == pytest.approx(theirs[key], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("streaming", [False, True])
def test_stopped_and_resumed_two_processes_are_exact_to_the_bit(
    folder, uninterrupted, tmp_path, streaming, workers
):
    config = config_for(folder, 1, 2, streaming=streaming, workers=workers)
    run = tmp_path / "stopped"
    assert two(config, run, 1) == [143, 143]
    assert not (run / "artefact").exists()
    assert two(config, run) == [0, 0]
    assert same(state(uninterrupted(streaming)), state(run))


@pytest.mark.slow
def test_another_number_of_processes_continues_with_the_same_samples_a_step(
    folder, together, tmp_path
):
    run = tmp_path / "run"
    assert two(config_for(folder, 1, 2), run, 2) == [143, 143]
    with pytest.raises(SettingError, match=r"samples a step .* = 4 there, 2 here"):
        distill_run(config_for(folder, 1, 1), run)
    assert distill_run(config_for(folder, 2, 1), run) == 4
    close(state(together), state(run))


def prepared(rank: int, config, root: Path) -> None:
    finish(prepare_data(config, root))


@pytest.mark.slow
def test_two_processes_prepare_the_cache_of_one(folder, tmp_path):
    config = config_for(folder, 1, 2, cache=str(tmp_path / "two"))
    assert run_together(2, prepared, config, tmp_path / "r") == [0, 0]
    alone = config_for(folder, 1, 1, cache=str(tmp_path / "one"))
    whole = finish(prepare_data(alone, tmp_path / "r")).folder
    for path in whole.glob("*.safetensors"):
        other = load_file(tmp_path / "two" / whole.name / path.name)
        assert same(load_file(path), other)


def test_a_number_of_processes_that_did_not_start_is_refused(folder, tmp_path):
    with pytest.raises(SettingError, match=r"train.processes is 2, and 1 started: start them by"):
        distill_run(config_for(folder, 1, 2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_that_are_not_the_same_for_all_processes_are_refused(tmp_path):
    for rank, sizes in enumerate([(2, 3), (2, 2)]):
        shards(tmp_path / str(rank), sizes)
    assert run_together(2, differing, tmp_path) == [0, 0]


def differing(rank: int, root: Path) -> None:
    for folder, is_same in ((root / "0", True), (root / str(rank), False)):
        config = config_for(folder, 1, 2, cache=str(root / "cache"))
        family = load_model(config.model.base)
        processes = Processes.started("cpu")
        if is_same:
            assert len(open_dataset(config, root / "run", family, processes).pairs) == 5
        else:
            with pytest.raises(SettingError, match="is not the same for all processes"):
                open_dataset(config, root / "run", family, processes)


def test_the_processes_divide_what_one_would_take():
    train = tiny_config(batch_size=3, accumulate=2).train
    whole = replace(train, batch_size=6)
    for step in (0, 5):
        shares = [list(micro_batches(step, train, Processes(rank, 2))) for rank in range(2)]
        for micro, samples in enumerate(micro_batches(step, whole)):
            assert [*shares[0][micro], *shares[1][micro]] == list(samples)


def test_the_processes_agree():
    assert run_together(2, agreeing) == [0, 0]


def agreeing(rank: int) -> None:
    processes = Processes.started("cpu")
    assert (processes.rank, processes.count) == (rank, 2)
    assert processes.all_reduce_max(15 * rank) == 15
    assert processes.gather(torch.tensor([rank])).tolist() == [0, 1]
    weight = torch.nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.full((2, 3), float(rank))
    processes.average_gradients([weight, torch.nn.Parameter(torch.zeros(1))])
    assert weight.grad.unique().item() == 0.5


def test_the_processes_part_before_they_end(tmp_path):
    assert run_together(2, parting, tmp_path) == [0, 0]
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["False", "False"]


def parting(rank: int, folder: Path) -> None:
    told, joined = folder / str(rank), torch.distributed.is_initialized
    atexit.register(lambda: told.write_text(str(joined())))  # the first registered is called last
    Processes.started("cpu").wait()
    assert joined()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "streaming", "workers"),
    [([*TORCHRUN, "-m", "--"], False, 0), ([*TORCHRUN, "-m", "--"], True, 0),
     ([*ACCELERATE, "-m"], False, 2)],
    ids=["torchrun cache 0", "torchrun stream 0", "accelerate cache 2"],
)  # fmt: skip
def test_killed_under_its_launcher_it_continues_to_the_bit(
    folder, uninterrupted, tmp_path, launch, streaming, workers
):
    run, config = tmp_path / "killed", tmp_path / "config.toml"
    config.write_text(to_toml(config_for(folder, 1, 2, streaming=streaming, workers=workers)))
    command = [*launch, "fewstep", "distill", str(config), "--run", str(run)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if (run / "checkpoints" / "00000002").exists():
                parent = psutil.Process(process.pid)
                for each in [parent, *parent.children(recursive=True)]:
                    with suppress(psutil.NoSuchProcess):  # a loader ends with its parent
                        each.kill()
            time.sleep(0.01)
    assert not (run / "artefact").exists(), "it ended before it was killed: the test is blind"
    subprocess.run(command, check=True, capture_output=True)
    assert same(state(uninterrupted(streaming)), state(run))


@pytest.mark.slow
def test_where_one_of_two_is_killed_the_other_says_so_and_both_continue(folder, together, tmp_path):
    config, run, told = config_for(folder, 1, 2), tmp_path / "run", tmp_path / "told"
    assert run_together(2, with_the_second_killed, config, run, told) == [2, -signal.SIGKILL]
    message = told.read_text()
    assert "fewstep: another process of this run ended" in message
    assert "run the same command again to continue" in message
    assert "Traceback" not in message
    assert two(config, run) == [0, 0]
    assert same(state(together), state(run))


def with_the_second_killed(rank: int, config, run: Path, told: Path) -> None:
    def killed_after_a_step(*arguments):
        for result in steps_of(*arguments):
            if rank == 1 and result.step == 3:
                signal.raise_signal(signal.SIGKILL)
            yield result

    distill.steps_of = killed_after_a_step
    if rank == 0:
        sys.stderr = told.open("w")
    run_command(lambda: distill.distill_run(config, run))


@pytest.mark.slow
def test_a_failing_process_stops_all(folder, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(to_toml(config_for(folder, 1, 2)))
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from pathlib import Path\n"
        "from fewstep.config import load_config\n"
        "from fewstep.training import distill\n"
        "def fail(*arguments):\n"
        "    raise SystemExit(7)\n"
        "distill.follow = fail\n"
        f"distill.distill_run(load_config({str(config)!r}), Path({str(tmp_path / 'run')!r}))\n"
    )
    start = time.monotonic()
    done = subprocess.run([*TORCHRUN, str(script)], capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    assert "exitcode  : 7" in done.stderr
    assert not (tmp_path / "run" / "artefact").exists()
    assert time.monotonic() - start < 600
