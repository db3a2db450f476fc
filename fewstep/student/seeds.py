"""Seeds of images, counted as A1111 does: image i of a call has seed + i, and diffusers' noise.

Evaluations, and latents that a teacher makes of prompts, have the noise of (seed, number) instead.
"""

from collections.abc import Iterable, Sequence

import torch

from fewstep.diffusion.random import Draw
from fewstep.errors import UserError


def image_generators(seed: int, num: int) -> list[torch.Generator]:
    """Return the generators of a call's images: image i has seed + i.

    Raises:
        UserError: if a seed does not fit 64 bits.
    """
    if not 0 <= seed <= 2**64 - num:
        raise UserError(f"seed is {seed}; it has to be 0 or more, and of 64 bits with all images")
    return [torch.Generator().manual_seed(seed + number) for number in range(num)]


def numbered_generators(seed: int, numbers: Iterable[int]) -> Sequence[torch.Generator]:
    """Return the generators of the images with these numbers, among all that have this seed."""
    return Draw.keyed(seed, numbers, purpose="paint").generators


def repeated(prompts: Sequence[str], num_images: int) -> list[str]:
    """Return each prompt once an image, the images of one prompt together.

    Raises:
        UserError: if there is no prompt, or no image of each.
    """
    if not prompts:
        raise UserError("there is no prompt; give one or more")
    if num_images < 1:
        raise UserError(f"the number of images is {num_images}; it has to be 1 or more")
    return [prompt for prompt in prompts for _ in range(num_images)]


def generators_of(
    num: int, seed: int | None, generator: torch.Generator | Sequence[torch.Generator] | None
) -> Sequence[torch.Generator]:
    """Return one generator an image: of seed + i, or those given; one alone is shared by all.

    Raises:
        UserError: if both are given, or not one generator an image.
    """
    if generator is None:
        return image_generators(seed or 0, num)
    if seed is not None:
        raise UserError("give either seed or generator, which is a seed of its own")
    generators = [generator] * num if isinstance(generator, torch.Generator) else generator
    if len(generators) != num:
        raise UserError(f"there are {len(generators)} generators for {num} images; give one each")
    return generators


def seeds_of(generators: Sequence[torch.Generator]) -> list[int | None]:
    """Return the seed that makes each image again, None where there is none.

    There is none where images share a generator, or it is on a GPU or was drawn from before.
    """
    return [_seed_of(own) if generators.count(own) == 1 else None for own in generators]


def _seed_of(generator: torch.Generator) -> int | None:
    if generator.device.type != "cpu":
        return None
    seed = generator.initial_seed()
    fresh = torch.Generator().manual_seed(seed)
    return seed if torch.equal(generator.get_state(), fresh.get_state()) else None
