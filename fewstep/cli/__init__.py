"""The commands: each reads its settings, calls one function and prints what comes next."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fewstep import __version__
from fewstep.cli.data import data
from fewstep.cli.examples import add_examples
from fewstep.console import next_command, print_once, say_loading, show_progress
from fewstep.errors import UserError
from fewstep.options import (
    ConfigFile,
    Force,
    Out,
    OutOrDefault,
    Override,
    PromptFile,
    RunFolder,
    option,
)
from fewstep.training.settings import read_settings

app = typer.Typer(
    name="fewstep",
    help="Turn a 50-step text-to-image diffusion model into a 4-step one, and prove it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def quickstart(
    out: OutOrDefault = None,
    quick: Annotated[bool, option("Fewer steps and images: about 3 minutes.")] = False,
) -> None:
    """Distil the bundled teacher with all three methods, measure, and write a report."""
    say_loading()
    from fewstep.quickstart import run_quickstart

    out = out or Path("runs/quickstart-quick" if quick else "runs/quickstart")
    typer.echo(run_quickstart(out, quick))


@app.command()
def distill(
    config: ConfigFile, run: RunFolder, set_: Override = None, force: Force = False
) -> None:
    """Train, or continue, the run in folder RUN. Run the same command again to resume."""
    settings = read_settings(config, set_ or [])
    from fewstep.student.sample import sample_next
    from fewstep.training import distill as training

    steps = show_progress(training.distill(settings, run, force=force))
    print_once(f"trained {steps} steps; {sample_next(run, settings.model.base)}")


@app.command()
def prepare(
    config: ConfigFile,
    run: Annotated[
        Path, option("The run to prepare: without data.cache the cache is beside it.")
    ] = Path("runs/run"),
    set_: Override = None,
    force: Force = False,
) -> None:
    """Encode the data of CONFIG once, for all runs. Run the same command again to resume."""
    settings = read_settings(config, set_ or [])
    from fewstep.training.prepare import prepare_data

    print_once(show_progress(prepare_data(settings, run, force=force)).summary())


@app.command()
def distill_decoder(
    config: ConfigFile,
    run: RunFolder,
    set_: Override = None,
    force: Force = False,
    json: Annotated[bool, option("Print JSON.")] = False,
) -> None:
    """Train a small decoder in place of the VAE's on the latents of CONFIG: RUN/tiny_decoder."""
    settings = read_settings(config, set_ or [])
    from fewstep.training import decoder

    made = show_progress(decoder.distill_decoder(settings, run, force=force))
    typer.echo(made.as_json() if json else made.summary())


@app.command()
def sample(
    source: Annotated[str, typer.Argument(help="A run, an artefact or a model.")],
    prompt: Annotated[list[str] | None, typer.Argument(help="One or more prompts.")] = None,
    prompts: PromptFile = None,
    seed: Annotated[int, option("Image i has seed + i, alone or in a batch.")] = 0,
    num_images: Annotated[int, option("Images of each prompt.")] = 1,
    height: Annotated[int | None, option("In pixels; default: as trained.")] = None,
    width: Annotated[int | None, option("In pixels; default: as trained.")] = None,
    steps: Annotated[int | None, option("Default: the artefact's own number.")] = None,
    guidance_scale: Annotated[
        float | None, option("For a teacher, or a guidance-free student.")
    ] = None,
    negative_prompt: Annotated[str, option("With --guidance-scale above 1.")] = "",
    image: Annotated[Path | None, option("An image to start from.")] = None,
    strength: Annotated[float | None, option("With --image: part of the steps; 0.5.")] = None,
    lora: Annotated[
        list[str] | None, option("Another LoRA; may be repeated.", metavar="PATH[=WEIGHT]")
    ] = None,
    base: Annotated[str | None, option("Base model, instead of the artefact's own.")] = None,
    decoder: Annotated[
        str | None, option("In place of the VAE: by distill-decoder.", metavar="tiny|FOLDER")
    ] = None,
    backend: Annotated[str, option("torch, or openvino after export --openvino.")] = "torch",
    precision: Annotated[str, option("fp32, bf16 or fp16; openvino knows the first two.")] = "fp32",
    out: Out = Path("out.png"),
) -> None:
    """Generate images: several make a grid, or each has its file, where OUT is a folder."""
    from fewstep.student.sample import SampleOptions, generate_file, read_loras

    options = SampleOptions(
        seed, num_images, height, width, steps, guidance_scale, negative_prompt, image, strength,
        read_loras(lora or []), base, decoder, backend, precision,
    )  # fmt: skip
    typer.echo(generate_file(source, prompt or [], prompts, out, options))


@app.command()
def evaluate(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCE...", help="Runs, artefacts.")
    ] = None,
    images: Annotated[
        list[Path] | None,
        option("In place of sources: a folder of images; may be repeated.", metavar="DIR"),
    ] = None,
    protocol: Annotated[str | None, option("Default: bundled, or prompts for --images.")] = None,
    num_prompts: Annotated[int | None, option("Default: the protocol's.")] = None,
    prompts: Annotated[
        Path | None, option("For protocol prompts, or of --images: one prompt a line.")
    ] = None,
    data: Annotated[Path | None, option("For protocol coco…: its folder.")] = None,
    weights: Annotated[
        Path | None, option("The folder of the feature extractors' weights.")
    ] = None,
    brief: Annotated[
        bool, option("The teacher in its full number of steps alone: a third of the time.")
    ] = False,
    out: Out = Path("results"),
) -> None:
    """Measure students beside their teacher, or folders of images, into OUT/results.json."""
    if bool(sources) == bool(images):
        raise UserError("name either runs and artefacts, or folders of images by --images DIR")
    if images and num_prompts is not None:
        raise UserError("--images measures all images of a folder; leave --num-prompts out")
    say_loading()
    from fewstep.evaluation.evaluate import evaluate_images, evaluate_sources, print_results

    files: Any = {"prompt_file": prompts, "data": data, "weights": weights}
    if images:
        path = evaluate_images(images, protocol or "prompts", out, **files)
    else:
        files["brief"] = brief
        path = evaluate_sources(sources or [], protocol or "bundled", out, num_prompts, **files)
    print_results(path)
    typer.echo(f"wrote {path}; {next_command('report', out, '-o', 'report.html')}")


@app.command()
def compare(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Runs, artefacts.")],
    prompt: Annotated[list[str] | None, option("May be repeated.", "--prompt")] = None,
    prompts: PromptFile = None,
    seed: Annotated[int, option("Image i has seed + i, as in sample.")] = 0,
    out: Out = Path("comparison"),
) -> None:
    """Generate the same prompts from the same noise by teacher and students, side by side."""
    say_loading()
    from fewstep.evaluation.compare import compare_sources

    typer.echo(f"wrote {compare_sources(sources, prompt or [], prompts, seed, out)}")


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Evaluations, runs.")],
    out: Out = Path("report.html"),
) -> None:
    """Write results and images as one self-contained HTML file; makes no measurement itself."""
    say_loading()
    from fewstep.evaluation.report.write import write_report

    typer.echo(f"open {write_report(folders, out)}")


@app.command()
def verify(
    quick: Annotated[bool, option("30 seconds instead of 5 minutes.")] = False,
    out: OutOrDefault = None,
) -> None:
    """Run the truth bench: every method against an exact flow map."""
    say_loading()
    from fewstep.verify import unexplained, verify

    if unexplained(verify(quick, out)):
        raise typer.Exit(1)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run or an artefact.")],
    out: Out = Path("artefact"),
    name: Annotated[str | None, option("Name of the files; default: the run's.")] = None,
    base: Annotated[
        str | None, option("The base model's id to write, after its weights were checked.")
    ] = None,
    license_: Annotated[str | None, option("Default: the base model's.", "--license")] = None,
    results: Annotated[Path | None, option("A results.json with numbers for the card.")] = None,
    precision: Annotated[str, option("fp32, fp16 or bf16.")] = "fp32",
    fused: Annotated[bool, option("Also write a diffusers folder with the LoRA merged.")] = False,
    checkpoint: Annotated[bool, option("Also write one file with the LoRA merged.")] = False,
    openvino: Annotated[bool, option("Also write files for sampling on a CPU.")] = False,
    int8: Annotated[bool, option("With --openvino: their weights in 8 bits.")] = False,
    check: Annotated[list[str] | None, option("Try it: diffusers, peft, onnx, openvino.")] = None,
) -> None:
    """Write a run's artefact: files for other programs, the contract and the model card."""
    say_loading()
    from fewstep.export.export import ExportOptions, export_artefact

    options = ExportOptions(
        name, base, license_, results, precision, fused, checkpoint, openvino, int8, check or ()
    )
    typer.echo(export_artefact(run, out, options))


@app.command()
def push(
    artefact: Annotated[str, typer.Argument(metavar="ARTEFACT", help="By fewstep export.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="you/name on the Hub.")],
    public: Annotated[bool, option("Default: a private repository.")] = False,
    fused: Annotated[bool, option("Upload the merged models in fused/ too.")] = False,
    dry_run: Annotated[bool, option("Only list what would be uploaded.")] = False,
) -> None:
    """Upload an artefact to the Hub, with the token of `hf auth login` or HF_TOKEN."""
    say_loading()
    from fewstep.export.hub import push_artefact

    typer.echo(push_artefact(artefact, repo, public=public, fused=fused, dry_run=dry_run))


@app.command()
def plan(
    config: ConfigFile,
    set_: Override = None,
    cpu: Annotated[bool, option("For this machine's CPU instead of a GPU.")] = False,
    gib: Annotated[
        float | None, option("For a GPU of so many GiB; default: this machine's, else a T4.", min=1)
    ] = None,
    json: Annotated[bool, option("Print JSON.")] = False,
) -> None:
    """Estimate a run's memory by term, its time, and whether it fits a GPU or this CPU."""
    if cpu and gib is not None:
        raise UserError("--gib is for a GPU, and --cpu for this machine without one: give either")
    settings = read_settings(config, set_ or [])
    from fewstep.training.plan_report import show_plan

    show_plan(settings, on_cpu=cpu, as_json=json, gib=gib)


@app.command()
def doctor(json: Annotated[bool, option("Print JSON.")] = False) -> None:
    """Check versions, devices, precision and disk, and whether this machine can train."""
    say_loading()
    from fewstep.doctor import as_json, examine, print_findings, verdict

    findings = examine()
    typer.echo(as_json(findings)) if json else print_findings(findings)
    if verdict(findings).startswith("not"):
        raise typer.Exit(2)


@app.command()
def ui(
    artefacts: Annotated[
        list[str] | None, typer.Argument(help="Runs, artefacts; default: the quickstart's.")
    ] = None,
    host: Annotated[str, option("Where others can reach it, with --password.")] = "127.0.0.1",
    port: Annotated[int | None, option("Default: the first free one from 7860 on.")] = None,
    folder: Annotated[
        list[Path] | None, option("Beside the current one, for models and data; may be repeated.")
    ] = None,
    password: Annotated[
        str | None, option("Of the user fewstep.", envvar="FEWSTEP_UI_PASSWORD")
    ] = None,
) -> None:
    """Open a page that compares students with their teacher, and trains others."""
    say_loading()
    from fewstep.ui import open_page

    open_page(artefacts or [], host, port, folder or [], password)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fewstep {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Options before any command."""


app.add_typer(data, name="data")
add_examples(app)
add_examples(data)
