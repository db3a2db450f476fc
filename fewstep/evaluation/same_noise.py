"""How far pictures are from those that the teacher makes from the same noise and prompt.

For deterministic samplers at any number of calls; a stochastic one (CT and CD at several calls)
throws the starting noise away, so that only its one-call pictures can be compared like this.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.evaluation.intervals import Values


def same_noise_rmse(pictures: NDArray[np.uint8], teacher: NDArray[np.uint8]) -> Values:
    """Return each picture's root mean squared distance to the teacher's, white being 1.

    Raises:
        ValueError: if they are not uint8 pictures, as many and as large as the teacher's.
    """
    for given in (pictures, teacher):
        if given.dtype != np.uint8:
            raise ValueError(f"pictures are uint8 (0 to 255), not {given.dtype}")
    return rmse(pictures, teacher) / 255


def rmse(ours: ArrayLike, theirs: ArrayLike) -> Values:
    """Return the root mean squared distance of each pair: of latents, in their own units."""
    a, b = (np.asarray(side, np.float64) for side in (ours, theirs))
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(f"{a.shape} cannot be compared in pairs with {b.shape}")
    return np.sqrt(((a - b) ** 2).reshape(len(a), -1).mean(axis=1))
