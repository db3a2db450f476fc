"""The shapes and the two protocols that every part of fewstep uses."""

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
"""What the model is conditioned on (a prompt's embedding, a label); opaque outside its family.

Every tensor has the batch as its first dimension.
"""


@runtime_checkable
class PredictedTrajectory(Protocol):
    """A denoiser's prediction of the trajectory through x_t, at any timestep."""

    def at(self, s: Timesteps) -> Latents:
        """Return the trajectory's point at timestep `s`."""
        ...


Predicted = TypeVar("Predicted", bound=PredictedTrajectory, covariant=True)


@runtime_checkable
class Denoiser(Protocol[Predicted]):
    """Anything that predicts, from noisy latents, the trajectory through them."""

    def __call__(self, x_t: Latents, t: Timesteps, cond: Conditioning) -> Predicted:
        """Predict from `x_t` at timestep `t`; the dtype of the result is that of `x_t`."""
        ...
