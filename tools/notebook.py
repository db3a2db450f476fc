"""Run the notebook in a new kernel and keep its outputs, without warnings of libraries.

python tools/notebook.py
"""

import re
import shutil
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
PATH = ROOT / "notebooks" / "consistency_distillation.ipynb"


def main() -> None:
    """Execute next to a copy of the configs, so that no path of this machine is printed."""
    notebook = nbformat.read(PATH, as_version=4)
    with tempfile.TemporaryDirectory(prefix="fewstep-") as folder:
        shutil.copytree(ROOT / "configs", Path(folder) / "configs")
        started = time.monotonic()
        where = {"metadata": {"path": folder}}
        NotebookClient(
            notebook, timeout=None, startup_timeout=600, kernel_name="python3", resources=where
        ).execute()
        print(f"{time.monotonic() - started:.0f} s")
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(tidy, cell.outputs) if is_result(output)]
    nbformat.write(notebook, PATH)


def is_result(output: nbformat.NotebookNode) -> bool:
    """Return whether an output is a result, not an empty stream."""
    return output.output_type != "stream" or bool(output.text.strip())


def tidy(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Keep only finished progress bars of stderr and one kind of image; no addresses of objects."""
    if output.get("name") == "stderr":
        bars = (line for line in output.text.splitlines(keepends=True) if "━" in line)
        output.text = "".join(bars)
    if "image/png" in output.get("data", {}):
        output.data.pop("image/jpeg", None)
    text = output.get("data", {}).get("text/plain")
    if text:
        output.data["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", text)
    return output


if __name__ == "__main__":
    main()
