"""Images of several models side by side: a file that a report reads, and a grid to look at.

Without the models that made them, so that a report is written without loading their libraries.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fewstep.errors import UserError
from fewstep.files import write_file
from fewstep.images import Images, check, grid, png

COMPARISON = "comparison"
"""How the protocol of every comparison begins."""
COMPARISON_FILE = "comparison.safetensors"


@dataclass(frozen=True)
class Comparison:
    """Images of the same prompts from the same starting noises, one column a source.

    Raises:
        ValueError: if a column does not have one image a prompt.
    """

    prompts: Sequence[str]
    columns: Mapping[str, Images]

    def __post_init__(self) -> None:
        check(self.columns, self.prompts)


def save_comparison(out: Path, prompts: Sequence[str], columns: Mapping[str, Images]) -> Path:
    """Write images side by side as `grid.png`, and as a file that a report reads."""
    arrays = {title: np.ascontiguousarray(images) for title, images in columns.items()}
    metadata = {"prompts": json.dumps(list(prompts)), "columns": json.dumps(list(columns))}
    write_file(out / COMPARISON_FILE, save(arrays, metadata))
    write_file(out / "grid.png", png(grid(columns, prompts)))
    return out / "grid.png"


def load_comparison(folder: Path) -> Comparison:
    """Read what `save_comparison` wrote.

    Raises:
        UserError: if the file is damaged.
    """
    path = folder / COMPARISON_FILE
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata()
            columns = {title: file.get_tensor(title) for title in json.loads(metadata["columns"])}
    except SafetensorError as error:
        raise UserError(
            f"{path} is damaged: {error}; delete it and run its command again"
        ) from error
    return Comparison(json.loads(metadata["prompts"]), columns)
