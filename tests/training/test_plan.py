"""What a plan says is what the models are, what a step does and what a card holds."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fewstep.config import AdapterSettings, Config, ModelSettings, TrainSettings, load_config
from fewstep.console import finish
from fewstep.diffusion.random import Draw
from fewstep.errors import UserError
from fewstep.methods import METHODS
from fewstep.models.loading import load_model
from fewstep.training.distill import distill_run, open_batches
from fewstep.training.plan import GPUS, Gpu, Plan, advice, as_json, cache_summary, plan_run, smaller
from fewstep.training.setup import build
from fewstep.training.step_cost import LiveBytes, num_bytes
from tests.tiny import tiny_config

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("sd15-*.toml"))
SD15 = ModelSettings(base="stable-diffusion-v1-5/stable-diffusion-v1-5", precision="fp16")
MIB = 2**20


def sd15(method="multi-boundary-cd", rank=64, **train):
    return Config(
        method={"name": method},
        model=SD15,
        adapter=AdapterSettings(rank=rank),
        train=TrainSettings(**{"batch_size": 1} | train),
    )


@pytest.fixture(scope="module")
def plan():
    return plan_run(sd15())


def test_parameters_and_static_memory_are_exact(plan):
    assert (plan.trained_parameters, plan.trained_modules) == (67_252_224, 278)
    assert plan.cost.weights == 2 * 859_520_964
    assert plan.cost.gradients == 4 * plan.trained_parameters
    assert plan.cost.adapters == plan.cost.optimizer == 2 * plan.cost.gradients


def test_operations_are_those_of_four_forwards_and_a_backward(plan):
    assert plan.cost.flops / 1e12 == pytest.approx(4.57, rel=0.03)


def test_activations_are_those_counted_elsewhere(plan):
    assert plan.cost.activations / MIB == pytest.approx(931, rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "tflop", "mib"), [("selective", 4.90, 333), ("full", 5.35, 155)])
def test_checkpointing_trades_memory_for_operations(kind, tflop, mib):
    cost = plan_run(sd15(checkpointing=kind, accumulate=2)).cost  # gradients stand apart
    assert cost.flops / 2 / 1e12 == pytest.approx(tflop, rel=0.03)
    casts = cost.gradients // 2  # autocast's fp16 copies of the adapters, which were not counted
    assert (cost.activations - casts) / MIB == pytest.approx(mib, rel=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_fits_its_card_with_each_method(tmp_path, recipe, name):
    card = {"sd15-t4": "T4", "sd15-24gb": "RTX 4090", "sd15-h100": "H100"}[recipe.stem]
    text = recipe.read_text().replace('name = "multi-boundary-cd"', f'name = "{name}"')
    if not METHODS[name]().has_teacher:
        text = "\n".join(li for li in text.splitlines() if not li.startswith("guidance_scale"))
    (tmp_path / recipe.name).write_text(text)
    config = load_config(tmp_path / recipe.name)
    assert config.method["name"] == name
    assert plan_run(config).fits(next(c for c in GPUS if c.name == card))


@pytest.mark.slow
def test_the_recipe_of_trajectory_matching_fits_its_card_and_has_a_reason_for_every_value():
    path = RECIPES[0].with_name("trajectory-matching-sd15-24gb.toml")
    lines = [line for line in path.read_text().splitlines() if " = " in line and line[0] != "#"]
    assert len(lines) > 30
    assert all("# " in line for line in lines)
    assert plan_run(load_config(path)).fits(next(c for c in GPUS if c.name == "RTX 4090"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_value_of_a_recipe_has_its_reason(recipe):
    lines = [line for line in recipe.read_text().splitlines() if " = " in line]
    assert [line for line in lines if "  # " not in line] == []
    tomllib.loads(recipe.read_text())


@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_a_plan_counts_what_a_real_step_allocates_and_computes(tmp_path, checkpointing):
    config = tiny_config(checkpointing=checkpointing, batch_size=4)
    planned = plan_run(config, on_cpu=True)
    components = build(config, tmp_path / "run", "cpu")
    batches, family = finish(open_batches(components)), components.family
    known = [*components.network_for_training().parameters(), *family.vae.parameters()]
    nets, batch = components.denoisers(batches.uncond), batches.batch(batches.reader(range(4)))

    def backward() -> None:
        draw = Draw.keyed(0, range(4))
        components.method.loss(nets, batch, family.schedule, draw).loss.mean().backward()

    with LiveBytes(known) as live:
        backward()
    components.state.optimizer.zero_grad(set_to_none=True)
    with FlopCounterMode(display=False) as flops:
        backward()
    counted = flops.get_total_flops()  # without attention, whose kernel on processors is not known
    assert counted < planned.cost.flops < 1.2 * counted
    assert planned.cost.gradients == num_bytes(w.grad for w in components.state.trained.values())
    assert planned.cost.moving == pytest.approx(live.peak, rel=0.1)


def test_live_bytes_fall_when_tensors_are_freed():
    with LiveBytes() as live:
        one = torch.empty(1000)
        two = one + 1
        assert live.now == 8000
        view = two[:10]
        del one, two
        assert live.now == 4000, "a view keeps its storage"
        del view
    assert (live.now, live.peak) == (0, 8000)


def test_a_run_that_does_not_fit_is_told_what_to_change(plan, monkeypatch):
    config, card = sd15(batch_size=8), GPUS[0]
    sizes = {("none", 8): 20, ("selective", 8): 18, ("full", 8): 15.5, ("full", 4): 13}

    def planned(asked, **settings):
        size = sizes[asked.train.checkpointing, asked.train.batch_size] * 2**30
        moving = int(size) - plan.cost.standing
        return replace(plan, cost=replace(plan.cost, moving=moving))

    monkeypatch.setattr("fewstep.training.plan.plan_run", planned)
    told = advice(config, planned(config), card)
    assert told == (
        "does not fit a T4; it does with train.checkpointing = full, train.batch_size = 4, "
        "train.accumulate = 2"
    )


def test_smaller_runs_have_the_same_effective_batch():
    for _, config in smaller(sd15(batch_size=8)):
        assert config.train.batch_size * config.train.accumulate == 8


def test_programs_can_read_a_plan(plan: Plan):
    entries = json.loads(as_json(sd15(), plan))
    assert entries["trained_parameters"] == 67_252_224
    assert entries["cards"]["T4"]["fits"] is True
    assert entries["verdict"] == "fits a T4"


def test_what_streams_has_no_cache_and_its_codec_beside_the_step():
    config = tiny_config()
    cached = plan_run(config)
    streaming = plan_run(replace(config, data=replace(config.data, streaming=True)))
    family = load_model(config.model.base)
    parts = num_bytes(w for part in family.vae_and_text_encoder for w in part.parameters())
    assert (cached.cost.vae_and_text_encoder, streaming.cost.vae_and_text_encoder) == (0, parts)
    assert streaming.cost.bytes == cached.cost.bytes + parts
    assert cache_summary(streaming) == "there is no cache, as data.streaming is true"


def test_the_cache_is_planned_as_it_is_made(tmp_path):
    config = tiny_config()
    for flip in (False, True):
        data = replace(config.data, flip=flip, cache=str(tmp_path))
        dataset = build(replace(config, data=data), tmp_path / "run", "cpu").dataset
        planned = plan_run(replace(config, data=replace(data, captions="all")))
        assert planned.cache_bytes == dataset.cache_bytes, "of one caption an image"
        assert "GB in all, and 2 kB for each caption but the first" in cache_summary(planned)
    assert plan_run(config).cache_bytes_per_caption == 0


def test_a_gpu_without_memory_is_told_what_to_change(monkeypatch, tmp_path):
    def full(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("fewstep.training.distill.steps_of", full)
    monkeypatch.setattr("fewstep.training.plan.this_gpu", lambda: Gpu("small card", 1.0, 0, 0))
    with pytest.raises(UserError, match=r"allocate 2 GiB.*does not fit a small card"):
        distill_run(tiny_config(), tmp_path / "run")


def test_a_bad_setting_is_refused_by_the_plan_too():
    with pytest.raises(UserError, match="use 40, 48 or 52"):
        plan_run(replace(sd15(), method={"name": "multi-boundary-cd", "num_solver_steps": 50}))
