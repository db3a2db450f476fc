"""A distilled model, ready to generate, at the timesteps of its contract."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from fewstep.diffusion.guidance import guided
from fewstep.errors import UserError
from fewstep.models.base import ModelFamily
from fewstep.models.extra_loras import add_loras
from fewstep.models.prompts import warn_of_cut
from fewstep.models.tiny_decoder import with_decoder
from fewstep.student.contract import Contract
from fewstep.student.generate import ImageSampler, student_sampler, teacher_nfe
from fewstep.student.load import decoder_folder, read_converted
from fewstep.student.networks import load_base, student_network
from fewstep.student.png_info import DECODER, TRAINED, SampledImage, SampledImages
from fewstep.student.seeds import generators_of, repeated, seeds_of
from fewstep.student.unfinished import read_student

BACKENDS = ("torch", "openvino")
"""What computes a student's networks."""

NO_EFFECT = "a negative prompt has no effect at guidance_scale 1; set one above 1, such as 3"


@dataclass(frozen=True)
class FewStepPipeline:
    """A distilled model that is called as diffusers' pipelines are, and with a `seed` too.

    `student` is the family and the network with all LoRAs in them, `loras` are the weights of the
    other LoRA files by path. The network of `base` is the student's as well.
    """

    base: ModelFamily
    contract: Contract
    student: tuple[ModelFamily, nn.Module]
    loras: Mapping[str, float] = field(default_factory=dict)
    decoder: str | None = None
    """The name of what decodes in place of the VAE."""

    @classmethod
    def from_pretrained(
        cls,
        artefact: str | Path,
        *,
        base: str | None = None,
        loras: Mapping[str, float] | None = None,
        decoder: str | Path | None = None,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        backend: str = "torch",
    ) -> Self:
        """Load an artefact folder or a Hub id, and the base model that it names, or `base` instead.

        Of a run that is not finished it is the last checkpoint, and images say so in `settings`.
        `loras` are other LoRA files for the same base model, by path, and how strong each is.
        `decoder` is a folder by `fewstep distill-decoder`, or "tiny" for the run's or artefact's.
        With the `backend` "openvino" the networks are those that `fewstep export --openvino` put
        into the folder, computed on the CPU in fp32 or bf16.

        Raises:
            ArtefactError: if a file is missing, damaged, pickled or outside of the folder, if the
                contract was edited, or if the base is not the one that was distilled.
            ModelError: if one of `loras`, or the decoder, does not fit the base model.
            UserError: if the backend is not known, not installed or cannot do what is asked.
        """
        if backend not in BACKENDS:
            raise UserError(f"backend is {backend!r}; use {' or '.join(BACKENDS)}")
        if backend == "openvino":
            if loras or base or decoder or torch.device(device).type != "cpu":
                raise UserError(
                    "the backend openvino computes an export as it is, on the CPU: it takes no "
                    "other LoRA, base model, decoder or device; use the backend torch"
                )
            return cls._converted(artefact, revision, dtype)
        folder = decoder and decoder_folder(decoder, artefact, revision)
        contract, weights = read_student(artefact, revision)
        family = load_base(contract, artefact, base, device=device, dtype=dtype)
        if folder:
            family = with_decoder(family, folder)
        network = student_network(family, contract, weights, in_place=True)
        loras = dict(loras or {})
        name = decoder and Path(decoder).name
        return cls(family, contract, add_loras(family, network, loras), loras, name)

    @classmethod
    def _converted(cls, artefact: str | Path, revision: str | None, dtype: torch.dtype) -> Self:
        from fewstep.models.openvino import library, load_converted

        library()
        folder, contract = read_converted(artefact, revision)
        family = load_converted(
            folder, contract.schedule, dtype, base=contract.base["id"],
            long_prompts=contract.long_prompts,
        )  # fmt: skip
        return cls(family, contract, (family, family.network))

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str = "",
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        seed: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        image: Image.Image | None = None,
        strength: float | None = None,
    ) -> SampledImages:
        """Return `num_images_per_prompt` images of each prompt; image i has seed + i.

        `seed` (0) means what `generator=torch.Generator().manual_seed(seed)` means, here and in
        diffusers. Height and width are in pixels, by default those of training. With `image` the
        images start from it, and `strength` in (0, 1], by default 0.5, is the fraction of the
        student's steps that are taken. A prompt that loses its end gives a PromptWarning.

        Raises:
            UserError: if there is no prompt, a size, strength or number of steps cannot be used, or
                guidance or a negative prompt is given to a student that was not trained for them.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        texts = [*prompts, *filter(None, [negative_prompt])]
        prompts = repeated(prompts, num_images_per_prompt)
        size = [self.resolution if side is None else side for side in (height, width)]
        self.check_guidance(guidance_scale, negative_prompt)
        if image is None and strength is not None:
            raise UserError("strength goes with image, the image to start from")
        generators = generators_of(len(prompts), seed, generator)
        seeds = seeds_of(generators)
        warn_of_cut(self.base, texts)
        sampler, x_0 = self.sampler(num_inference_steps, guidance_scale, negative_prompt), None
        settings = self._settings(sampler, guidance_scale)
        if image is not None:
            strength = 0.5 if strength is None else strength
            sampler, x_0 = sampler.with_strength(strength), self.encode(image, *size)
            settings["Timesteps"] = ", ".join(map(str, sampler.timesteps))
            settings["Denoising strength"] = f"{strength:g}"
        images = sampler.decode(sampler.latents(prompts, generators, *size, x_0=x_0))
        return SampledImages(
            SampledImage(Image.fromarray(pixels.numpy()), one, its_seed, sampler.nfe,
                         negative_prompt, settings)
            for pixels, one, its_seed in zip(images, prompts, seeds, strict=True)
        )  # fmt: skip

    @property
    def resolution(self) -> int:
        """The side in pixels of the images that the student was trained on."""
        return self.contract.data["resolution"]

    def sampler(
        self, num_steps: int | None = None, guidance_scale: float = 1.0, negative_prompt: str = ""
    ) -> ImageSampler:
        """Return the sampler for this number of steps; see `__call__`."""
        family, network = self.student
        sampler = student_sampler(family, self.contract, network, num_steps)
        if guidance_scale == 1:
            return sampler
        uncond = family.encode_prompts([negative_prompt])
        denoiser = guided(family.denoiser(network), uncond, guidance_scale)
        return replace(sampler, denoiser=denoiser, nfe=teacher_nfe(sampler.nfe, guidance_scale))

    def check_guidance(self, guidance_scale: float, negative_prompt: str) -> None:
        """Refuse guidance and negative prompts where the student was not trained for them.

        Raises:
            UserError: saying why, or which scale a negative prompt needs.
        """
        if (guidance_scale != 1 or negative_prompt) and not self.contract.takes_guidance:
            inside = self.contract.guidance_scale
            why = (
                f"guidance {inside:g} is distilled into it, and a second one would multiply it"
                if inside != 1
                else "it never saw an empty prompt in training (data.caption_dropout is 0)"
            )
            raise UserError(
                "this student takes no guidance_scale and no negative prompt: "
                f"{why}; configs/guidance-free.toml trains one that does"
            )
        if negative_prompt and guidance_scale == 1:
            raise UserError(NO_EFFECT)
        if not 1 <= guidance_scale < float("inf"):
            raise UserError(f"guidance_scale is {guidance_scale}; it has to be 1 (none) or more")

    def encode(self, image: Image.Image, height: int, width: int) -> Tensor:
        """Return an image's latents, [1, channels, height, width], resized and cropped to fit."""
        self.base.latent_shape(height, width)
        upright = ImageOps.exif_transpose(image).convert("RGB")
        fitted = ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.asarray(fitted) / np.float32(255))
        mean, _ = self.base.encode_images(pixels.permute(2, 0, 1)[None])
        return mean

    def _settings(self, sampler: ImageSampler, guidance_scale: float) -> dict[str, object]:
        """Return the settings but prompt and seed, by A1111's names where it has them."""
        settings: dict[str, object] = {
            "Steps": len(sampler.timesteps),
            "Sampler": f"fewstep {sampler.sampler}",
            "CFG scale": f"{guidance_scale:g}",
            "Model": Path(self.contract.base["id"]).name,
            "Method": self.contract.method["name"],
            "Timesteps": ", ".join(map(str, sampler.timesteps)),
        }
        if planned := self.contract.train.get("planned_steps"):
            settings[TRAINED] = f"step {self.contract.train['steps']} of {planned}"
        if self.loras:
            named = (f"{Path(path).stem} {weight:g}" for path, weight in self.loras.items())
            settings["LoRA"] = ", ".join(named)
        if self.decoder:
            settings[DECODER] = self.decoder
        return settings
