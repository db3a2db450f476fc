"""What the files of an artefact may be called."""

import re
import string
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from fewstep.errors import UserError
from fewstep.export.lora_formats import PEFT_CONFIG, PEFT_FILE
from fewstep.student.contract import CONTRACT_FILE, LORA_FILE

CARD_FILE, WORKFLOW_FILE = "README.md", "comfyui.json"
FUSED = "fused/"
"""The folder of whole models with the student inside."""

OTHERS = (CONTRACT_FILE, CARD_FILE, WORKFLOW_FILE, LORA_FILE, PEFT_FILE, PEFT_CONFIG)
TAKEN = frozenset(PurePosixPath(file).stem.lower() for file in OTHERS)
"""The names of an artefact's other files, which one more file of that name would replace."""

MISREAD = ("scheduler", "optimizer", "checkpoint", "lcm")
"""Words in a file's name for which diffusers passes it by, or others choose another sampler."""
LETTERS = string.ascii_letters + string.digits + "_."


def check_name(name: str) -> None:
    """Refuse a name for files that programs would pass over or misread, or that is taken.

    Raises:
        UserError: naming what is wrong with it.
    """
    if not name or set(name) - {*LETTERS, "-"} or name.startswith((".", "-")):
        raise UserError(f"--name is {name!r}; use letters, digits and - _ . in it alone")
    if name.lower() in TAKEN:
        raise UserError(
            f"--name is {name!r}, as another file of the artefact is called: choose another"
        )
    for word in MISREAD:
        if word in name.lower():
            raise UserError(
                f"--name is {name!r}; files with {word!r} in their name are passed over or misread "
                "by some programs: choose another"
            )


def name_from(run: Path) -> str:
    """Return a name for the files of a run, from that of its folder.

    >>> name_from(Path("runs/my LCM run")), name_from(Path("runs/lcm"))
    ('fewstep-my-run', 'fewstep-student')
    """
    name = re.sub("|".join(MISREAD), " ", run.resolve().name.lower())
    parts = "".join(c if c in LETTERS else " " for c in name).split()
    return "-".join(["fewstep", *(parts or ["student"])])


def name_of(files: Iterable[str]) -> str | None:
    """Return the name that the files of an artefact have already, told from all of them."""
    stems = (
        path.stem
        for path in map(PurePosixPath, files)
        if len(path.parts) == 1 and path.suffix in (".safetensors", ".png")
    )
    return next((stem for stem in stems if stem.lower() not in TAKEN), None)
