"""An example below each command's help; a test reads every one with the command's own parser."""

import typer

EXAMPLES = {
    "quickstart": ["fewstep quickstart --quick"],
    "distill": [
        "fewstep distill mine.toml --run runs/mine",
        "fewstep distill mine.toml --run runs/mine --set train.steps=500",
    ],
    "prepare": ["fewstep prepare mine.toml --run runs/mine"],
    "distill-decoder": [
        "fewstep distill-decoder mine.toml --run runs/mine",
        "fewstep distill-decoder runs/mine/config.toml --run runs/mine --set decoder.steps=5000",
    ],
    "check": ["fewstep data check images --resolution 512"],
    "sample": [
        'fewstep sample runs/mine "a lighthouse at dusk" --seed 7 -o out.png',
        "fewstep sample bundled --prompts prompts.txt --num-images 4 -o images",
        'fewstep sample runs/mine "a lighthouse at dusk" --decoder tiny',
        'fewstep sample mine "a lighthouse at dusk" --backend openvino -o out.png',
    ],
    "evaluate": [
        "fewstep evaluate runs/mine --protocol prompts --prompts prompts.txt -o results",
        "fewstep evaluate --images folder --prompts prompts.txt -o results",
    ],
    "compare": ['fewstep compare runs/mine --prompt "a lighthouse at dusk" -o comparison'],
    "report": ["fewstep report results runs/mine -o report.html"],
    "verify": ["fewstep verify --quick"],
    "export": [
        "fewstep export runs/mine -o mine --check diffusers",
        "fewstep export runs/mine -o mine --openvino",
    ],
    "push": ["fewstep push mine you/mine --dry-run"],
    "plan": ["fewstep plan mine.toml", "fewstep plan mine.toml --cpu --json"],
    "doctor": ["fewstep doctor"],
    "ui": ["fewstep ui", "fewstep ui runs/mine runs/other --port 8000"],
}


def add_examples(app: typer.Typer) -> None:
    """Put each command's examples below its help."""
    for command in app.registered_commands:
        name = command.callback.__name__.replace("_", "-") if command.callback else ""
        lines = "\n\n".join(EXAMPLES.get(name, []))
        command.epilog = f"For example:\n\n{lines}" if lines else None
