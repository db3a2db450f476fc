"""`fewstep quickstart`: distil, evaluate and report on the bundled world by the commands' code."""

from pathlib import Path

from rich.console import Console

from fewstep.config import load_config
from fewstep.console import show_progress
from fewstep.evaluation.evaluate import evaluate_sources, print_results
from fewstep.evaluation.report.write import write_report
from fewstep.files import check_writable
from fewstep.student.sample import sample_next
from fewstep.training.distill import distill

CONFIGS = Path(__file__).parent / "world" / "configs"
NAMES = ("ct", "cd", "multi-boundary")
DEMO = ("train.steps=150",)
NUM_PROMPTS = 200
QUICK = ("train.steps=12", "train.batch_size=16", "train.warmup=2", "data.num_pairs=512",
         "train.preview_every=12")  # fmt: skip
QUICK_NUM_PROMPTS = 100
STEPS = (1, 4, 8)
"""The numbers of steps at which students are evaluated, where they support them."""


def run_quickstart(out: Path, quick: bool) -> str:
    """Distil with every method, evaluate, and say what to open; interrupted, it continues.

    It trains each method once, for fewer steps than its config says, and evaluates fewer images
    than the committed results; `quick` far fewer: enough to show that everything works.
    """
    check_writable(out, needed_bytes=500_000_000)
    runs = []
    for name in NAMES:
        config = load_config(CONFIGS / f"{name}.toml", QUICK if quick else DEMO)
        runs.append(out / name)
        show_progress(distill(config, runs[-1]))

    evaluation = out / "evaluation"
    num_prompts = QUICK_NUM_PROMPTS if quick else NUM_PROMPTS
    path = evaluate_sources([str(run) for run in runs], "bundled", evaluation, num_prompts, STEPS)
    print_results(path)
    whole = load_config(CONFIGS / f"{NAMES[-1]}.toml").train.steps
    Console().print(
        f"A short training: {config.train.steps} of the {whole} steps in configs/, one training a "
        f"method, {num_prompts} prompts. "
        + ("It shows that all works, not what a method can do. " if quick else "")
        + "The README's figures are of three whole trainings a method and 2,000 prompts."
    )
    report = write_report([evaluation, *runs], out / "report.html")
    return f"open {report}; {sample_next(runs[-1], 'bundled')}"
