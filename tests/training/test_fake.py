"""Training with a fake score: its own optimiser, exact resuming, prompts alone, `train.init`."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep.config import (
    AdapterSettings,
    Config,
    DataSettings,
    FakeSettings,
    ModelSettings,
    TeacherSettings,
    load_config,
    to_toml,
)
from fewstep.data.base import DataError
from fewstep.diffusion.random import generator
from fewstep.errors import Interrupted, SettingError
from fewstep.models.adapters import lora_roles
from fewstep.models.checkpointing import set_checkpointing
from fewstep.models.loading import load_model
from fewstep.quickstart import CONFIGS
from fewstep.student.load import read_contract
from fewstep.training.distill import distill_run
from fewstep.training.loop import learning_rate
from fewstep.training.plan import plan_run
from fewstep.training.settings import fake_settings
from fewstep.training.setup import build
from tests.models.test_adapters import disturb
from tests.tiny import save_tiny_pipeline, tiny_config, tiny_pipeline
from tests.together import run_together
from tests.training.test_distill import same, stop_after, weights


def config(method=None, fake=None, **train) -> Config:
    settings = {"name": "trajectory-matching"} | (method or {})
    return replace(
        tiny_config(**({"steps": 4, "learning_rate": 1e-3} | train)),
        method=settings,
        fake=fake or FakeSettings(rank=3, updates=2, warmup=2, learning_rate=2e-3),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    distill_run(config(), run)
    return run


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A finished multi-boundary student."""
    run = tmp_path_factory.mktemp("runs") / "student"
    distill_run(tiny_config(steps=2), run)
    return run


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


def test_every_step_logs_the_fakes_loss_by_segment_and_its_gap_to_the_teacher(finished):
    for line in lines(finished):
        assert len(line["fake_loss_by_segment"]) == 4
        mean = sum(line["fake_loss_by_segment"]) / 4
        assert line["fake_loss"] == pytest.approx(mean, rel=1e-4)
        assert line["teacher_fake_gap"] >= 0
        assert line["fake_grad_norm"] > 0
    assert len(lines(finished)) == 4


def test_a_stopped_run_continues_to_the_same_weights_of_student_and_fake(finished, tmp_path):
    run = tmp_path / "stopped"
    with pytest.raises(Interrupted, match="after step 3"):
        stop_after(3, signal.SIGINT, config(), run)
    assert distill_run(config(), run) == 4
    assert same(weights(finished), weights(run))
    for name in ("trained", "averaged", "optimizer", "fake_trained", "fake_optimizer"):
        one, other = (
            load_file(path / "checkpoints" / "00000004" / f"{name}.safetensors")
            for path in (finished, run)
        )
        assert same(one, other), name
        assert any(value.any() for value in one.values()), name
    numbers = json.loads((run / "checkpoints" / "00000004" / "state.json").read_text())
    assert numbers["fake"]["step"] == 2 + 4 * 2


def test_workers_and_another_division_of_a_step_change_nothing(finished, tmp_path):
    workers = replace(config(), data=DataSettings(num_pairs=12, workers=1))
    distill_run(workers, tmp_path / "workers")
    assert same(weights(finished), weights(tmp_path / "workers"))
    distill_run(config(batch_size=1, accumulate=2), tmp_path / "accumulated")
    one, other = weights(finished), weights(tmp_path / "accumulated")
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=2e-4)


def test_two_processes_are_one_with_twice_the_batch(finished, tmp_path):
    run = tmp_path / "two"
    assert run_together(2, trained, config(batch_size=1), run) == [0, 0]
    one, other = weights(finished), weights(run)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=2e-4)


def trained(rank: int, config, run) -> None:
    distill_run(config, run)


def test_the_settings_of_both_rates_and_of_the_updates_change_the_student(finished, tmp_path):
    usual = FakeSettings(rank=3, updates=2, warmup=2, learning_rate=2e-3)
    for change in ({"rank": 4}, {"updates": 1}, {"warmup": 0}, {"learning_rate": 1e-3}):
        run = tmp_path / next(iter(change))
        distill_run(config(fake=replace(usual, **change)), run)
        assert not same(weights(finished), weights(run)), change
    distill_run(config(betas=(0.0, 0.95)), tmp_path / "betas")
    assert not same(weights(finished), weights(tmp_path / "betas"))


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_the_fakes_gradient_is_that_of_a_network_of_its_own(checkpointing):
    """With checkpointing its recomputed forward pass has to see the fake's adapter."""
    family, fakes = load_model(tiny_pipeline()), []
    x = torch.randn(2, 4, 8, 8, generator=generator("x"))
    inputs = (x, torch.tensor([99, 700]), family.encode_prompts(["a star", ""]))
    roles = lora_roles(family, "all", 2, 8.0, fake_rank=3)
    disturb(roles)
    for weight in roles.fake_trained.values():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator("fake"))
    for kind in ("none", checkpointing):
        set_checkpointing(roles.network.train(), kind)
        with roles.fake_learns():
            with torch.no_grad():
                assert not torch.equal(roles.student(*inputs).eps, roles.fake(*inputs).eps)
            roles.fake(*inputs).eps.square().mean().backward()
        fakes.append({n: weight.grad.clone() for n, weight in roles.fake_trained.items()})
        for weight in roles.fake_trained.values():
            weight.grad = None
    assert all(weight.grad is None for weight in roles.trained.values())
    for name, gradient in fakes[0].items():
        torch.testing.assert_close(fakes[1][name], gradient, rtol=1e-4, atol=1e-6)
        assert gradient.any() or ".lora_A." in name


def test_prompts_alone_are_enough_and_no_image_is_made(tmp_path, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("the teacher generated images that nobody looks at")

    monkeypatch.setattr("fewstep.data.dataset.teacher_sampler", never)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red heart\ntwo stars\na blue cross\n")
    run = tmp_path / "run"
    alone = replace(config(), data=DataSettings(path=str(prompts), resolution=64))
    distill_run(alone, run)
    assert any(value.any() for value in weights(run).values())


def test_the_anchor_learns_from_latents_that_the_teacher_made_of_prompts(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red heart\ntwo stars\na blue cross\n")
    data = DataSettings(path=str(prompts), resolution=64, teacher_steps=2)
    anchored = replace(config({"anchor": 0.5}), data=data)
    distill_run(anchored, tmp_path / "with")
    distill_run(replace(config(), data=data), tmp_path / "without")
    assert not same(weights(tmp_path / "with"), weights(tmp_path / "without"))


def test_a_run_starts_as_the_student_that_init_names(student, tmp_path):
    run = tmp_path / "run"
    distill_run(config(init=str(student), learning_rate=1e-12, steps=1), run)
    one, start = weights(run), weights(student)
    for name in start:
        torch.testing.assert_close(one[name], start[name], rtol=1e-4, atol=1e-6)
    assert any(value.any() for value in start.values())


def test_a_wider_lora_a_whole_network_and_every_method_start_from_a_student(student, tmp_path):
    settings = {"init": str(student), "learning_rate": 1e-12, "steps": 1}
    for name, adapter in (("cd", AdapterSettings(rank=5, alpha=5.0)), ("multi-boundary-cd", None)):
        run = tmp_path / name
        distill_run(replace(tiny_config(name, **settings), adapter=adapter), run)
    down, start = weights(tmp_path / "cd"), weights(student)
    for name in start:
        if ".lora_A." in name:
            rows = slice(0, len(start[name]))
            torch.testing.assert_close(down[name][rows], start[name], rtol=1e-4, atol=1e-6)
    whole = load_file(
        tmp_path / "multi-boundary-cd" / "artefact" / "unet" / "diffusion_pytorch_model.safetensors"
    )
    own = load_model(tiny_pipeline()).network.state_dict()
    assert any(not torch.equal(whole[name].float(), own[name].float()) for name in own)


def refused(settings: Config, tmp_path, words: str):
    with pytest.raises(SettingError, match=words):
        distill_run(settings, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_an_init_of_other_segments_or_timesteps_is_refused(student, tmp_path):
    words = r"method.num_segments is 2, and train.init .* was trained on 4 segments: set"
    refused(config({"num_segments": 2}, init=str(student)), tmp_path, words)
    quadratic = {"spacing": "quadratic", "num_solver_steps": 8}
    words = r"timesteps \[999, 749, 499, 249\], and this run .*\[999, 561, 249, 61\]"
    refused(config(quadratic, init=str(student)), tmp_path, words)


@pytest.mark.parametrize(
    ("scheduler", "what"),
    [
        ({"prediction_type": "v_prediction"}, "prediction type"),
        ({"beta_end": 0.013}, "noise sched"),
    ],
)
def test_an_init_of_another_prediction_type_or_schedule_is_refused(
    student, tmp_path, scheduler, what
):
    other = save_tiny_pipeline(tmp_path / "other", **scheduler)
    settings = replace(config(init=str(student)), model=ModelSettings(base=str(other)))
    refused(settings, tmp_path, f"train.init is .* than model.base .*: they differ in their {what}")


def test_an_init_of_another_base_is_refused(student, tmp_path):
    other = save_tiny_pipeline(tmp_path / "other")
    path = next((other / "unet").glob("*.safetensors"))
    save_file({n: w + 0.1 for n, w in load_file(path).items()}, path, {"format": "pt"})
    settings = replace(config(init=str(student)), model=ModelSettings(base=str(other)))
    refused(settings, tmp_path, "a student of another model than model.base .* in their weights")


def test_an_init_that_is_no_finished_student_is_refused_by_its_setting(tmp_path):
    nowhere = str(tmp_path / "nowhere")
    words = r"train.init is '.*nowhere', no finished student: there is no file or folder"
    refused(config(init=nowhere), tmp_path, words)
    (tmp_path / "unfinished").mkdir()
    words = "no finished student: .* is incomplete: fewstep.json is missing"
    refused(config(init=str(tmp_path / "unfinished")), tmp_path, words)


def test_an_init_that_does_not_fit_into_the_adapter_is_refused(student, tmp_path):
    narrow = replace(config(init=str(student)), adapter=AdapterSettings(rank=1))
    refused(narrow, tmp_path, "a LoRA of rank 2 .* which cannot hold it: use its preset, and 2")
    few = replace(config(init=str(student)), adapter=AdapterSettings("attention", 2))
    refused(few, tmp_path, "preset 'attention', which cannot hold it")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fake": FakeSettings(rank=1)}, "fake.rank is 1 and adapter.rank 2: a fake score of low"),
        ({"adapter": None}, r"there is no \[adapter\], and trajectory-matching trains"),
        ({"method": {"name": "cd"}}, r"\[fake\] is set, but cd trains no fake score"),
    ],
)
def test_a_fake_that_cannot_be_trained_is_refused(tmp_path, change, words):
    refused(replace(config(), **change), tmp_path, words)


def test_guidance_below_1_is_refused():
    with pytest.raises(SettingError, match=r"teacher.guidance_scale is 0\.5; it has to be 1"):
        replace(config(), teacher=TeacherSettings(0.5))


def test_no_prompts_are_refused(tmp_path):
    (tmp_path / "prompts.txt").write_text("\n\n")
    empty = DataSettings(path=str(tmp_path / "prompts.txt"), resolution=64)
    with pytest.raises(DataError, match="holds no prompt; write one a line"):
        distill_run(replace(config(), data=empty), tmp_path / "run")


def test_streaming_images_that_nobody_looks_at_is_refused(tmp_path):
    streaming = replace(config(), data=DataSettings(num_pairs=12, streaming=True))
    with pytest.raises(SettingError, match="the method learns from captions alone"):
        distill_run(streaming, tmp_path / "run")


def test_defaults_of_the_fake_are_the_students_and_are_written_down(finished, tmp_path):
    assert fake_settings(replace(config(), fake=None)) == FakeSettings(2, 2, 200, 1e-3)
    saved = load_config(finished / "config.toml")
    assert saved.fake == FakeSettings(3, 2, 2, 2e-3)
    path = tmp_path / "config.toml"
    path.write_text(to_toml(saved))
    assert load_config(path) == saved


def test_the_plan_counts_the_fake_and_its_updates():
    few, many = (
        plan_run(config(fake=FakeSettings(rank=2, updates=n, warmup=0))).cost for n in (1, 3)
    )
    wide = plan_run(config(fake=FakeSettings(rank=4, updates=1, warmup=0))).cost
    cd = plan_run(tiny_config("cd")).cost
    assert cd.flops < few.flops < many.flops
    assert few.optimizer == many.optimizer == 2 * cd.optimizer
    assert wide.adapters > few.adapters > cd.adapters


def test_the_contract_is_that_of_a_multi_boundary_student(finished, student):
    mine, theirs = (read_contract(run / "artefact") for run in (finished, student))
    assert (mine.sampler, mine.timesteps()) == (theirs.sampler, theirs.timesteps())
    assert mine.grid.boundaries == theirs.grid.boundaries


def test_an_update_with_its_fake_updates_costs_at_most_two_and_a_half_steps_of_cd():
    """Counted, by image call with gradient: 8 prompts of four segments, and 32 samples."""
    plans = [plan_run(load_config(CONFIGS / f"{name}.toml"), on_cpu=True).cost
             for name in ("trajectory-matching", "cd")]  # fmt: skip
    matching, cd = plans
    assert matching.flops < 2.5 * cd.flops
    assert matching.bytes < 1.35 * cd.bytes


def test_in_bf16_both_adapters_stay_fp32_and_a_stopped_run_continues_to_the_bit(finished, tmp_path):
    half = replace(config(), model=replace(config().model, precision="bf16"))
    distill_run(half, tmp_path / "whole")
    with pytest.raises(Interrupted, match="after step 3"):
        stop_after(3, signal.SIGINT, half, tmp_path / "stopped")
    distill_run(half, tmp_path / "stopped")
    last = "checkpoints/00000004/fake_trained.safetensors"
    fakes = [load_file(tmp_path / name / last) for name in ("whole", "stopped")]
    assert same(*fakes)
    assert {weight.dtype for weight in fakes[0].values()} == {torch.float32}
    first, full = lines(tmp_path / "whole")[0], lines(finished)[0]
    for name in ("loss", "fake_loss", "teacher_fake_gap"):
        assert first[name] == pytest.approx(full[name], rel=0.03), name


@pytest.mark.parametrize(("decay", "last"), [("constant", 2e-3), ("cosine", 0.0)])
def test_the_fakes_rate_stays_or_falls_to_zero_over_all_its_updates(tmp_path, decay, last):
    fake = FakeSettings(rank=3, updates=2, warmup=2, learning_rate=2e-3, decay=decay)
    training = build(config(fake=fake), tmp_path, "cpu").fake_training
    assert training is not None
    assert training.settings.steps == 2 + 4 * 2
    assert learning_rate(0, training.settings) == 2e-3
    assert learning_rate(training.settings.steps, training.settings) == pytest.approx(last)
