"""A run is a function of its settings: repeated, killed or continued, it gives the same weights."""

import importlib.util
import json
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from tensorboardX.proto.event_pb2 import Event

from fewstep.config import TeacherSettings, load_config, to_toml
from fewstep.console import finish
from fewstep.data.dataset import Dataset
from fewstep.diffusion.random import Draw
from fewstep.errors import Interrupted, SettingError, UserError
from fewstep.images import grid
from fewstep.models.loading import load_model
from fewstep.student.generate import teacher_sampler
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.seeds import image_generators
from fewstep.training.checkpoint import Checkpoints
from fewstep.training.distill import (
    TrainingStep,
    distill,
    distill_run,
    open_batches,
    steps_of,
    train_run,
)
from fewstep.training.divergence import TrainingDivergedError
from fewstep.training.previews import Previews
from fewstep.training.setup import build
from tests.tiny import save_tiny_pipeline, tiny_config, tiny_pipeline

PROMPTS = ["a red heart", "two stars"]


def weights(run):
    return load_file(run / "artefact" / "pytorch_lora_weights.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of multi-boundary CD, never interrupted."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    distill_run(tiny_config(), run)
    return run


def stop_after(step, signum, config, run):
    """Ask a run to stop after some steps, as Ctrl-C or a cluster would."""
    for event in distill(config, run):
        if isinstance(event, TrainingStep) and event.done == step:
            signal.raise_signal(signum)


def test_two_runs_of_one_config_give_the_same_weights_to_the_bit(finished, tmp_path):
    distill_run(tiny_config(), tmp_path / "again")
    assert same(weights(finished), weights(tmp_path / "again"))


def test_another_seed_gives_other_weights(finished, tmp_path):
    distill_run(tiny_config(seed=1), tmp_path / "other")
    assert not same(weights(finished), weights(tmp_path / "other"))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_saves_and_continues_to_the_same_weights(finished, tmp_path, signum, code):
    run = tmp_path / "stopped"
    with pytest.raises(Interrupted, match="after step 3") as stop:
        stop_after(3, signum, tiny_config(), run)
    assert stop.value.exit_code == code
    assert not (run / "artefact").exists()
    state = json.loads((run / "checkpoints" / "00000003" / "state.json").read_text())
    assert len(state["watch"]["last"]) == 3, "what tells an explosion is resumed too"
    assert distill_run(tiny_config(), run) == 6
    assert same(weights(finished), weights(run))
    logged = [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()]
    assert logged == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_weights(finished, tmp_path):
    run, config = tmp_path / "killed", tmp_path / "config.toml"
    config.write_text(to_toml(tiny_config()))
    command = [sys.executable, "-m", "fewstep", "distill", str(config), "--run", str(run)]
    for steps in (2, 4):  # killed twice, in the middle of a step
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            log = run / "metrics.jsonl"
            while process.poll() is None:
                if log.exists() and len(log.read_text().splitlines()) > steps:
                    process.kill()
                time.sleep(0.01)
    subprocess.run(command, check=True, capture_output=True)
    assert same(weights(finished), weights(run))


def test_a_finished_run_is_not_trained_again(finished):
    before = (finished / "metrics.jsonl").read_text()
    assert distill_run(tiny_config(), finished) == 6
    assert (finished / "metrics.jsonl").read_text() == before


def test_stock_diffusers_generates_the_multi_boundary_students_image(finished):
    ours = FewStepPipeline.from_pretrained(finished)(PROMPTS, seed=3)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline())
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(finished / "artefact")
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    noise = Draw(image_generators(3, 2)).noise_like(torch.empty(2, 4, 8, 8))
    arguments = {"num_inference_steps": 4, "guidance_scale": 1, "latents": noise,
                 "height": 64, "width": 64, "output_type": "np"}  # fmt: skip
    theirs = pipe(PROMPTS, **arguments).images
    difference = np.abs(np.stack([np.asarray(p.image) for p in ours]) / 255 - theirs)
    assert difference.max() <= 2 / 255
    pipe.unload_lora_weights()
    without = pipe(PROMPTS, **arguments).images
    assert np.abs(without - theirs).max() > 5 / 255, "the LoRA changes nothing: the test is blind"


def test_stock_diffusers_generates_the_cd_students_image(tmp_path):
    distill_run(tiny_config("cd"), tmp_path / "cd")
    ours = FewStepPipeline.from_pretrained(tmp_path / "cd")(PROMPTS, seed=3, num_inference_steps=1)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline())
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(tmp_path / "cd" / "artefact")
    pipe.scheduler = LCMScheduler.from_config(
        pipe.scheduler.config, original_inference_steps=40, set_alpha_to_one=True
    )
    noise = Draw(image_generators(3, 2)).noise_like(torch.empty(2, 4, 8, 8))
    theirs = pipe(
        PROMPTS, num_inference_steps=1, guidance_scale=1, latents=noise, output_type="np"
    ).images
    assert np.abs(np.stack([np.asarray(p.image) for p in ours]) / 255 - theirs).max() <= 2 / 255


def stock_images(run, base, zero_snr):
    """Return what stock diffusers generates with a run's LoRA, in calls as the contract says."""
    contract = FewStepPipeline.from_pretrained(run).contract
    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(run / "artefact", weight_name="pytorch_lora_weights.safetensors")
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        rescale_betas_zero_snr=zero_snr,
    )
    num_steps = 4 if contract.sampler == "deterministic" else 1
    noise = Draw(image_generators(3, 2)).noise_like(torch.empty(2, 4, 8, 8))
    return num_steps, pipe(
        PROMPTS, num_inference_steps=num_steps, guidance_scale=1, latents=noise, height=64,
        width=64, output_type="np",
    ).images  # fmt: skip


QUICK = {("cd", 2), ("multi-boundary-cd", 2)}
MATRIX = [
    pytest.param(method, version, marks=() if (method, version) in QUICK else pytest.mark.slow)
    for version in (1, 2)
    for method in ("ct", "cd", "multi-boundary-ct", "multi-boundary-cd")
]


@pytest.mark.parametrize(("method", "version"), MATRIX)
def test_each_family_is_distilled_by_each_method_and_generated_by_stock_diffusers(
    tmp_path, method, version
):
    steps = 6 if (method, version) in QUICK else 20
    distill_run(tiny_config(method, version, steps=steps), tmp_path / "run")
    assert_stock_diffusers_agrees(tmp_path / "run", tiny_pipeline(version), version == 2)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_sd_2_without_zero_terminal_snr_is_distilled_and_generated(tmp_path, prediction):
    base, config = tmp_path / "base", tiny_config("multi-boundary-cd", steps=2)
    save_tiny_pipeline(base, 2, prediction_type=prediction)
    distill_run(replace(config, model=replace(config.model, base=str(base))), tmp_path / "run")
    assert_stock_diffusers_agrees(tmp_path / "run", base, False)


def assert_stock_diffusers_agrees(run, base, zero_snr):
    num_steps, theirs = stock_images(run, base, zero_snr)
    ours = FewStepPipeline.from_pretrained(run)(PROMPTS, seed=3, num_inference_steps=num_steps)
    difference = np.abs(np.stack([np.asarray(image.image) for image in ours]) / 255 - theirs)
    assert difference.max() <= 2 / 255


@pytest.mark.parametrize("method", ["ct", "multi-boundary-ct"])
def test_every_method_is_trained_saved_and_sampled(tmp_path, method):
    distill_run(tiny_config(method, steps=2), tmp_path / method)
    pipeline = FewStepPipeline.from_pretrained(tmp_path / method)
    assert pipeline.contract.guidance_scale == 1.0, "training from data knows no guidance"
    assert pipeline("a star")[0].image.size == (64, 64)


def test_full_fine_tuning_goes_the_same_way(tmp_path):
    config = replace(tiny_config(steps=2, target="ema"), adapter=None)
    distill_run(config, tmp_path / "full")
    pipeline = FewStepPipeline.from_pretrained(tmp_path / "full")
    assert pipeline.contract.adapter == {"preset": "full"}
    assert pipeline("a star")[0].image.size == (64, 64)


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_checkpointing_changes_memory_but_no_weight(finished, tmp_path, kind):
    distill_run(tiny_config(checkpointing=kind), tmp_path / "run")
    mine, theirs = weights(tmp_path / "run"), weights(finished)
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_network_has_the_same_losses_and_gradients(tmp_path):
    """At a low rate: Adam turns the rounding of a gradient that is nearly 0 into a whole step."""
    records, moments = [], []
    for compiled in (False, True):
        run = tmp_path / str(compiled)
        distill_run(tiny_config(compile=compiled, learning_rate=1e-4), run)
        records.append([json.loads(line) for line in (run / "metrics.jsonl").open()])
        optimizer = load_file(max((run / "checkpoints").iterdir()) / "optimizer.safetensors")
        moments.append(torch.cat([v.flatten() for k, v in optimizer.items() if "exp_avg/" in k]))
    for key in ("loss", "grad_norm"):
        eager, compiled = ([record[key] for record in run] for run in records)
        assert compiled[0] == pytest.approx(eager[0], rel=1e-4), "the same weights"
        assert compiled == pytest.approx(eager, rel=2e-2)
    assert (moments[0] - moments[1]).norm() < 2e-2 * moments[0].norm()


def test_mixed_precision_computes_in_bf16_what_has_no_gradient_and_all_else_in_fp32(tmp_path):
    """The loss differs by the target's rounding alone; the student is that of fp32 to the bit."""
    config = tiny_config(target="student")
    outputs = {}
    for precision in ("fp32", "mixed"):
        model = replace(config.model, precision=precision)
        built = build(replace(config, model=model), tmp_path / precision, "cpu")
        assert {w.dtype for w in built.roles.network.parameters()} == {torch.float32}
        uncond = built.family.encode_prompts([""])
        nets, cond = built.denoisers(uncond), built.family.encode_prompts(["a star", "a heart"])
        x_t, t = (
            torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
            torch.tensor([999, 499]),
        )
        with torch.no_grad():
            without = [net(x_t, t, cond).eps for net in (nets.teacher, nets.target)]
        student = nets.student(x_t, t, cond).eps
        assert student.requires_grad
        outputs[precision] = [*without, student.detach()]
    for expected, found in zip(*outputs.values(), strict=True):
        assert found.dtype == torch.float32
        assert (found - expected).norm() < 0.1 * expected.norm()  # guidance multiplies it
    *without, student = ((a == b).all() for a, b in zip(*outputs.values(), strict=True))
    assert student
    assert not any(without)


def test_bf16_trains_adapters_in_fp32_and_agrees_to_its_rounding(tmp_path):
    """Each step of a bf16 run has the loss of the same step in fp32, from the same state.

    Two whole runs cannot be compared: Adam's first updates are the learning rate times a sign, and
    where a gradient is nearly 0 the sign is that of its rounding, which differs between CPUs with
    and without instructions for bf16. So fp32 takes each step from the bf16 run's checkpoint. The
    loss is a distance of outputs near 1, which bf16 rounds by 2**-9 at most: it has 8 bits.
    """
    config, run = tiny_config(save_every=1, keep_last=6), tmp_path / "run"
    distill_run(replace(config, model=replace(config.model, precision="bf16")), run)
    half = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").open()]
    fp32 = build(config, tmp_path / "fp32", "cpu")
    batches = finish(open_batches(fp32))
    full = [next(steps_of(fp32, batches)).loss]
    for step in range(1, 6):
        name = f"checkpoints/{step:08d}"
        shutil.copytree(run / name, fp32.run / name)
        fp32.checkpoints.load_last()
        full.append(next(steps_of(fp32, batches)).loss)
    assert half == pytest.approx(full, abs=2**-9)
    saved = load_file(run / "checkpoints" / "00000006" / "trained.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    for dtype in (torch.float32, torch.bfloat16):
        pipeline = FewStepPipeline.from_pretrained(run, dtype=dtype)
        assert pipeline("a star")[0].image.size == (64, 64)


def events(run):
    """Yield every value in a run's TensorBoard files: records of length, check, content, check."""
    for path in sorted((run / "tensorboard").rglob("events.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 16 + length
            for value in event.summary.value:
                yield event.step, value


def test_previews_and_curves_are_drawn_from_step_0(tmp_path):
    run = tmp_path / "run"
    distill_run(tiny_config(steps=2, preview_every=2), run)
    drawn = sorted(path.name for path in (run / "previews").iterdir())
    assert drawn == ["00000000.png", "00000002.png"]
    told = list(events(run))
    losses = {step: value.simple_value for step, value in told if value.tag == "train/loss"}
    logged = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert losses == {entry["step"]: pytest.approx(entry["loss"]) for entry in logged}
    with Image.open(run / "previews" / "00000002.png") as image:
        sizes = [(step, value.image.width, value.image.height)
                 for step, value in told if value.tag.startswith("preview")]  # fmt: skip
        assert sizes == [(0, *image.size), (2, *image.size)]


def test_a_preview_shows_the_teacher_as_it_is_beside_a_student_that_changes(tmp_path, monkeypatch):
    drawn = []

    def keep(columns, prompts):
        drawn.append(list(columns.values()))
        return grid(columns, prompts)

    monkeypatch.setattr("fewstep.training.previews.grid", keep)
    distill_run(tiny_config(steps=2, preview_every=2, preview_prompts=PROMPTS), tmp_path / "run")
    family = load_model(tiny_pipeline())
    sampler = teacher_sampler(family, 50, 4.0)
    theirs = sampler.decode(sampler.latents(PROMPTS, image_generators(0, 2), 64)).numpy()
    (teacher, first), (later, last) = drawn
    assert np.array_equal(teacher, theirs)
    assert np.array_equal(later, theirs)
    assert not np.array_equal(first, theirs), "4 steps are not 50"
    assert not np.array_equal(first, last), "the student is trained"


def test_a_step_is_saved_before_its_preview_is_drawn(tmp_path, monkeypatch):
    def draw(previews):
        if previews.components.state.step:
            raise RuntimeError("no memory to decode with")

    monkeypatch.setattr(Previews, "draw", draw)
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="no memory"):
        distill_run(tiny_config(preview_every=2), run)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["00000002"]


def test_a_preview_that_was_not_finished_is_drawn_when_the_run_continues(tmp_path, monkeypatch):
    draw, whole, run = Previews.draw, tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    config = tiny_config(steps=2, preview_every=2, preview_prompts=PROMPTS)
    distill_run(config, whole)
    at_the_end = "the last step is saved, and its preview is not drawn"

    def failing(previews):
        if previews.components.state.step == 2:
            raise RuntimeError(at_the_end)
        return draw(previews)

    monkeypatch.setattr(Previews, "draw", failing)
    with pytest.raises(RuntimeError, match=at_the_end):
        distill_run(config, run)
    monkeypatch.setattr(Previews, "draw", draw)
    distill_run(config, run)
    for name in ("previews/00000002.png", "artefact/fewstep-run.png"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def break_after(step, config, run):
    """Break a weight after some steps, as a cosmic ray or a bad learning rate would."""
    components = build(config, run, "cpu")
    for event in train_run(components):
        if isinstance(event, TrainingStep) and event.done == step:
            next(iter(components.state.trained.values())).data.fill_(float("nan"))


def test_a_diverged_run_keeps_its_last_good_checkpoint_and_continues_from_it(finished, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(TrainingDivergedError, match=r"diverged at step 4: the loss is nan"):
        break_after(3, tiny_config(), run)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["00000002"]
    assert distill_run(tiny_config(), run) == 6
    assert same(weights(finished), weights(run))


def test_a_half_written_checkpoint_folder_is_passed_over(finished, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        stop_after(3, signal.SIGTERM, tiny_config(), run)
    half = run / "checkpoints" / "00000004"
    half.mkdir()
    shutil.copy(run / "checkpoints" / "00000003" / "trained.safetensors", half)
    assert distill_run(tiny_config(), run) == 6
    assert same(weights(finished), weights(run))


def test_a_run_in_mixed_precision_continues_to_the_bit(tmp_path):
    config = tiny_config()
    config = replace(config, model=replace(config.model, precision="mixed"))
    with pytest.raises(Interrupted):
        stop_after(3, signal.SIGTERM, config, tmp_path / "halved")
    for run in ("halved", "whole"):
        assert distill_run(config, tmp_path / run) == 6
    assert same(weights(tmp_path / "halved"), weights(tmp_path / "whole"))


def test_the_settings_are_kept_with_the_run(finished):
    kept, given = load_config(finished / "config.toml"), tiny_config()
    assert kept.model == replace(given.model, precision="fp32"), "auto is resolved, for a CPU"
    assert (kept.adapter, kept.train) == (given.adapter, replace(given.train, processes=1))


def test_the_defaults_of_method_and_model_are_kept_too(finished):
    kept = load_config(finished / "config.toml")
    assert kept.method["name"] == "multi-boundary-cd"
    assert (kept.method["num_segments"], kept.method["num_solver_steps"]) == (4, 40)
    assert (kept.teacher.guidance_scale, kept.data.resolution) == (4.0, 64)


def test_a_default_that_has_changed_since_is_noticed(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("guidance_scale = 4.0", "guidance_scale = 5.0"))
    with pytest.raises(SettingError, match=r"teacher.guidance_scale = 5.0 there, 4.0 here"):
        distill_run(tiny_config(), run)


def change_weights(folder):
    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    name = min(weights)
    save_file(weights | {name: weights[name] + 1}, path, metadata={"format": "pt"})


def change_json(path, **settings):
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


BASE_CHANGES = {
    "unet": (change_weights, "weights or noise levels"),
    "vae": (change_weights, "VAE, text encoder"),
    "text_encoder": (change_weights, "VAE, text encoder"),
    "vae/config.json": (lambda path: change_json(path, scaling_factor=0.2), "VAE, text encoder"),
    "tokenizer/tokenizer_config.json": (
        lambda path: change_json(path, model_max_length=20),
        "VAE, text encoder or tokenizer",
    ),
    "scheduler/scheduler_config.json": (
        lambda path: change_json(path, prediction_type="v_prediction"),
        "prediction type",
    ),
}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_base_that_was_changed_in_place_is_noticed(tmp_path, streaming):
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(tiny_pipeline(), base)
    config = tiny_config(steps=2)
    config = replace(
        config,
        model=replace(config.model, base=str(base)),
        data=replace(config.data, streaming=streaming),
    )
    distill_run(config, run)
    for part, (change, what) in BASE_CHANGES.items():
        change(base / part)
        with pytest.raises(SettingError, match=f"another base: the {what}.*--run folder"):
            distill_run(config, run)
        shutil.rmtree(base)
        shutil.copytree(tiny_pipeline(), base)
    assert distill_run(config, run) == 2


def test_each_step_is_saved_once_and_the_last_always(tmp_path, monkeypatch):
    saved, save = [], Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda self: (saved.append(self.state.step), save(self))
    )
    for steps, expected in ((4, [2, 4]), (3, [2, 3])):
        saved.clear()
        distill_run(tiny_config(steps=steps), tmp_path / str(steps))
        assert saved == expected


def test_a_folder_of_another_run_is_refused_and_kept(finished):
    before = weights(finished)
    with pytest.raises(SettingError, match=r"train.seed = 0 there, 7 here.*another --run folder"):
        distill_run(tiny_config(seed=7), finished)
    assert same(before, weights(finished))


def test_a_folder_in_which_another_run_trains_is_refused_until_that_ends(finished, tmp_path):
    first = distill(tiny_config(), tmp_path / "run")
    next(step for step in first if isinstance(step, TrainingStep))
    with pytest.raises(UserError, match="is being trained by another process; wait for it"):
        distill_run(tiny_config(), tmp_path / "run")
    first.close()
    distill_run(tiny_config(), tmp_path / "run")
    assert same(weights(tmp_path / "run"), weights(finished))


def test_harmless_settings_may_change(finished):
    assert distill_run(tiny_config(keep_last=5, save_every=3, checkpointing="full"), finished) == 6


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            replace(tiny_config(), model=replace(tiny_config().model, precision="fp16")),
            "'fp16', in which a CPU does not train: use 'fp32', 'mixed', 'bf16' or 'auto'",
        ),
        (
            replace(tiny_config("ct"), teacher=TeacherSettings(guidance_scale=4.0)),
            "guidance_scale is 4.0, but ct learns from data",
        ),
        (replace(tiny_config(), method={"name": "cdd"}), r"method.name is 'cdd'; known: ct, cd"),
        (replace(tiny_config(), method={"name": ["cd"]}), r"method.name is \['cd'\]; known: ct"),
        (replace(tiny_config(), method={"name": "cd", "hubr_c": 1.0}), "did you mean huber_c"),
        (
            replace(tiny_config(), method={"name": "multi-boundary-cd", "num_solver_steps": 50}),
            "use 40, 48 or 52",
        ),
        (
            replace(tiny_config(), data=replace(tiny_config().data, resolution=60)),
            "multiple of 16",
        ),
        (
            replace(tiny_config(), model=replace(tiny_config().model, base="no such folder")),
            "there is no file or folder no such folder",
        ),
        (
            replace(tiny_config(), data=replace(tiny_config().data, path="nowhere")),
            "which is no folder",
        ),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path, config, message, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = tmp_path / "run"
    with pytest.raises(UserError, match=message):
        distill_run(config, run)
    assert not run.exists()


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
@pytest.mark.parametrize(
    ("known", "by_accelerate"), [(None, ("wandb", "trackio")), ("installed", ())]
)
def test_a_tracker_that_cannot_be_used_is_refused(
    tmp_path, monkeypatch, tracker, known, by_accelerate
):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: known if name == tracker else real(name, *more),
    )
    monkeypatch.setattr("accelerate.utils.LoggerType", by_accelerate)
    message = rf"'{tracker}', which is not installed, or .* pip install 'fewstep\[{tracker}\]'"
    with pytest.raises(UserError, match=message):
        distill_run(tiny_config(trackers=(tracker,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_decoder_without_numbers_is_refused_before_the_work(tmp_path):
    base = save_tiny_pipeline(tmp_path / "base")
    path = base / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["decoder.conv_out.bias"][0] = float("inf")
    save_file(weights, path, {"format": "pt"})
    config = tiny_config()
    config = replace(config, model=replace(config.model, base=str(base)))
    with pytest.raises(UserError, match="images that are not finite"):
        build(config, tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


def test_a_disk_without_room_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fewstep.files.shutil.disk_usage", lambda path: namedtuple("Usage", "free")(10**6)
    )
    with pytest.raises(OSError, match=r"has 1 MB left and 2\d MB are needed; make room"):
        distill_run(tiny_config(), tmp_path / "run")
    assert not (tmp_path / "cache").exists()


def test_a_disk_with_room_for_the_run_or_the_cache_but_not_for_both_is_refused(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(Dataset, "cache_bytes", 10**9)
    monkeypatch.setattr(
        "fewstep.files.shutil.disk_usage", lambda path: namedtuple("Usage", "free")(10**9 + 10**7)
    )
    with pytest.raises(OSError, match=r"has 1010 MB left and 10\d\d MB"):
        distill_run(tiny_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()  # a smaller run may be started there


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write to .*file.*choose another folder"):
        distill_run(tiny_config(), tmp_path / "file" / "run")
