"""What a plan says is what the models are, what a step does and what a card holds."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from peft.tuners.lora import LoraLayer
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from fewstep.config import (
    AdapterSettings,
    Config,
    FakeSettings,
    ModelSettings,
    TrainSettings,
    load_config,
)
from fewstep.console import finish
from fewstep.diffusion.random import Draw
from fewstep.errors import SettingError, UserError
from fewstep.methods import METHODS
from fewstep.models.counting import OperationCounter, num_bytes
from fewstep.models.loading import load_model
from fewstep.training.changes import changed_by, smaller
from fewstep.training.distill import open_batches
from fewstep.training.gpus import GPUS, RECIPES, T4, Gpu, named_gpu, planned_gpu, recipe_for
from fewstep.training.plan import Plan, narrow_modules, plan_run, skeleton
from fewstep.training.plan_report import (
    Verdict,
    cache_summary,
    changes_table,
    gpu_table,
    in_time,
    show_plan,
    summary,
    to_json,
    verdict,
)
from fewstep.training.setup import build
from fewstep.training.step_cost import decode_bytes, generate_bytes
from tests.tiny import tiny_config

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = [file for family in RECIPES for file in sorted(CONFIGS.glob(f"{family}-*.toml"))]
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


@pytest.fixture(scope="module")
def tiny():
    return plan_run(tiny_config())


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
@pytest.mark.parametrize("name", [name for names in RECIPES.values() for name in names])
def test_each_recipe_fits_its_card(name):
    family = "sdxl" if name.startswith("sdxl") else "sd15"
    plan = plan_run(load_config(CONFIGS / f"{name}.toml"))
    assert plan.trained_parameters == {"sd15": 67_252_224, "sdxl": 196_751_360}[family]
    assert plan.fits(named_gpu(RECIPES[family][name]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ct", "cd", "multi-boundary-ct"]
)  # trajectory matching has its own
def test_the_recipe_of_a_t4_fits_it_with_each_method(tmp_path, name):
    recipe = CONFIGS / "sd15-t4.toml"
    text = recipe.read_text().replace('name = "multi-boundary-cd"', f'name = "{name}"')
    if not METHODS[name]().has_teacher:
        text = "\n".join(li for li in text.splitlines() if not li.startswith("guidance_scale"))
    (tmp_path / recipe.name).write_text(text)
    config = load_config(tmp_path / recipe.name)
    assert config.method["name"] == name
    assert plan_run(config).fits(T4)


@pytest.mark.slow
def test_the_recipe_of_trajectory_matching_fits_its_card_and_has_a_reason_for_every_value():
    path = CONFIGS / "trajectory-matching-sd15-24gb.toml"
    lines = [line for line in path.read_text().splitlines() if " = " in line and line[0] != "#"]
    assert len(lines) > 30
    assert all("# " in line for line in lines)
    assert plan_run(load_config(path)).fits(named_gpu("RTX 4090"))


@pytest.mark.parametrize("recipe", FILES, ids=lambda path: path.stem)
def test_every_value_of_a_recipe_has_its_reason(recipe):
    lines = [line for line in recipe.read_text().splitlines() if " = " in line]
    assert [line for line in lines if "  # " not in line] == []
    tomllib.loads(recipe.read_text())


def test_every_recipe_is_advised_from_its_card_on_to_the_next():
    assert {file.stem for file in FILES} == {name for names in RECIPES.values() for name in names}
    for family, names in RECIPES.items():
        sizes = [named_gpu(card).gib for card in names.values()]
        assert sizes == sorted(sizes)
        assert [recipe_for(size, family) for size in sizes] == list(names)
        assert recipe_for(sizes[0] - 1, family) is None
    assert recipe_for(139.8) == "sd15-h100"
    assert recipe_for(15.99, "sdxl") == "sdxl-12gb"


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

    with OperationCounter(known) as live:
        backward()
    components.state.optimizer.zero_grad(set_to_none=True)
    with FlopCounterMode(display=False) as flops:
        backward()
    counted = flops.get_total_flops()  # without attention, whose kernel on processors is not known
    assert counted < planned.cost.flops < 1.2 * counted
    assert planned.cost.gradients == num_bytes(w.grad for w in components.state.trained.values())
    assert planned.cost.moving == pytest.approx(live.peak, rel=0.1)


def test_smaller_runs_have_the_same_effective_batch():
    asked = sd15(batch_size=8)
    for changes in smaller(asked):
        config = changed_by(asked, changes)
        assert config.train.batch_size * config.train.accumulate == 8


def test_programs_can_read_a_plan(plan: Plan):
    entries = json.loads(to_json(plan, verdict(sd15(), plan, T4)))
    assert entries["trained_parameters"] == 67_252_224
    assert entries["cards"]["T4"]["fits"] is True
    assert entries["cards"]["H100"]["seconds_a_step"][1] == pytest.approx(
        max(plan.cost.flops / 989e12 / 0.15, plan.cost.kernels * 20e-6), rel=0.01
    )
    assert (entries["verdict"], entries["changes"]) == ("fits a T4", [])


def test_a_run_that_does_not_fit_is_told_what_each_setting_saves(capsys, monkeypatch):
    config = tiny_config(batch_size=4)
    planned, gib = plan_run(config), 2**30
    small = Gpu("small card", 1 + 0.7 * planned.peak_bytes / gib, 0, 0)  # with CUDA's own
    found = verdict(config, planned, small)
    peaks = [planned.peak_bytes, *(peak for _, peak in found.changes)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] <= 0.7 * planned.peak_bytes < peaks[-2]
    assert found.words.startswith("does not fit a small card; it does with train.checkpointing = ")
    assert found.words.endswith(", ".join(words for words, _ in found.changes))
    rows = [[*column.cells] for column in changes_table(planned, found).columns]
    saved = [float(cell) for cell in rows[1][1:]]
    assert sum(saved) == pytest.approx(float(rows[2][0]) - float(rows[2][-1]), abs=0.05)
    entries = json.loads(to_json(planned, found))["changes"]
    assert [entry["peak_bytes"] for entry in entries] == peaks[1:]
    monkeypatch.setattr("fewstep.training.plan_report.plan_run", lambda config, on_cpu: planned)
    monkeypatch.setattr("fewstep.training.plan_report.verdict", lambda *_: found)
    show_plan(config, on_cpu=False, as_json=False, gib=small.gib)
    printed = " ".join(capsys.readouterr().out.split())
    assert "what makes it fit" in printed
    assert f"{found.words}." in printed


def test_a_plan_is_for_the_card_that_is_here(monkeypatch):
    assert planned_gpu(8).gib == 8
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert planned_gpu() == T4
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "mine")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (0, 6 * 2**30))
    mine = planned_gpu()
    assert (mine.name, mine.gib, mine.computes("bf16")) == ("mine", 6, False)


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
        told = cache_summary(planned)
        assert "kB for 12 pairs, and 1.5 kB for each caption but the first" in told
    assert plan_run(config).cache_bytes_per_caption == 0


def test_a_bad_setting_is_refused_by_the_plan_too():
    with pytest.raises(UserError, match="use 40, 48 or 52"):
        plan_run(replace(sd15(), method={"name": "multi-boundary-cd", "num_solver_steps": 50}))


def test_the_pairs_that_are_there_are_planned_and_not_those_that_a_config_names(tmp_path):
    for number in range(3):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a box")
    config = tiny_config(batch_size=1)
    here = replace(config, data=replace(config.data, path=str(tmp_path), num_pairs=5000))
    planned = plan_run(here)
    assert planned.cache_bytes == 3 * planned.cache_bytes_per_pair
    later = replace(here, data=replace(here.data, path=str(tmp_path / "later")))
    planned = plan_run(later)
    told = summary(later, planned, Verdict("fits"))
    assert "5000 pairs that data.num_pairs names;" in told
    assert "later is not on this machine and was not counted;" in told
    with pytest.raises(UserError, match=r"takes 4 samples .* has 3 pairs"):
        plan_run(replace(here, train=replace(here.train, batch_size=4)))


def test_on_a_cpu_no_gpu_is_named_and_no_time_is_predicted(capsys, monkeypatch):
    monkeypatch.setattr("fewstep.training.memory.available_memory", lambda: 2**30)
    config = tiny_config()
    plan = plan_run(config, on_cpu=True)
    monkeypatch.setattr("fewstep.training.plan_report.plan_run", lambda config, on_cpu: plan)
    show_plan(config, on_cpu=True, as_json=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert not [gpu.name for gpu in GPUS if gpu.name in printed]
    assert "fits this machine's main memory, of which 1.00 GiB are free" in printed
    assert "no time is predicted for a CPU" in printed
    show_plan(config, on_cpu=True, as_json=True)
    entries = json.loads(capsys.readouterr().out)
    assert entries["cards"] == {}
    assert entries["verdict"].startswith("fits this machine's main memory")


def test_a_gpu_without_units_for_bf16_gets_no_rate_for_it(plan):
    t4, others = GPUS[0], GPUS[1:]
    bf16 = replace(plan, precision="bf16")
    assert bf16.step_seconds(t4) is bf16.run_seconds(t4) is None
    assert all(bf16.step_seconds(gpu) == plan.step_seconds(gpu) for gpu in others)
    told = verdict(sd15(), bf16, t4)
    assert told.words == "fits a T4, which has no units for bf16: set model.precision = fp16 for it"
    assert json.loads(to_json(bf16, told))["cards"]["T4"]["hours"] is None
    cells = [[*column.cells] for column in gpu_table(bf16).columns]
    assert [column[0] for column in cells] == ["T4", "15", "yes", "no bf16 units", "no rate known"]


def test_mixed_precision_is_planned_for_a_cpu_alone():
    config = replace(tiny_config(), model=replace(tiny_config().model, precision="mixed"))
    assert plan_run(config, on_cpu=True).precision == "mixed"
    with pytest.raises(SettingError, match="'mixed', which is for a CPU"):
        plan_run(config)


def test_a_geforces_half_precision_is_summed_in_fp32_as_pytorch_does():
    geforces = [gpu for gpu in GPUS if gpu.name.startswith("RTX")]
    ratios = [gpu.half / gpu.full for gpu in geforces]
    assert ratios == pytest.approx([2] * len(geforces), rel=0.01)


def test_a_small_network_takes_the_time_of_its_kernels_on_any_gpu(tiny):
    for gpu in GPUS:
        best, worst = tiny.step_seconds(gpu)
        assert (best, worst) == (tiny.cost.kernels * 5e-6, tiny.cost.kernels * 20e-6)
        assert tiny.run_seconds(gpu) == (6 * best, 6 * worst)
    assert in_time(tiny.step_seconds(GPUS[0])).endswith(" ms")


def test_modules_that_are_narrower_than_the_rank_are_counted(tiny):
    assert tiny.narrow_modules == 0
    networks = skeleton(replace(tiny_config(), adapter=AdapterSettings(rank=17)), on_cpu=False)
    layers = [m for m in networks.family.network.modules() if isinstance(m, LoraLayer)]
    narrow = [m for m in layers if min(m.get_base_layer().weight.flatten(1).shape) < 17]
    assert 0 < narrow_modules(networks) == len(narrow) < len(layers)


def test_every_process_adds_to_a_step(tiny):
    assert tiny.images_per_step == 2
    assert plan_run(tiny_config(processes=3)).images_per_step == 6


def test_a_fake_scores_updates_and_warm_up_are_part_of_the_time():
    config = tiny_config("trajectory-matching")
    warm, updated = (
        plan_run(replace(config, fake=FakeSettings(updates=updates, warmup=warmup)))
        for updates, warmup in ((1, 6), (2, 0))
    )
    update = updated.cost.flops - warm.cost.flops
    assert 0 < update < warm.cost.flops
    walk = warm.cost.warmup_flops / 6 - update
    assert 0 < walk < update / 2, "a forward pass, without the backward one of an update"
    assert updated.cost.warmup_flops == 0
    run, step = warm.run_seconds(GPUS[0])[0], warm.step_seconds(GPUS[0])[0]
    assert run / step == pytest.approx(6 + 6 * (update + walk) / warm.cost.flops)


def test_previews_and_saving_are_planned_beside_the_step(tiny):
    assert "a preview" not in tiny.peaks, "none is drawn"
    prompts = ("a cat",) * 40
    whole = replace(tiny_config(preview_every=1, preview_prompts=prompts), adapter=None)
    planned, networks = plan_run(whole, on_cpu=True), skeleton(whole, on_cpu=True)
    drawn = planned.peaks["a preview"] - planned.cost.standing
    assert drawn == max(decode_bytes(networks, 40), generate_bytes(networks, 40))
    saved = planned.peaks["saving a checkpoint"] - planned.cost.standing
    assert saved == 2 * planned.cost.gradients, "the moments once more, as a file"


def test_what_is_compiled_is_planned_too(tiny):
    assert plan_run(tiny_config(compile=True)).cost == tiny.cost


def test_a_batch_that_cannot_even_be_counted_is_refused():
    config = tiny_config(batch_size=10**9 - 1)
    huge = replace(config, data=replace(config.data, path="later/here", resolution=2**29))
    with pytest.raises(UserError, match=r"train\.batch_size = 999999999 and data\.resolution"):
        plan_run(huge)


def test_no_random_numbers_are_drawn_for_a_plan(monkeypatch):
    def drawn(*args, **kwargs):
        raise AssertionError("a plan has no values")

    config = tiny_config(batch_size=10**6)
    config = replace(config, data=replace(config.data, path="later/here"))
    monkeypatch.setattr("fewstep.diffusion.random.generator", drawn)
    monkeypatch.setattr("fewstep.models.adapters.generator", drawn)
    assert plan_run(config).peak_bytes > 10**11
