"""FewStepScheduler: the sampler of an artefact's contract, for the pipelines of diffusers."""

# diffusers' register_to_config hides the signature of __init__
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from fewstep.diffusion.prediction import output_reader
from fewstep.diffusion.schedule import CLEAN, NoiseSchedule
from fewstep.errors import UserError
from fewstep.student.contract import Contract
from fewstep.student.load import artefact_folder, read_contract
from fewstep.student.other_programs import noise_levels
from fewstep.types import Latents, Timesteps


@dataclass
class FewStepOutput(BaseOutput):
    """The latents at the next timestep, and the student's prediction of the clean latents."""

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class FewStepScheduler(SchedulerMixin, ConfigMixin):
    """Samples a student at the timesteps of its contract, in any pipeline of diffusers.

        pipe.load_lora_weights(artefact, weight_name="pytorch_lora_weights.safetensors")
        pipe.scheduler = FewStepScheduler.from_artefact(artefact)
        pipe("a prompt", num_inference_steps=4, guidance_scale=1)

    It is exact for every number of segments and of solver steps, where diffusers' own schedulers
    are for some. `sampling_timesteps` are by number of steps, `sampler` is a key of SAMPLERS, and
    without `takes_guidance` the guidance that diffusers adds by default is refused.

    Raises:
        UserError: if it is built from another scheduler's config, which has no contract.
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        sampling_timesteps: dict[str, list[int]] | None = None,
        sampler: str = "deterministic",
        num_train_timesteps: int = 1000,
        beta_schedule: str = "scaled_linear",
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        trained_betas: list[float] | None = None,
        rescale_betas_zero_snr: bool = False,
        prediction_type: str = "epsilon",
        takes_guidance: bool = False,
    ) -> None:
        if not sampling_timesteps:
            raise UserError(
                "a FewStepScheduler takes its timesteps from an artefact's contract and not from "
                "another scheduler's config: use FewStepScheduler.from_artefact(artefact)"
            )
        self.schedule = NoiseSchedule.from_config(self.config)
        self.read = output_reader(prediction_type, self.schedule)
        self._begin_index: int | None = None
        self._network_batch = 0
        self.set_timesteps(int(next(iter(sampling_timesteps))))

    @classmethod
    def from_artefact(cls, artefact: str | Path, revision: str | None = None) -> Self:
        """Return the scheduler for an artefact folder, a run or a Hub id."""
        return cls.from_contract(read_contract(artefact_folder(artefact, revision)))

    @classmethod
    def from_contract(cls, contract: Contract) -> Self:
        """Return the scheduler of a student, at the timesteps of its contract."""
        starts = {str(n): list(starts) for n, starts in contract.sampling_timesteps.items()}
        levels, takes = noise_levels(contract), contract.takes_guidance
        return cls(starts, contract.sampler, **levels, takes_guidance=takes)

    def set_timesteps(
        self, num_inference_steps: int, device: torch.device | str | None = None
    ) -> None:
        """Take the sampling timesteps for this number of steps.

        Raises:
            UserError: if the student cannot be sampled in so many, naming the numbers that work.
        """
        known = self.config.sampling_timesteps
        if str(num_inference_steps) not in known:
            raise UserError(
                f"num_inference_steps is {num_inference_steps}; this student is sampled in "
                f"{', '.join(sorted(known, key=int))}"
            )
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.tensor(known[str(num_inference_steps)], device=device)
        self._step_index = self._begin_index = None

    @property
    def step_index(self) -> int | None:
        """The number of the next step; None before the first."""
        return self._step_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start sampling at this step instead of the first, as image-to-image does."""
        self._begin_index = begin_index

    def scale_model_input(self, sample: Latents, timestep: Any = None) -> Latents:
        """Return the sample unchanged."""
        self._network_batch = max(self._network_batch, len(sample))  # control nets take fewer
        return sample

    def add_noise(self, original_samples: Latents, noise: Latents, timesteps: Timesteps) -> Latents:
        """Diffuse clean latents to `timesteps`."""
        timesteps = timesteps.reshape(-1).expand(len(original_samples))
        return self._on(noise.device).add_noise(original_samples, noise, timesteps)

    def step(
        self,
        model_output: Latents,
        timestep: int | torch.Tensor,
        sample: Latents,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> FewStepOutput | tuple[Latents, Latents]:
        """Jump from `timestep` to the next one, or to clean data and back up with fresh noise.

        Raises:
            UserError: if guidance was used that the student does not take, or all steps are done.
        """
        self._check_guidance(len(sample))
        if self._step_index is None:
            begin = self._begin_index
            self._step_index = self._index_of(timestep) if begin is None else begin
        if self._step_index == len(self.timesteps):
            raise UserError(f"all {len(self.timesteps)} steps are done; call set_timesteps again")
        self._step_index += 1
        steps = [*self.timesteps.tolist(), CLEAN][self._step_index - 1 :][:2]
        t, s = (torch.full((len(sample),), step, device=sample.device) for step in steps)
        schedule, x_t = self._on(sample.device), sample.float()
        prediction = self.read(model_output.float(), x_t, t, schedule)
        if self.config.sampler == "stochastic" and steps[1] != CLEAN:
            noise = randn_tensor(sample.shape, generator, sample.device, torch.float32)
            x_s = schedule.add_noise(prediction.x_0, noise, s)
        else:
            x_s = prediction.at(s)
        output = FewStepOutput(x_s.to(sample.dtype), prediction.x_0.to(sample.dtype))
        return output if return_dict else output.to_tuple()

    def _check_guidance(self, batch: int) -> None:
        """Refuse guidance, with which the network's batch is twice that of the images."""
        network_batch, self._network_batch = self._network_batch, 0
        if network_batch > batch and not self.config.takes_guidance:
            raise UserError(
                "this student takes no guidance_scale and no negative prompt, and diffusers' "
                "default is 7.5: call the pipeline with guidance_scale=1"
            )

    def _index_of(self, timestep: int | torch.Tensor) -> int:
        starts = self.timesteps.tolist()
        if int(timestep) not in starts:
            raise UserError(f"the student is sampled at timesteps {starts}, not at {int(timestep)}")
        return starts.index(int(timestep))

    def _on(self, device: torch.device) -> NoiseSchedule:
        self.schedule = self.schedule.to(device)
        return self.schedule

    def __len__(self) -> int:
        return self.config.num_train_timesteps
