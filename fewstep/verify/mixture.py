"""Gaussian mixtures with classes: data whose ideal denoiser is known in closed form."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from fewstep.diffusion.prediction import Prediction
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.types import Conditioning, Latents, Timesteps


@dataclass(frozen=True)
class Mixture:
    """Components N(means[k], deviations[k]² I), each of which belongs to one class.

    Conditioning is `{"label": [batch]}`; the label `num_classes` stands for "any class".

    Raises:
        ValueError: if a deviation or a weight is not above 0.
    """

    means: Float64[Tensor, "components dim"]
    deviations: Float64[Tensor, " components"]
    weights: Float64[Tensor, " components"]
    classes: Int[Tensor, " components"]

    def __post_init__(self) -> None:
        for name in ("deviations", "weights"):
            if not (getattr(self, name) > 0).all():
                raise ValueError(f"all {name} of a mixture must be above 0")

    @property
    def dim(self) -> int:
        """The dimension of the data."""
        return self.means.shape[1]

    @property
    def num_classes(self) -> int:
        """How many classes the components belong to."""
        return int(self.classes.max()) + 1

    @property
    def unconditional(self) -> Conditioning:
        """One row of conditioning that leaves the class open."""
        return {"label": torch.tensor([self.num_classes])}

    @property
    def rms(self) -> float:
        """The root of the mean squared norm of the data."""
        squares = self.means.square().sum(1) + self.dim * self.deviations.square()
        return float((self.weights * squares).sum() / self.weights.sum()) ** 0.5

    @cached_property
    def log_weights(self) -> Float64[Tensor, "labels components"]:
        """The log of the components' weights given each label, -inf outside its class."""
        labels = torch.arange(self.num_classes + 1)[:, None]
        allowed = (labels == self.classes) | (labels == self.num_classes)
        return torch.where(allowed, self.weights.log(), -torch.inf).log_softmax(1)

    def sample(self, label: Int[Tensor, " batch"], generator: torch.Generator) -> Latents:
        """Draw one point for each label."""
        component = torch.multinomial(self.log_weights[label].exp(), 1, generator=generator)[:, 0]
        noise = torch.randn(len(label), self.dim, generator=generator).double()
        return self.means[component] + self.deviations[component, None] * noise


@dataclass(frozen=True)
class MixtureDenoiser:
    """What an ideally trained network would predict: the posterior means of x_0 and eps.

    Nothing is divided by alpha or sigma, so it is defined at CLEAN and in pure noise as well.
    Latents of any shape are read as flat vectors of the mixture's dimension.
    """

    mixture: Mixture
    schedule: NoiseSchedule

    def __call__(self, x_t: Latents, t: Timesteps, cond: Conditioning) -> Prediction:
        """Average over components: x is N(alpha μ, (alpha² s² + sigma²) I) given each."""
        x = x_t.flatten(1)
        alpha, sigma = self.schedule.levels(t, x)
        means, deviations = self.mixture.means.to(x), self.mixture.deviations.to(x)

        offset = x[:, None] - alpha[:, None] * means
        variance = (alpha * deviations).square() + sigma.square()
        distance = offset.square().sum(2) / variance + x.shape[1] * variance.log()
        log_weights = self.mixture.log_weights.to(x)[cond["label"]]
        responsibility = (log_weights - distance / 2).softmax(1)

        pull = responsibility / variance
        eps = sigma * torch.einsum("bk,bkd->bd", pull, offset)
        spread = alpha * deviations.square() * pull
        x_0 = responsibility @ means + torch.einsum("bk,bkd->bd", spread, offset)
        return Prediction(x_0.reshape(x_t.shape), eps.reshape(x_t.shape), self.schedule)
