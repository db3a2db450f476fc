"""Recipes of the page: complete, checked, and confined to the page's folders."""

from pathlib import Path

import pytest

from fewstep.config import load_config, to_toml
from fewstep.errors import UserError
from fewstep.methods import METHODS
from fewstep.training.settings import build_method
from fewstep.ui.recipes import CARDS, PROCESSOR, planned, read_recipe, recipe
from tests.tiny import tiny_config

CONFIGS = Path(__file__).parents[2] / "configs"
T4, H100 = (next(name for name in CARDS if name.startswith(card)) for card in ("T4", "H100"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("card", CARDS)
def test_every_method_on_every_card_has_a_recipe_that_can_be_trained(tmp_path, method, card):
    for model, data in (("bundled", "bundled"), (str(tmp_path / "sd"), str(tmp_path / "images"))):
        config = read_recipe(recipe(model, data, method, card), [tmp_path])
        assert (config.model.base, config.data.path) == (model, data)
        assert build_method(config.method)[0] == method


def test_a_recipe_is_the_file_that_ships_with_its_reasons(tmp_path):
    sd, images = str(tmp_path / "sd"), str(tmp_path / "images")
    text = recipe(sd, images, "multi-boundary-cd", T4)
    assert "# a T4 imitates bf16 only" in text
    shipped = load_config(CONFIGS / "sd15-t4.toml", [f"model.base='{sd}'", f"data.path='{images}'"])
    assert read_recipe(text, [tmp_path]) == shipped
    assert read_recipe(recipe(sd, images, "cd", H100), [tmp_path]).train.batch_size == 64
    bundled = recipe("bundled", "bundled", "cd", PROCESSOR)
    assert read_recipe(bundled, []) == load_config(CONFIGS / "bundled-cd.toml")


def test_a_recipe_for_a_processor_leaves_the_precision_to_it(tmp_path):
    config = read_recipe(recipe(str(tmp_path), "bundled", "cd", PROCESSOR), [tmp_path])
    assert config.model.precision == "auto"


@pytest.mark.parametrize(
    ("table", "key"),
    [("model", "base"), ("model", "config"), ("data", "path"), ("data", "images"),
     ("data", "cache"), ("train", "init")],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/etc", "../elsewhere", "~/secret", "inside/../../elsewhere"])
def test_a_path_out_of_the_pages_folders_is_refused(tmp_path, monkeypatch, table, key, path):
    monkeypatch.chdir(tmp_path)
    text = f"[method]\nname = 'cd'\n[{table}]\n{key} = '{path}'\n"
    with pytest.raises(UserError, match=f"{table}.{key} is .* outside of the folders"):
        read_recipe(text, [tmp_path])


def test_a_link_out_of_the_folders_is_a_path_out_of_them_and_folder_allows_it(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (here / "link").symlink_to(there)
    text = f"[method]\nname = 'cd'\n[data]\npath = '{here / 'link'}'\n"
    with pytest.raises(UserError, match=r"outside of the folders .*--folder"):
        read_recipe(text, [here])
    assert read_recipe(text, [here, there]).data.path == str(here / "link")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[method", "the recipe is not TOML"),
        ("[method]\nname = 'cd'\n[train]\nlerning_rate = 1", "did you mean learning_rate"),
        ("[method]\nname = 'cd'\n[train]\nsteps = 0", "train.steps is 0; it has to be 1 or more"),
        ("[method]\nname = 'xyz'", "method.name is 'xyz'; known: ct"),
        ("method = 3", "method is 3; it has to be a table"),
        ("model = 'a'\n[method]\nname = 'cd'", "model is 'a'; it has to be a table"),
    ],
)
def test_a_mistake_in_a_recipe_is_a_sentence(text, message):
    with pytest.raises(UserError, match=message):
        read_recipe(text, [])


def test_the_plan_says_memory_time_and_whether_it_fits():
    config = tiny_config()
    text, folders = to_toml(config), [Path(config.model.base)]
    on_card = planned(read_recipe(text, folders), T4)
    assert "MiB of memory at the peak" in on_card
    assert "fits a T4" in on_card
    assert "ms (predicted)" in on_card
    assert "after the first steps" in planned(read_recipe(text, folders), PROCESSOR)
