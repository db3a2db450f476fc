"""From what is chosen on the page to a config: the recipe as text, its checks and its plan."""

from collections.abc import Sequence
from pathlib import Path

import tomlkit
from tomlkit.items import Table

from fewstep.config import PATHS, Config
from fewstep.console import counted
from fewstep.errors import SettingError, UserError
from fewstep.methods import METHODS
from fewstep.models.architectures import ARCHITECTURES, known_architecture
from fewstep.models.hub import on_the_hub
from fewstep.models.memory import in_words
from fewstep.strict import from_tables
from fewstep.toml import parsed, with_paths
from fewstep.training.gpus import GPUS, RECIPES, T4, Gpu, recipe_for
from fewstep.training.memory import Room, advice
from fewstep.training.plan import plan_run
from fewstep.training.plan_report import cache_summary, in_time
from fewstep.training.settings import check_settings

PACKAGE = Path(__file__).parents[1]
BUNDLED = {
    "ct": "ct.toml",
    "cd": "cd.toml",
    "multi-boundary-cd": "multi-boundary.toml",
    "trajectory-matching": "trajectory-matching.toml",
}
"""The recipe of each method for the bundled teacher; another method has that of multi-boundary."""

MATCHING = "trajectory-matching-sd15-24gb.toml"
"""The recipe for Stable Diffusion of the method that has a second LoRA, whatever the card."""

PROCESSOR = "none: the processor"
CARDS = {PROCESSOR: None} | {f"{gpu.name} ({gpu.gib:.0f} GiB)": gpu for gpu in GPUS}


def recipe(model: str, data: str, method: str, card: str) -> str:
    """Return the recipe for a model, its data, a method and a card, as TOML with its comments.

    Raises:
        UserError: if the method or the card is unknown.
    """
    if method not in METHODS or card not in CARDS:
        raise UserError(f"{method!r} on {card!r} has no recipe; choose from the lists")
    gpu = CARDS[card]
    document = tomlkit.parse(recipe_file(model, method, gpu).read_text(encoding="utf-8"))
    tables = {name: _table(document, name) for name in ("method", "model", "teacher", "data")}
    tables["method"]["name"] = method
    if model != "bundled" or "base" in tables["model"]:
        tables["model"]["base"] = model
    tables["data"]["path"] = data
    if model != "bundled" and gpu is None:
        tables["model"]["precision"] = "auto"
    if not METHODS[method].has_teacher:
        tables["teacher"].pop("guidance_scale", None)
    for name, table in tables.items():
        if not table:
            document.remove(name)
    return tomlkit.dumps(document).lstrip()


def recipe_file(model: str, method: str, gpu: Gpu | None) -> Path:
    """Return the recipe that ships for a model, "bundled" or another, and a card."""
    if model == "bundled":
        return PACKAGE / "world" / "configs" / BUNDLED.get(method, BUNDLED["multi-boundary-cd"])
    if method == "trajectory-matching":
        return PACKAGE / "training" / "configs" / MATCHING
    family = "sdxl" if (known_architecture(model) or "").startswith("sdxl") else "sd15"
    name = recipe_for((gpu or T4).gib, family) or next(iter(RECIPES[family]))
    return PACKAGE / "training" / "configs" / f"{name}.toml"


def _table(document: tomlkit.TOMLDocument, name: str) -> Table:
    """Return a table of the document, which is added where it is missing."""
    if name not in document:
        document[name] = tomlkit.table()
    found = document[name]
    assert isinstance(found, Table)
    return found


def read_recipe(text: str, folders: Sequence[Path]) -> Config:
    """Read a recipe from the page, whose paths have to lie inside of the folders.

    Raises:
        UserError: naming the setting, as for a config file, or the path.
    """
    try:
        tables = parsed(text, "the recipe")
    except ValueError as error:
        raise UserError(f"the recipe is not TOML: {error}") from error
    for table, key in PATHS:
        values = tables.get(table)
        value = values.get(key) if isinstance(values, dict) else None
        if isinstance(value, str):
            check_inside(value, f"{table}.{key}", folders)
    config = from_tables(Config, with_paths(tables, PATHS))
    check_settings(config)
    return config


def check_inside(path: str, setting: str, folders: Sequence[Path]) -> None:
    """Refuse a path that leads out of the folders that the page may use; names are no paths.

    Raises:
        SettingError: naming the setting and the path.
    """
    if path == "bundled" or path in ARCHITECTURES or on_the_hub(path):
        return
    found = Path(path).expanduser().resolve()
    if not any(found.is_relative_to(folder.resolve()) for folder in folders):
        raise SettingError(
            f"{setting} is {path!r}, which lies outside of the folders that this page may use "
            f"({', '.join(map(str, folders))}); start it with --folder and another one"
        )


def planned(config: Config, card: str) -> str:
    """Return what a run needs on a card: memory, time and the cache, in words."""
    gpu = CARDS.get(card)
    plan = plan_run(config, on_cpu=gpu is None)
    words = [f"{counted(plan.steps, 'step')} of {counted(plan.images_per_step, 'image')}"]
    words.append(f"{in_words(plan.peak_bytes)} of memory at the peak (predicted)")
    if gpu is None:
        words.append("its time is known after the first steps, as processors differ")
    else:
        words.append(advice(config, plan, Room.of(gpu)))
        time = plan.run_seconds(gpu)
        words.append(f"{in_time(time)} (predicted)" if time else f"no {plan.precision} units")
    return "; ".join([*words, cache_summary(plan)]) + "."
