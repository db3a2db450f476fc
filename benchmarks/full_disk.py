"""Every command that writes, on a disk that is full, fills up on the way, or is read-only.

    python -m benchmarks.full_disk                      # as root
    unshare --map-root-user --mount python -m benchmarks.full_disk

A small tmpfs is mounted for each case. A command has to end with exit code 2 and a sentence that
names what was not written; what was there before has to be there to the bit, and every new file
whole; with room again the same command has to end well. Writes benchmarks/results/full_disk.json.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from PIL import Image
from safetensors import safe_open

from fewstep.__main__ import main
from fewstep.config import load_config
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import sha256_of, write_file
from fewstep.training.distill import TrainingStep, distill

ROOT = Path(__file__).parents[1]
SIZE = 400
"""MB of the tmpfs."""

CONFIG = """
[method]
name = "cd"
num_solver_steps = 8
[teacher]
guidance_scale = 2.0
[adapter]
rank = 8
[data]
num_pairs = 16
[train]
steps = 6
batch_size = 2
save_every = 2
preview_every = 6
preview_prompts = ["a red circle"]
"""

SEVERAL_FILES = 500_000
"""Bytes of a command that writes more than one small file: only then a disk fills on the way."""

CASES = ("full", "fills up on the way", "read-only")


@dataclass(frozen=True)
class Place:
    """A command that writes; `made` is what lies on the disk before it."""

    name: str
    command: str
    made: Callable[[Path], None] = lambda disk: None

    def arguments(self, disk: Path) -> list[str]:
        """Return the command's words, with the disk's folder and the config that lies beside it."""
        return self.command.format(disk=disk, config=config(disk)).split()


def trained(disk: Path, steps: int = 6) -> None:
    """Train a run up to a step."""
    for event in distill(load_config(config(disk)), disk / "runs" / "a"):
        if isinstance(event, TrainingStep) and event.done == steps < 6:
            return


def config(disk: Path) -> str:
    """Return the path of the run's config, which lies on another disk."""
    return str(disk.parent / "config.toml")


def evaluated(disk: Path) -> None:
    """Train a run and measure it."""
    trained(disk)
    run(["evaluate", f"{disk}/runs/a", "--num-prompts", "100", "--brief", "-o", f"{disk}/results"])


PLACES = (
    Place("prepare: the latent cache", "prepare {config} --run {disk}/runs/a"),
    Place(
        "distill: checkpoints, log, previews, artefact",
        "distill {config} --run {disk}/runs/a",
        lambda disk: trained(disk, 3),
    ),
    Place("sample: an image", "sample bundled circle --steps 2 -o {disk}/image.png"),
    Place("sample: a folder of images", "sample bundled circle --steps 2 -o {disk}/images"),
    Place(
        "evaluate: images, latents, results",
        "evaluate {disk}/runs/a --num-prompts 100 --brief -o {disk}/results",
        trained,
    ),
    Place(
        "compare: images and latents",
        "compare {disk}/runs/a --prompt circle -o {disk}/comparison",
        trained,
    ),
    Place("report", "report {disk}/results -o {disk}/report.html", evaluated),
    Place(
        "export: files for other programs, merged models",
        "export {disk}/runs/a -o {disk}/exported --fused --checkpoint",
        trained,
    ),
)


def run(arguments: list[str]) -> tuple[int, str]:
    """Run a command of the program here; return its exit code and what it printed."""
    printed = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["fewstep", *arguments]),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        try:
            main()
        except SystemExit as left:
            return int(left.code or 0), printed.getvalue()
    return 0, printed.getvalue()


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


@contextmanager
def tmpfs() -> Iterator[Path]:
    """Mount a small disk."""
    with tempfile.TemporaryDirectory(prefix="full-disk-") as folder:
        (Path(folder) / "config.toml").write_text(CONFIG)
        (disk := Path(folder) / "disk").mkdir()
        mount("-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", str(disk))
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


def free_bytes(disk: Path) -> int:
    place = os.statvfs(disk)
    return place.f_bavail * place.f_frsize


def fill(disk: Path) -> None:
    """Fill the disk to its last page, with one file, whoever else writes on it meanwhile."""
    with open(disk / "filler", "ab") as filler:
        while room := free_bytes(disk):
            with contextlib.suppress(OSError):
                os.posix_fallocate(filler.fileno(), os.fstat(filler.fileno()).st_size, room)


@contextmanager
def trouble(disk: Path, case: str, num_bytes: int) -> Iterator[None]:
    """Bring the disk into a state for the block: of `num_bytes` that a command writes, half fit."""
    room, ended = free_bytes(disk), threading.Event()

    def fill_halfway() -> None:
        while not ended.wait(5e-4):
            if room - free_bytes(disk) > num_bytes / 2:
                return fill(disk)

    if case == "full":
        fill(disk)
    if case == "read-only":
        mount("-o", "remount,ro", str(disk))
    other = threading.Thread(target=fill_halfway)
    if case == CASES[1]:
        other.start()
    yield
    ended.set()
    if case == CASES[1]:
        other.join()
    if case == "read-only":
        mount("-o", "remount,rw", str(disk))
    (disk / "filler").unlink(missing_ok=True)


def written(place: Place) -> int:
    """Return how many bytes a command leaves where nothing is in its way."""
    with tmpfs() as disk:
        place.made(disk)
        room = free_bytes(disk)
        code, printed = run(place.arguments(disk))
        if code:
            sys.exit(f"{place.name} fails on a disk with room: {printed}")
        return room - free_bytes(disk)


def contents(disk: Path) -> dict[str, str]:
    """Return the digest of every file, but for locks and the filler."""
    return {
        str(path.relative_to(disk)): sha256_of(path)
        for path in sorted(disk.rglob("*"))
        if path.is_file() and path.name not in (".lock", "filler")
    }


def faults(disk: Path, before: dict[str, str]) -> list[str]:
    """Return the files that changed or are lost, and the new ones that are not whole.

    Logs grow, and a newer checkpoint replaces an older one.
    """
    found, after = [], contents(disk)
    newest = max((Path(name).parent.name for name in after if "/checkpoints/" in name), default="")
    for name, digest in before.items():
        if name.endswith("metrics.jsonl") or "tfevents" in name or after.get(name) == digest:
            continue
        if name in after:
            found.append(f"{name} changed")
        elif "/checkpoints/" not in name or Path(name).parent.name >= newest:
            found.append(f"{name} is lost")
    for name in after.keys() - before.keys():
        if not is_whole(disk / name):
            found.append(f"{name} is not whole")
    return found


def is_whole(path: Path) -> bool:
    """Return whether a file can be read to its end by what reads its kind."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                return all(file.get_tensor(name) is not None for name in file.keys())  # noqa: SIM118
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".html":
            return path.read_text().rstrip().endswith("</html>")
    except Exception as error:
        print(f"{path}: {error}", file=sys.stderr)
        return False
    return not path.name.endswith(".part")


def tried(place: Place, case: str, num_bytes: int) -> dict[str, object]:
    """Run a command in trouble and again without; return what happened."""
    with tmpfs() as disk:
        place.made(disk)
        before = contents(disk)
        with trouble(disk, case, num_bytes):
            code, printed = run(place.arguments(disk))
        last = printed.strip().splitlines()[-1] if printed.strip() else ""
        found = faults(disk, before)
        again, _ = run(place.arguments(disk))
        is_told = code == 2 and "Traceback" not in printed and str(disk) in last
        return {
            "place": place.name,
            "case": case,
            "holds": is_told and not found and again == 0,
            "exit_code": code,
            "message": last.replace(str(disk), "DISK"),
            "faults": found,
            "exit_code_with_room": again,
        }


def measure(places: tuple[Place, ...]) -> dict[str, object]:
    """Try every place in every case."""
    rows = []
    for place in places:
        num_bytes = written(place)
        for case in CASES:
            if case == CASES[1] and num_bytes < SEVERAL_FILES:
                continue
            rows.append(tried(place, case, num_bytes))
            print(json.dumps(rows[-1]), flush=True)
    return {
        "command": "python -m benchmarks.full_disk",
        "commit": commit(),
        "machine": machine(),
        "n": len(rows),
        "holds": sum(bool(row["holds"]) for row in rows),
        "cases": rows,
    }


if __name__ == "__main__":
    wanted = sys.argv[1:]
    chosen = tuple(p for p in PLACES if not wanted or any(p.name.startswith(w) for w in wanted))
    result = measure(chosen)
    if not wanted:
        path = ROOT / "benchmarks/results/full_disk.json"
        write_file(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    sys.exit(result["holds"] != result["n"])
