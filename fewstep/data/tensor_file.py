"""A safetensors file whose rows are read from the disk one at a time, as they are asked for.

Mapped into memory, what was once read would count as memory of the process; a plain read at a place
leaves it to the system, and 100 million pairs take no more of it than a thousand.
"""

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewstep.data.errors import DataError

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


@dataclass(frozen=True)
class TensorFile:
    """An open file, what its header says of each tensor, and where the tensors begin."""

    file: IO[bytes]
    table: dict[str, Any]
    start: int

    def row(self, name: str, number: int) -> Tensor:
        """Return row `number` of the tensor with this name."""
        entry = self.table[name]
        dtype, (first, _) = DTYPES[entry["dtype"]], entry["data_offsets"]
        shape = entry["shape"][1:]
        size = prod(shape) * dtype.itemsize
        place = self.start + first + number * size
        content = bytearray(os.pread(self.file.fileno(), size, place))
        return torch.frombuffer(content, dtype=dtype).reshape(shape)


@lru_cache(maxsize=256)
def tensor_file(path: Path) -> TensorFile:
    """Open a file; the last ones stay open.

    Raises:
        DataError: if it is missing, or not whole.
    """
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115  closed when the cache drops it
        start = 8 + int.from_bytes(file.read(8), "little")
        size = os.fstat(file.fileno()).st_size
        table = json.loads(file.read(start - 8)) if start < size else {}
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} ({error}); {REMEDY}") from error
    table.pop("__metadata__", None)
    if start + max((entry["data_offsets"][1] for entry in table.values()), default=-1) != size:
        raise DataError(f"{path} is not whole; {REMEDY}")
    return TensorFile(file, table, start)


def read_about(path: Path) -> dict[str, Any]:
    """Return what a file says of itself in its header.

    Raises:
        DataError: if it is missing, or not whole.
    """
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["about"])
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise DataError(f"cannot read {path} ({error}); {REMEDY}") from error


REMEDY = "delete it and run fewstep prepare, which makes it again"
