"""What a visitor of the page waits for, by the clock: first byte, first image, and in a crowd.

    python -m benchmarks.page -o benchmarks/results/page.json

Starts `fewstep ui` on the students that release 0.1.0 wrote, as a process of its own, and asks it
over HTTP as the page does. Seconds are the clock's: nothing else may run beside it.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import httpx
import psutil
from gradio_client import Client
from gradio_client.utils import QueueError

from fewstep.errors import UserError
from fewstep.evaluation.intervals import mean_of_few
from fewstep.evaluation.provenance import commit, machine
from fewstep.files import write_file

ROOT = Path(__file__).parents[1]
RELEASED = ROOT / "tests" / "fixtures" / "release-0.1.0"
STUDENTS = [str(RELEASED / "multi-boundary-artefact"), str(RELEASED / "cd" / "artefact")]
COLUMNS = 2 + len(STUDENTS)
CROWD = 50
PATIENCE = 1800
"""Seconds after which a visitor who is neither answered nor told anything is an error."""


@dataclass(frozen=True)
class Server:
    """A page that answers, and the seconds from its command to its first byte."""

    process: psutil.Process
    address: str
    seconds: float

    @property
    def mib(self) -> float:
        """The resident memory of the process."""
        return self.process.memory_info().rss / 2**20


@contextmanager
def started(folder: Path) -> Iterator[Server]:
    """Start the page in a folder, and end it afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "fewstep", "ui", *STUDENTS, "--port", port]
    environment, clock = os.environ | {"PYTHONPATH": str(ROOT)}, time.monotonic()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline().startswith(b"open http"):
                raise UserError(f"{' '.join(command)} ended with code {process.wait()}")
            address = f"http://127.0.0.1:{port}/"
            with httpx.stream("GET", address, timeout=PATIENCE) as answer:
                next(answer.iter_bytes())
            yield Server(psutil.Process(process.pid), address, time.monotonic() - clock)
        finally:
            process.terminate()


def connected(server: Server) -> Client:
    """Return a visitor with a session of its own."""
    patience = {"timeout": PATIENCE}
    return Client(server.address, verbose=False, analytics_enabled=False, httpx_kwargs=patience)


def asked(seed: int) -> tuple[object, ...]:
    """Return what is asked for: an image by each model with the students' default steps."""
    return seed, True, "a red heart above a blue star", 1, 2.0, 1.0, "", False, 4, 4


def first_and_last(visitor: Client, seed: int) -> tuple[float, float]:
    """Return the seconds from a request to its first image, and to all of them."""
    clock, first = time.monotonic(), float("nan")
    for html, *_ in visitor.submit(*asked(seed), api_name="/compare"):
        if "<figure>" in html and first != first:
            first = time.monotonic() - clock
    return first, time.monotonic() - clock


def told(visitor: Client, seed: int, gate: threading.Barrier) -> str:
    """Ask once all others are ready to; return "answered" or "busy".

    Raises:
        ValueError: if the answer is not an image of this seed by each model.
    """
    gate.wait(PATIENCE)
    try:
        html = visitor.submit(*asked(seed), api_name="/compare").result(PATIENCE)[0]
    except QueueError:
        return "busy"
    if len(re.findall(rf"<figure>[^✓✗]+? seed {seed}\b", html)) != COLUMNS:
        raise ValueError(f"seed {seed} got another answer: {html[:300]}")
    return "answered"


def wave(server: Server, visitors: Sequence[Client]) -> dict[str, float]:
    """Let all ask at once; return how many were told what, and the server's MiB."""
    gate = threading.Barrier(len(visitors))
    with ThreadPoolExecutor(len(visitors)) as threads:
        jobs = [threads.submit(told, visitor, i, gate) for i, visitor in enumerate(visitors)]
        peak = largest(server, jobs)
    heard = [job.result() for job in jobs]
    for visitor in visitors:
        visitor.close()
    counts = {word: heard.count(word) for word in ("answered", "busy")}
    return counts | {"peak_mib": round(peak, 1), "mib": round(server.mib, 1)}


def largest(server: Server, jobs: Sequence[Future[str]]) -> float:
    """Return the largest memory that the server is seen to use until the jobs are done."""
    peak, left = server.mib, set(jobs)
    while left:
        _, left = wait(left, timeout=0.1)
        peak = max(peak, server.mib)
    return peak


def measure(rounds: int, images: int, waves: int, crowd: int) -> dict[str, object]:
    """Start the page, ask it one by one, then all at once; the first of each does not count."""
    starts = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            with started(Path(folder)) as server:
                starts.append(server.seconds)
                print(f"first byte after {server.seconds:.2f} s", flush=True)
        with started(Path(folder)) as server:
            visitor = connected(server)
            first_and_last(visitor, 0)  # which waits until the models are loaded
            times = [first_and_last(visitor, seed) for seed in range(1, images + 1)]
            print(f"first image after {max(first for first, _ in times):.2f} s", flush=True)
            found = []
            for _ in range(waves + 1):
                found.append(wave(server, [connected(server) for _ in range(crowd)]))
                print(found[-1], flush=True)
    grown = [after["mib"] - before["mib"] for before, after in pairwise(found)]
    return {
        "seconds_to_first_byte": asdict(mean_of_few(starts[1:])),
        "longest_to_first_byte": max(starts),
        "seconds_to_first_image": asdict(mean_of_few([first for first, _ in times])),
        "longest_to_first_image": max(first for first, _ in times),
        "seconds_to_all_images": asdict(mean_of_few([last for _, last in times])),
        "at_once": crowd,
        "waves": found,
        "mib_grown_by_a_wave": asdict(mean_of_few(grown)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    header = {
        "command": f"python -m benchmarks.page -o {args.out}",
        "commit": commit(),
        "machine": machine(),
        "load": os.getloadavg()[0],
    }
    result = header | measure(rounds=6, images=20, waves=6, crowd=CROWD)
    write_file(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
