"""The shapes and the two protocols that every part of fewstep speaks in."""

from collections.abc import Mapping
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

Latents = Float[Tensor, "batch *shape"]
"""What is denoised: `[batch, channel, height, width]` for images, `[batch, dim]` for mixtures."""

Timesteps = Int[Tensor, "batch"]
"""One training timestep a sample: 0 is the least noisy, CLEAN = -1 is clean data itself."""

PerSample = Float[Tensor, "batch"]
"""One number a sample."""

Conditioning = Mapping[str, Tensor]
"""What the model is told (a prompt's embedding, a label); opaque outside its model family.

Every tensor has the batch as its first dimension.
"""


@runtime_checkable
class Landing(Protocol):
    """What a denoiser believes of a trajectory: it can be evaluated at any timestep."""

    def at(self, s: Timesteps) -> Latents:
        """Return the trajectory's point at timestep `s`."""
        ...


Belief = TypeVar("Belief", bound=Landing, covariant=True)


@runtime_checkable
class Denoiser(Protocol[Belief]):
    """Anything that looks at noisy latents and believes in a trajectory through them."""

    def __call__(self, x_t: Latents, t: Timesteps, cond: Conditioning) -> Belief:
        """Predict from `x_t` at timestep `t`; the dtype of the result is that of `x_t`."""
        ...
