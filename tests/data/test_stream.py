"""What a stream leaves out is listed once and counted over processes and stops."""

import pytest

from fewstep.data.stream import Skipped
from fewstep.distributed import Processes
from fewstep.errors import DataError
from tests.together import run_together


def listed(path):
    return path.read_text().splitlines()


def test_a_run_that_goes_on_lists_no_image_twice_and_counts_all(tmp_path):
    path = tmp_path / "skipped.txt"
    skipped = Skipped(path, limit=2)
    for reason in ("a.jpg:\nbroken", "b.jpg: broken", "a.jpg: broken"):
        skipped.add(reason)
        skipped.settle()
    assert listed(path) == ["a.jpg: broken", "b.jpg: broken"]
    again = Skipped(path, limit=2)
    again.add("b.jpg: broken")
    again.settle()
    assert listed(path) == ["a.jpg: broken", "b.jpg: broken"]
    again.add("c.jpg: broken")
    with pytest.raises(DataError, match=r"3 images cannot be used, .*max_skipped allows 2"):
        again.settle()


def test_the_first_of_several_processes_lists_what_all_leave_out(tmp_path):
    path = tmp_path / "skipped.txt"
    assert run_together(2, leaving_out, path) == [0, 0]
    assert listed(path) == ["both.jpg", "0.jpg", "1.jpg"]


def leaving_out(rank: int, path) -> None:
    skipped = Skipped(path, 2, Processes.started("cpu"))
    skipped.settle()
    skipped.add("both.jpg")
    skipped.settle()
    skipped.add(f"{rank}.jpg")
    with pytest.raises(DataError, match="3 images cannot be used"):
        skipped.settle()
