"""The commands: each reads its settings, calls one function and says what comes next."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from fewstep import __version__
from fewstep.config import load_config
from fewstep.errors import Interrupted, UserError

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

app = typer.Typer(
    name="fewstep",
    help="Turn a 50-step text-to-image diffusion model into a 4-step one, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Override = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change a setting; may be repeated."),
]
RunFolder = Annotated[Path, typer.Option("--run", help="The run's folder.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Where to write.")]


@app.command()
def quickstart(
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where to write.")] = None,
    quick: Annotated[bool, typer.Option(help="Fewer steps and pictures: 3 minutes.")] = False,
) -> None:
    """Distil the bundled teacher with all three methods, measure, and write a report."""
    from fewstep.run.quickstart import run_quickstart

    out = out or Path("runs/quickstart-quick" if quick else "runs/quickstart")
    report = run_quickstart(out, quick)
    typer.echo(f"open {report}")


@app.command()
def train_teacher(
    config: Annotated[Path | None, typer.Argument(help="Default: the shipped one.")] = None,
    *,
    run: RunFolder,
    set_: Override = None,
) -> None:
    """Train, or continue, the bundled teacher. Run the same command again to resume."""
    from fewstep.bundled.teacher import load_teacher_config, train_teacher

    folder = train_teacher(load_teacher_config(config, set_ or []), run)
    typer.echo(f"wrote {folder}; next: fewstep sample {folder}")


@app.command()
def distill(
    config: Annotated[Path, typer.Argument(help="A TOML file; see configs/.")],
    *,
    run: RunFolder,
    set_: Override = None,
) -> None:
    """Train, or continue, the run in folder RUN. Run the same command again to resume."""
    settings = load_config(config, set_ or [])
    from fewstep.run.distill import distill_run
    from fewstep.run.progress import TerminalListener

    with TerminalListener(str(run)) as listener:
        steps = distill_run(settings, run, listener)
    typer.echo(f"trained {steps} steps; next: fewstep sample {run} 'a prompt' -o out.png")


@app.command()
def sample(
    source: Annotated[str, typer.Argument(help="A run, an artefact or a model.")],
    prompt: Annotated[list[str] | None, typer.Argument(help="One or several.")] = None,
    *,
    prompts: Annotated[Path | None, typer.Option(help="A file, one prompt a line.")] = None,
    seed: Annotated[int, typer.Option(help="Pictures are a function of prompt and seed.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Default: the contract's.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="For a teacher.")] = None,
    base: Annotated[str | None, typer.Option(help="Instead of the artefact's own.")] = None,
    out: Out = Path("out.png"),
) -> None:
    """Paint prompts at the timesteps of the artefact's contract; several make a grid."""
    from fewstep.run.paint import paint_file

    said = paint_file(
        source, prompt or [], prompts, seed=seed, num_steps=steps,
        guidance_scale=guidance_scale, base=base, out=out,
    )  # fmt: skip
    typer.echo(said)


@app.command()
def evaluate(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Runs, artefacts.")],
    *,
    protocol: Annotated[str, typer.Option(help="How it is measured.")] = "bundled",
    num_prompts: Annotated[int | None, typer.Option(help="Default: the protocol's.")] = None,
    out: Out = Path("results"),
) -> None:
    """Measure students beside their teacher, with intervals, into OUT/results.json."""
    from fewstep.run.evaluate import evaluate_sources, print_results

    path = evaluate_sources(sources, protocol, out, num_prompts)
    print_results(path)
    typer.echo(f"wrote {path}; next: fewstep report {out} -o report.html")


@app.command()
def compare(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Runs, artefacts.")],
    *,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="May be repeated.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file, one prompt a line.")] = None,
    seed: int = 0,
    out: Out = Path("comparison"),
) -> None:
    """Paint the same prompts from the same noise by teacher and students, side by side."""
    from fewstep.run.compare import compare_sources

    path = compare_sources(sources, prompt or [], prompts, seed, out)
    typer.echo(f"wrote {path}")


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Evaluations, runs.")],
    *,
    out: Out = Path("report.html"),
) -> None:
    """Put results and pictures into one self-contained HTML file; measures nothing itself."""
    from fewstep.run.report import write_report

    typer.echo(f"open {write_report(folders, out)}")


@app.command()
def verify(
    quick: Annotated[bool, typer.Option(help="30 seconds instead of 5 minutes.")] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where to write.")] = None,
) -> None:
    """Run the truth bench: every method against an exact flow map."""
    from fewstep.verify import verify

    verify(quick, out)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fewstep {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Options before any command."""


def main() -> None:
    """Run a command; errors that the user can mend are one sentence, with exit code 2."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, interrupt)
    try:
        app()
    except (UserError, OSError) as error:
        typer.secho(f"fewstep: {explain(error)}", fg="red", err=True)
        sys.exit(2)
    except Interrupted as stop:
        typer.echo(f"fewstep: {stop}; run the same command again to continue", err=True)
        sys.exit(stop.exit_code)


def interrupt(signum: int, frame: object) -> None:
    """Leave at once: what is on the disk is whole. A training loop saves first, by its own rule."""
    raise Interrupted(signum, "stopped")


def explain(error: UserError | OSError) -> str:
    """Return an error in one sentence; that of the system names the file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or 'while writing'}"
    return " ".join(str(error).split())


if __name__ == "__main__":
    main()
