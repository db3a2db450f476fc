"""A run becomes an artefact that generates the same images, and names where it comes from."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fewstep
from fewstep.config import load_config, to_toml
from fewstep.errors import UserError
from fewstep.evaluation.intervals import Interval
from fewstep.evaluation.results import Results, Row, save
from fewstep.export.export import ExportOptions, base_license, export_artefact
from fewstep.export.public import without_own_paths, without_paths
from fewstep.export.write import write_student
from fewstep.models import hub
from fewstep.student.contract import LORA_FILE
from fewstep.student.load import ArtefactError, read_artefact
from fewstep.student.pipeline import FewStepPipeline
from fewstep.training.distill import distill_run
from tests.artefacts import tiny_artefact, tiny_contract, tiny_family, tiny_student
from tests.tiny import save_tiny_pipeline, tiny_config

CONFIGS = Path(fewstep.__file__).parent / "world" / "configs"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that drew a preview, in a folder with an awkward name."""
    folder = tmp_path_factory.mktemp("runs") / "my LCM run"
    distill_run(tiny_config(steps=2, preview_every=2), folder)
    return folder


def image(source, **options):
    return np.asarray(FewStepPipeline.from_pretrained(source)("a star", **options)[0].image)


def test_a_runs_artefact_is_whole_as_training_leaves_it(run):
    names = {path.name for path in (run / "artefact").iterdir()}
    assert names == {
        "fewstep.json", "README.md", "comfyui.json", "scheduler",
        "pytorch_lora_weights.safetensors",
        "adapter_model.safetensors", "adapter_config.json", "fewstep-my-run.safetensors",
        "fewstep-my-run.json", "fewstep-my-run.png",
    }  # fmt: skip
    text = (run / "artefact" / "README.md").read_text()
    assert "![teacher and student](fewstep-my-run.png)" in text
    assert str(run.parent) not in text
    toml = text.partition("```toml\n")[2].partition("```")[0]
    (run / "again.toml").write_text(toml)
    assert load_config(run / "again.toml").train == load_config(run / "config.toml").train


def test_an_export_generates_the_same_image_and_keeps_the_name(run, tmp_path):
    export_artefact(str(run), tmp_path / "out", ExportOptions(license="mit"))
    assert np.array_equal(image(run), image(tmp_path / "out"))
    message = export_artefact(str(tmp_path / "out"), tmp_path / "again", ExportOptions())
    assert "4 steps, CFG 1" in message
    for name in ("fewstep-my-run.safetensors", "fewstep-my-run.png"):
        assert (tmp_path / "again" / name).exists()
    first, second = (read_artefact(tmp_path / name)[0] for name in ("out", "again"))
    assert first.grid == second.grid


def test_half_precision_halves_the_file_and_keeps_the_image(run, tmp_path):
    export_artefact(str(run), tmp_path / "half", ExportOptions(precision="fp16"))
    weights = load_file(tmp_path / "half" / LORA_FILE)
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    difference = np.abs(image(run).astype(int) - image(tmp_path / "half"))
    assert difference.max() <= 2


def test_a_base_of_another_name_is_checked_before_it_is_named(run, tmp_path):
    same = save_tiny_pipeline(tmp_path / "same")
    export_artefact(str(run), tmp_path / "out", ExportOptions(base=str(same)))
    assert read_artefact(tmp_path / "out")[0].base["id"] == str(same)
    name = "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(same / name)
    from safetensors.torch import save_file

    save_file({n: w + 0.01 for n, w in weights.items()}, same / name, {"format": "pt"})
    with pytest.raises(ArtefactError, match=r"another model than .* differ in their weights"):
        export_artefact(str(run), tmp_path / "wrong", ExportOptions(base=str(same)))
    assert not (tmp_path / "wrong").exists()


def test_another_name_of_the_base_model_takes_nothing_of_the_old_one(tmp_path, monkeypatch):
    contract = tiny_contract()
    old = {**contract.base, "revision": "0ld", "variant": "fp16", "config": "/disk/me/sd21"}
    write_student(tmp_path / "artefact", tiny_student(replace(contract, base=old)))
    pinned = replace(tiny_family(), revision="c0ffee")
    monkeypatch.setattr("fewstep.export.export.load_base", lambda *_: pinned)
    export_artefact(str(tmp_path / "artefact"), tmp_path / "out", ExportOptions(base="me/model"))
    assert read_artefact(tmp_path / "out")[0].base == contract.base | {
        "id": "me/model", "revision": "c0ffee", "variant": None, "config": None
    }  # fmt: skip


def test_a_damaged_file_is_not_exported(tmp_path):
    folder = tiny_artefact(tmp_path / "artefact")
    (folder / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(ArtefactError, match=r"is not the file that fewstep\.json was written for"):
        export_artefact(str(folder), tmp_path / "out", ExportOptions())


def test_the_settings_of_the_card_name_no_place_and_no_prompt():
    config = tiny_config()
    model = replace(config.model, base="/disk/me/sd21.safetensors", config="/disk/me/sd21")
    data = replace(config.data, path="/disk/me/coco", images="/disk/me/val2017", cache="/disk/c")
    train = replace(config.train, preview_prompts=("my secret",))
    public = without_own_paths(replace(config, model=model, data=data, train=train))
    assert (public.model.base, public.model.config) == ("sd21.safetensors", "sd21")
    assert (public.data.path, public.data.images, public.data.cache) == ("coco", "val2017", None)
    assert "disk" not in to_toml(public)
    assert "secret" not in to_toml(public)
    on_hub = replace(config, data=replace(data, path="user/set"), model=replace(model, base="a/b"))
    assert without_own_paths(on_hub).data.path == "user/set"
    assert without_own_paths(on_hub).model.base == "a/b"


def test_the_contract_names_data_by_hub_id_or_last_part_and_no_config_that_is_not_used():
    contract = tiny_contract(base="me/model")
    base = {**contract.base, "config": "/disk/me/sd21"}
    for path, expected in (
        ("user/set", "user/set"),
        ("/disk/me/coco", "coco"),
        ("bundled", "bundled"),
    ):
        data = {**contract.data, "path": path}
        public = without_paths(replace(contract, base=base, data=data))
        assert (public.data["path"], public.base["config"]) == (expected, None)
    local = replace(contract, base={**base, "id": "/disk/me/sd21.safetensors"})
    assert without_paths(local).base["config"] == "/disk/me/sd21", "it is needed to load it"


def test_where_the_hub_is_out_of_reach_a_license_is_read_from_its_cache_alone(
    tmp_path, monkeypatch
):
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: mit\n---\n# A model\n")
    asked = []

    def downloaded(repo, name, **options):
        asked.append((repo, name, options["local_files_only"]))
        return str(card)

    monkeypatch.setattr(hub, "out_of_reach", lambda: "there is no network")
    monkeypatch.setattr(hub, "hf_hub_download", downloaded)
    assert base_license("a-test/model") == "mit"
    assert asked == [("a-test/model", "README.md", True)]


def test_the_license_is_that_of_the_base_models_card(tmp_path):
    base = save_tiny_pipeline(tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n# A model\n")
    tiny_artefact(tmp_path / "artefact", base=base)
    export_artefact(str(tmp_path / "artefact"), tmp_path / "out", ExportOptions())
    assert "license: creativeml-openrail-m" in (tmp_path / "out" / "README.md").read_text()
    header = (tmp_path / "out" / "tiny-student.safetensors").read_bytes()[:4000]
    assert b'"modelspec.license":"creativeml-openrail-m"' in header


def test_the_card_shows_the_measured_numbers_of_this_student_and_its_teacher(run, tmp_path):
    def row(source, method, seed, value):
        metrics = {"frechet": Interval(value, value - 0.1, value + 0.1, 500)}
        return Row(source, method, 4, 4, seed, metrics)

    rows = (row("teacher", "teacher", None, 3.0), row("mine", "multi-boundary-cd", 0, 1.25),
            row("other", "multi-boundary-cd", 7, 9.75), row("ct", "ct", 0, 8.5))  # fmt: skip
    save(Results("bundled", "fewstep evaluate x", "c", "m", rows), tmp_path / "results.json")
    export_artefact(str(run), tmp_path / "out", ExportOptions(results=tmp_path / "results.json"))
    text = (tmp_path / "out" / "README.md").read_text()
    assert "1.25 [1.15 to 1.35], n 500" in text
    assert "3.00" in text
    assert "9.75" not in text
    assert "8.5" not in text
    few = replace(rows[1], metrics={"frechet": Interval(5.17, 5.17, 5.17, 3)})
    save(Results("bundled", "x", "c", "m", (rows[0], few)), tmp_path / "results.json")
    export_artefact(str(run), tmp_path / "few", ExportOptions(results=tmp_path / "results.json"))
    assert "| 5.17, n 3 |" in (tmp_path / "few" / "README.md").read_text(), "three have no interval"
    save(Results("bundled", "x", "c", "m", rows[:1]), tmp_path / "results.json")
    with pytest.raises(UserError, match="has no row of a multi-boundary-cd student of seed 0"):
        export_artefact(
            str(run), tmp_path / "out", ExportOptions(results=tmp_path / "results.json")
        )


def test_the_guidance_free_recipe_trains_a_student_that_takes_guidance(tmp_path):
    recipe = load_config(CONFIGS / "guidance-free.toml")
    config = replace(
        tiny_config(steps=1),
        teacher=recipe.teacher,
        data=replace(tiny_config().data, caption_dropout=recipe.data.caption_dropout),
    )
    distill_run(config, tmp_path / "free")
    assert read_artefact(tmp_path / "free")[0].takes_guidance
    plain = image(tmp_path / "free")
    guided = image(tmp_path / "free", guidance_scale=5.0, negative_prompt="a ring")
    assert not np.array_equal(plain, guided)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(precision="fp8"), "--precision is 'fp8'; use fp32, bf16, fp16"),
        (ExportOptions(name="my-scheduler"), "--name is 'my-scheduler'"),
    ],
)
def test_a_wrong_option_is_refused_and_writes_nothing(run, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        export_artefact(str(run), tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_left_alone(run, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to-grandma.txt").write_text("dear")
    with pytest.raises(UserError, match=r"holds to-grandma.txt, which is no part of an artefact"):
        export_artefact(str(run), tmp_path / "letters", ExportOptions())
    assert [p.name for p in (tmp_path / "letters").iterdir()] == ["to-grandma.txt"]


def test_an_export_is_replaced_unless_somebody_put_something_beside_it(run, tmp_path):
    for _ in range(2):
        export_artefact(str(run), tmp_path / "out", ExportOptions())
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes.txt"):
        export_artefact(str(run), tmp_path / "out", ExportOptions())
    assert (tmp_path / "out" / "notes.txt").exists()


def test_what_somebody_put_among_the_whole_models_is_not_lost(tmp_path):
    source = tiny_artefact(tmp_path / "source")
    for _ in range(2):
        export_artefact(str(source), tmp_path / "out", ExportOptions(fused=True))
    (tmp_path / "out" / "fused" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds fused/notes.txt, which is no part of an artefact"):
        export_artefact(str(source), tmp_path / "out", ExportOptions(fused=True))


def test_an_export_under_another_name_replaces_the_files_of_the_old_one(run, tmp_path):
    for name in ("first", "second"):
        export_artefact(str(run), tmp_path / "out", ExportOptions(name=name))
    assert [path.name for path in (tmp_path / "out").glob("*first*")] == []
    assert (tmp_path / "out" / "second.safetensors").exists()


def test_a_whole_network_is_exported_without_lora_files(tmp_path):
    config = replace(tiny_config(steps=1), adapter=None)
    distill_run(config, tmp_path / "full")
    export_artefact(str(tmp_path / "full"), tmp_path / "out", ExportOptions(checkpoint=True))
    assert (tmp_path / "out" / "fused" / "fewstep-full-fused.safetensors").exists()
    shutil.rmtree(tmp_path / "out" / "fused")
    names = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert names == {
        "fewstep.json", "README.md", "comfyui.json", "scheduler/scheduler_config.json",
        "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
    }  # fmt: skip
    assert np.array_equal(image(tmp_path / "full"), image(tmp_path / "out"))
    assert "_name_or_path" not in (tmp_path / "out" / "unet" / "config.json").read_text()
    files = json.loads((tmp_path / "out" / "fewstep.json").read_text())["files"].keys()
    assert files == {*names, "fused/fewstep-full-fused.safetensors"} - {
        "fewstep.json",
        "README.md",
    }
