"""Which card trains which model, by the plan of the config that ships for it.

    python -m benchmarks.cards -o benchmarks/results/cards.json

Where no config fits a card, the smallest one is planned, to say how much it lacks.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fewstep.config import Config, load_config
from fewstep.files import check_writable, write_file
from fewstep.training.gpus import CONTEXT, RECIPES, named_gpu, recipe_for
from fewstep.training.plan import Plan, plan_run

CARDS = {6: "RTX 3050 6 GB", 8: "RTX 3070", 12: "RTX 3060 12 GB", 16: "RTX 4060 Ti 16 GB",
         24: "RTX 3090"}  # fmt: skip
"""What stands for the cards of a size in GB: of those with a known rate a slow one."""


@cache
def planned(recipe: str) -> tuple[Config, Plan]:
    """Return a config that ships, and its plan."""
    config = load_config(recipe)
    return config, plan_run(config)


def row(size: int, family: str) -> dict[str, Any]:
    """Return what the config for a card of so many GB needs, or of the smallest one."""
    gpu = named_gpu(CARDS[size])
    recipe = recipe_for(gpu.gib, family)
    config, plan = planned(recipe or next(iter(RECIPES[family])))
    train, run = config.train, plan.run_seconds(gpu)
    return {
        "card": size,
        "gpu": gpu.name,
        "family": family,
        "recipe": recipe,
        "fits": plan.fits(gpu),
        "peak_bytes": plan.peak_bytes,
        "with_context_bytes": int(plan.peak_bytes + CONTEXT),
        "card_gib": gpu.gib,
        "batch": f"{train.batch_size} × {train.accumulate}",
        "settings": {"checkpointing": train.checkpointing, "optimizer": train.optimizer,
                     "ema_precision": train.ema_precision, "quantize": config.model.quantize},
        "hours": run and [seconds / 3600 for seconds in run],
    }  # fmt: skip


def rows() -> Iterator[dict[str, Any]]:
    """Yield a row for each card and model."""
    for size in CARDS:
        for family in RECIPES:
            yield row(size, family)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    check_writable(args.out.parent)
    command = f"python -m benchmarks.cards {shlex.join(sys.argv[1:])}"
    results = {"command": command, "rows": list(rows())}
    write_file(args.out, json.dumps(results, indent=1) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
