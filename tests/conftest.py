"""Every test runs on one thread and checks the shapes of the core at run time.

For beartype's sake a checked module names the class where it could say Self, and its protocols are
runtime_checkable.
"""

import sys
from collections.abc import Callable

import hypothesis
import pytest
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook
from torch import Tensor

CHECKED = (
    "fewstep.types",
    "fewstep.diffusion",
    "fewstep.methods",
    "fewstep.student.samplers",
    "fewstep.student.contract",
)

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float

install_import_hook(CHECKED, f"{__name__}.check")
torch.set_num_threads(1)
hypothesis.settings.register_profile(
    "fewstep",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # as every test is on a busy machine
)
hypothesis.settings.load_profile("fewstep")

Network = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(scope="session")
def config() -> dict:
    """The scheduler config of Stable Diffusion 1.5, without what the noise levels do not need."""
    return {
        "num_train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    }


@pytest.fixture(scope="session")
def schedule(config):
    """The noise levels of Stable Diffusion 1.5."""
    from fewstep.diffusion.schedule import NoiseSchedule  # after the hook

    return NoiseSchedule.from_config(config)


@pytest.fixture(scope="session")
def network() -> Network:
    """A smooth function of latents and timesteps, about as large as noise, to stand for a model."""

    def output(x_t: Tensor, t: Tensor) -> Tensor:
        time = t.to(x_t.dtype).reshape(-1, *[1] * (x_t.dim() - 1))
        return 0.9 * torch.tanh(x_t) + 0.2 * torch.sin(x_t.roll(1, -1) + time / 150)

    return output


@pytest.fixture
def typed(monkeypatch, capsys, tmp_path) -> Callable[..., tuple[object, str]]:
    """Type commands in an empty folder: from arguments to the exit code and all that is printed."""
    from fewstep.__main__ import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fewstep", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        output = capsys.readouterr()
        return left.value.code, output.out + output.err

    return run
