"""Classifier-free guidance, folded into the denoiser: no method mentions it."""

import torch

from fewstep.diffusion.conditioning import padded
from fewstep.diffusion.prediction import Prediction
from fewstep.types import Conditioning, Denoiser, Latents, Timesteps


def guided(
    denoiser: Denoiser[Prediction], uncond: Conditioning, guidance_scale: float
) -> Denoiser[Prediction]:
    """Return the denoiser pushed away from its unconditional prediction.

    `guidance_scale` is in diffusers' form: 1 means none, and the papers' w is `guidance_scale` - 1.
    `uncond` holds one row; both predictions come from one call on a doubled batch. Where they have
    masks, the shorter prompts are padded.

    Source: Ho & Salimans 2022, eq. 6.

    Raises:
        ValueError: if `guidance_scale` is below 1 or not finite; later, if a batch's conditioning
            has other entries, or other shapes of a row, than `uncond`.
    """
    check_guidance(guidance_scale)
    if guidance_scale == 1:
        return denoiser

    def denoise(x_t: Latents, t: Timesteps, cond: Conditioning) -> Prediction:
        empty, cond = padded(uncond, cond)
        check_alike(empty, cond)
        both = {
            name: torch.cat([empty[name].expand_as(value), value]) for name, value in cond.items()
        }
        pair = denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), both)
        (x_0, cond_x_0), (eps, cond_eps) = pair.x_0.chunk(2), pair.eps.chunk(2)
        return Prediction(
            torch.lerp(x_0, cond_x_0, guidance_scale),
            torch.lerp(eps, cond_eps, guidance_scale),
            pair.schedule,
            unguided=cond_x_0,
        )

    return denoise


def check_guidance(guidance_scale: float) -> None:
    """Refuse a scale that no guidance has.

    Raises:
        ValueError: if it is below 1 or not finite.
    """
    if not 1 <= guidance_scale < float("inf"):
        raise ValueError(
            f"guidance_scale is {guidance_scale}; it has to be 1 (no guidance) or more "
            "(the w of the papers plus 1)"
        )


def check_alike(uncond: Conditioning, cond: Conditioning) -> None:
    """Refuse to guide between conditionings of different entries or shapes.

    Raises:
        ValueError: naming the entry.
    """
    for name in sorted({*uncond, *cond}):
        if name not in uncond or name not in cond:
            which = "unconditional" if name not in uncond else "conditional"
            raise ValueError(f"the {which} prompt has no {name!r}; encode both with one model")
        row, other = tuple(uncond[name].shape[1:]), tuple(cond[name].shape[1:])
        if row != other:
            raise ValueError(
                f"a row of {name!r} has shape {row} for the unconditional prompt and {other} for "
                "the conditional one; encode both with one model, padded to one length"
            )
