"""The images that a stream leaves out: told by every process, listed and counted once."""

from pathlib import Path

from fewstep.data.encoding import check_skipped, one_line
from fewstep.distributed import ALONE, Processes


class Skipped:
    """The list in `path`, which the first process writes and a run that goes on begins with.

    More than `limit` of them end the run, in every process at the same step.
    """

    def __init__(self, path: Path, limit: float, processes: Processes = ALONE) -> None:
        self.path, self.limit, self.processes = path, limit, processes
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.listed, self.told = dict.fromkeys(lines), []

    def tell(self, reason: str) -> None:
        """Note what this process has left out in a step."""
        self.told.append(one_line(reason))

    def settle(self) -> None:
        """List and count what all processes have left out; each calls it after each step.

        Raises:
            DataError: once there are more than the limit.
        """
        if not self.processes.all_reduce_max(len(self.told)):
            return
        told, self.told = self.processes.gather_lines(self.told), []
        new = [line for line in dict.fromkeys(told) if line not in self.listed]
        self.listed |= dict.fromkeys(new)
        if self.processes.is_main:
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in new)
        check_skipped(list(self.listed), self.limit)
