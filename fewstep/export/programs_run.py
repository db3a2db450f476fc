"""In which programs a student's row of the guides was run, and which rows are derived."""

from collections.abc import Mapping

from fewstep.student.contract import Contract

HERE = "run: in fewstep's tests"
DERIVED = "derived from its rules"
CPP = "stable-diffusion-cpp-python 0.4.7"
"""The package whose engine was run: the engine's own builds have no numbers."""
UNIFORM = {
    "diffusers alone": "0.30.3 to 0.42.1",
    "ComfyUI": "0.3.64",
    "OpenVINO GenAI": "2026.4.1.0",
    "ONNX Runtime": "1.32.0",
    "stable-diffusion.cpp": CPP,
    "InvokeAI": "6.14.2",
}
"""With uniform timesteps, whichever the sampler."""
RUN: Mapping[str, Mapping[str, str]] = {
    "deterministic": UNIFORM,
    "stochastic": UNIFORM,
    "quadratic": {"ComfyUI": "0.3.64", "stable-diffusion.cpp": CPP},
}
"""The versions that gave a student's image, by its kind and by program.

A test compares them with benchmarks/results/programs.json.
"""


def kind_of(contract: Contract) -> str:
    """Return which of the kinds in RUN a student is, "" for none."""
    if contract.grid.spacing == "uniform":
        return contract.sampler
    return "quadratic" if contract.sampler == "deterministic" else ""


def source_of(program: str, contract: Contract) -> str:
    """Return whether a program's row of the guides was run, and at which version."""
    if program in ("fewstep", "diffusers with fewstep", "PEFT"):
        return HERE
    version = RUN.get(kind_of(contract), {}).get(program)
    return f"run: {version}" if version else DERIVED


def with_sources(table: str, contract: Contract) -> str:
    """Return a Markdown table of programs with a column that says where each row is from."""
    head, rule, *rows = table.splitlines()
    sourced = [f"{row} {source_of(row.split(' | ')[0][2:], contract)} |" for row in rows]
    return "\n".join([f"{head} source |", f"{rule} --- |", *sourced])


def sources_line(contract: Contract) -> str:
    """Return in one line in which programs this kind of student was run."""
    ran = RUN.get(kind_of(contract), {})
    names = [f"{name.removesuffix(' alone')} {version}" for name, version in ran.items()]
    told = f"run in {', '.join(names)}; for others" if names else "for other programs"
    return f"the card's settings were {told} they are derived from the programs' rules"
