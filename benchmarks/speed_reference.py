"""The reference recipe: what the public LCM-LoRA script of diffusers does in each step.

Two UNets with fp32 weights under autocast; images and prompts encoded in every step; the student
first, whose activations are kept while the teacher is evaluated twice and the student once more;
the loss read by the host in every step. Its data loading is left out, in its favour.

Source: huggingface/diffusers, examples/consistency_distillation/train_lcm_distill_lora_sd_wds.py.
"""

from copy import deepcopy
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from benchmarks.speed_work import (
    PROMPTS,
    Probe,
    Setting,
    fill_lora,
    in_plain_layout,
    tensor_bytes,
)
from fewstep.models.adapters import ALL

HUBER_C = 1e-3
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0


@dataclass(frozen=True)
class Flags:
    """The script's flags that affect the cost of a step."""

    gradient_checkpointing: bool = False
    cast_teacher_unet: bool = True


class Reference:
    """The student's network, the teacher's, and VAE and text encoder in every step."""

    def __init__(self, setting: Setting, flags: Flags) -> None:
        self.setting, family = setting, setting.family()
        in_plain_layout(family)
        half = setting.half
        self.vae, self.text_encoder = family.vae.to(half), family.text_encoder.to(half)
        self.tokenizer, self.teacher = family.tokenizer, family.network
        config = LoraConfig(r=setting.rank, lora_alpha=setting.rank, target_modules=list(ALL))
        self.student = get_peft_model(deepcopy(self.teacher), config)  # type: ignore[arg-type]
        self.student.train()
        if flags.cast_teacher_unet:
            self.teacher.to(half)
        if flags.gradient_checkpointing:
            self.student.base_model.model.enable_gradient_checkpointing()  # type: ignore[operator]
        fill_lora(self.trained())
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=setting.learning_rate)
        self.scaler = torch.amp.GradScaler(setting.device, enabled=half == torch.float16)
        self.noise_scheduler = DDPMScheduler.from_config(family.scheduler_config)
        self.alphas_cumprod = self.noise_scheduler.alphas_cumprod.to(setting.device)
        self.gap = 1000 // setting.num_solver_steps
        self.images = torch.rand(setting.batch_size, 3, setting.resolution, setting.resolution)
        if setting.device == "cuda":
            self.images = self.images.pin_memory()
        with torch.no_grad():
            self.uncond = self.encode_prompts([""] * setting.batch_size)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the adapter's weights under PEFT's plain names."""
        return {
            name.removeprefix("base_model.model.").replace(".default.", "."): weight
            for name, weight in self.student.named_parameters()
            if "lora_" in name
        }

    def step(self) -> None:
        """Take one optimiser step."""
        device, size = self.setting.device, self.setting.batch_size
        with torch.no_grad():
            text = self.encode_prompts((PROMPTS * size)[:size])
            pixels = (2 * self.images.to(device, non_blocking=True) - 1).to(self.setting.half)
            parts = [self.vae.encode(part).latent_dist.sample() for part in pixels.split(32)]
            latents = torch.cat(parts) * self.vae.config.scaling_factor
        index = torch.randint(0, self.setting.num_solver_steps, (size,), device=device)
        loss = self.loss(latents, text, index, torch.randn_like(latents))
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        loss.detach().item()  # for its progress bar and its log

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, return_tensors="pt",
            max_length=self.tokenizer.model_max_length,
        )  # fmt: skip
        return self.text_encoder(tokens.input_ids.to(self.setting.device))[0]

    def loss(self, latents: Tensor, text: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """Return the consistency loss at timestep `index` of the solver's grid, 0 the cleanest."""
        t = (index + 1) * self.gap - 1
        s = (t - self.gap).clamp(min=0)
        x_t = self.noise_scheduler.add_noise(latents, noise, t)  # type: ignore[arg-type]
        half = self.setting.half
        with self.setting.autocast():
            output = self.student(x_t, t, encoder_hidden_states=text.float()).sample
        pred = self.consistency(output.float(), x_t, t)
        with torch.no_grad(), self.setting.autocast():
            cond = self.teacher(x_t.to(half), t, encoder_hidden_states=text.to(half)).sample
            uncond = self.teacher(
                x_t.to(half), t, encoder_hidden_states=self.uncond.to(half)
            ).sample
            w = self.setting.guidance_scale - 1
            cond_x_0, uncond_x_0 = self.x_0(cond, x_t, t), self.x_0(uncond, x_t, t)
            x_0 = cond_x_0 + w * (cond_x_0 - uncond_x_0)
            eps = cond + w * (cond - uncond)
            alpha, sigma = self.levels(s)
            x_s = alpha * x_0 + sigma * eps
            output = self.student(x_s.float(), s, encoder_hidden_states=text.float()).sample
            target = self.consistency(output.float(), x_s, s)
        difference = pred.float() - target.float()
        return torch.mean(torch.sqrt(difference**2 + HUBER_C**2) - HUBER_C)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        squared = self.alphas_cumprod[t].reshape(-1, 1, 1, 1)
        return squared.sqrt(), (1 - squared).sqrt()

    def x_0(self, eps: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.levels(t)
        return (x_t - sigma * eps) / alpha

    def consistency(self, eps: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return c_skip * x_t + c_out * x_0, which is x_t itself at timestep 0."""
        scaled = (t * TIMESTEP_SCALING).reshape(-1, 1, 1, 1)
        c_skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        c_out = scaled / (scaled**2 + SIGMA_DATA**2).sqrt()
        return c_skip * x_t + c_out * self.x_0(eps, x_t, t)

    def gradients(self, probe: Probe) -> dict[str, Tensor]:
        """Return the loss's gradient in the adapter at a probe."""
        uncond, self.uncond = self.uncond, probe.uncond.expand_as(probe.text)
        loss = self.loss(probe.latents, probe.text, probe.index, probe.noise)
        (self.setting.probe_scale * loss).backward()
        self.uncond = uncond
        gradients = {n: w.grad.clone() for n, w in self.trained().items() if w.grad is not None}
        self.optimizer.zero_grad(set_to_none=True)
        return gradients

    def static_bytes(self) -> int:
        """Return the memory that does not depend on the batch.

        That is all weights, and the gradients and optimiser state of the adapter.
        """
        networks = (self.vae, self.text_encoder, self.teacher, self.student)
        return tensor_bytes(networks, self.optimizer, self.trained())
