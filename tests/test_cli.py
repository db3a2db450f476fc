"""The commands answer at once, and errors of the user are one sentence with exit code 2."""

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.__main__ import explain, main, run_command
from fewstep.config import TEACHER_GUIDANCE, load_config, to_toml
from fewstep.errors import Interrupted
from fewstep.models.loading import load_model
from fewstep.student.generate import teacher_sampler
from tests.artefacts import tiny_artefact
from tests.tiny import tiny_config, tiny_pipeline


def run(monkeypatch, capsys, *arguments):
    capsys.readouterr()  # what was told before
    monkeypatch.setattr(sys, "argv", ["fewstep", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code, capsys.readouterr()


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(to_toml(tiny_config(steps=1)))
    return path


def seconds(*command):
    clock = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - clock


def test_help_answers_before_torch_could_be_imported():
    helped = min(seconds("-m", "fewstep", "--help") for _ in range(2))
    assert helped < min(seconds("-c", "import torch") for _ in range(2))


REFUSED_WITHOUT_TORCH = """
import sys
from fewstep.errors import SettingError
from fewstep.training.settings import read_settings
try:
    read_settings("configs/bundled-cd.toml", ["method.name=lcm"])
except SettingError as error:
    print(error, *sys.modules.keys() & {"torch", "numpy", "diffusers"})
"""


def test_a_wrong_name_of_a_method_is_refused_before_torch_is_loaded():
    command = [sys.executable, "-c", REFUSED_WITHOUT_TORCH]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.startswith("method.name is 'lcm'; known: ct, cd, multi-boundary-cd, ")
    assert printed.endswith(", trajectory-matching\n"), "no heavy library follows"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.lerning_rate=3", "unknown setting train.lerning_rate; did you mean learning_rate?"),
        ("train.steps=many", "train.steps is 'many'; it has to be an integer"),
        ("train.steps=0", "train.steps is 0; it has to be 1 or more"),
        ("train.ema=1", "train.ema is 1; it has to be below 1"),
        ("method.distance=huber", "fewstep: method.distance is 'huber'; known: squared-error"),
        ("method.num_solver_steps=1001", "fewstep: 1001 steps do not fit the schedule: use 1 to"),
        ("train.steps.x=3", "cannot read --set 'train.steps.x=3'; write table.key=value"),
        ("teacher.guidance_scale=0.5", "it has to be 1 (no guidance) or more"),
        ("model.precision=fp64", "it has to be 'auto', 'fp32', 'mixed', 'bf16' or 'fp16'"),
        ("adapter.rank=0", "adapter.rank is 0; it has to be 1 or more"),
        ("train.checkpointing=true", "it has to be 'none', 'selective' or 'full'"),
        ("steps=3", "unknown setting steps; known: method, model"),
        ("train.steps", "write table.key=value"),
        ("method=cd", "method is 'cd'; it has to be a table"),
        ("teacher.guidance_scale=inf", "teacher.guidance_scale is inf; it has to be a finite"),
        ("model.precision=fp16", "in which a CPU does not train"),
    ],
)
def test_a_bad_setting_is_one_sentence(monkeypatch, capsys, tmp_path, config, setting, message):
    code, told = run(
        monkeypatch, capsys, "distill", config, "--run", tmp_path / "run", "--set", setting
    )
    assert code == 2
    assert message in told.err.replace("\n", " ")
    assert len(told.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_plan_is_for_a_gpu_or_for_this_machine(monkeypatch, capsys, config):
    code, told = run(monkeypatch, capsys, "plan", config, "--cpu", "--gib", "8")
    assert (code, "--gib is for a GPU, and --cpu" in told.err) == (2, True)


def test_a_number_where_a_table_belongs_is_one_sentence(monkeypatch, capsys, tmp_path):
    (tmp_path / "c.toml").write_text("train = 5\n")
    arguments = ("distill", tmp_path / "c.toml", "--run", tmp_path / "r")
    code, told = run(monkeypatch, capsys, *arguments, "--set", "train.steps=3")
    assert (code, "train is 5; it has to be a table" in told.err) == (2, True)


def test_settings_are_read_back_as_they_were_written(tmp_path):
    config = tiny_config(preview_prompts=("a ❤️ \U0001f600", 'a "quoted" \\ \x7f\n\t\x01 star'))
    (tmp_path / "config.toml").write_text(to_toml(config), encoding="utf-8")
    assert load_config(tmp_path / "config.toml") == config
    with pytest.raises(ValueError, match="JSON compliant"):
        to_toml(replace(config, method={"name": "cd", "huber_c": math.inf}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", 2000), "2000 steps do not fit the schedule: use 1 to 1000"),
        (("--steps", 0), "0 steps do not fit the schedule"),
        (("--guidance-scale", 0.5), "guidance_scale is 0.5; it has to be 1 (no guidance) or more"),
        (("-o", "out.jpg"), "--out is out.jpg, and images are written as PNG"),
        (("-o", "folder.png"), "--out is folder.png, which is a folder"),
    ],
)
def test_a_teacher_is_not_sampled_in_ways_that_it_cannot(
    monkeypatch, capsys, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    code, told = run(monkeypatch, capsys, "sample", tiny_pipeline(), "a star", *arguments)
    assert (code, message in told.err.replace("\n", " ")) == (2, True), told.err


@pytest.mark.parametrize("folder", ["", "."])
def test_a_run_has_a_folder_of_its_own(monkeypatch, capsys, folder):
    code, told = run(monkeypatch, capsys, "distill", "configs/bundled-cd.toml", "--run", folder)
    assert (code, "--run is empty or the current folder" in told.err) == (2, True), told.err


def test_a_signal_gets_through_what_takes_exceptions_for_its_own():
    assert not issubclass(Interrupted, Exception)  # diffusers' lazy imports, for one


@pytest.mark.parametrize(
    ("flags", "folder"), [((), "runs/quickstart"), (("--quick",), "runs/quickstart-quick")]
)
def test_the_quick_start_has_a_folder_of_its_own(monkeypatch, capsys, flags, folder):
    told = []
    monkeypatch.setattr(
        "fewstep.quickstart.run_quickstart", lambda out, quick: told.append(str(out))
    )
    run(monkeypatch, capsys, "quickstart", *flags)
    assert told == [folder]


def test_a_config_that_is_missing_or_broken_is_one_sentence(monkeypatch, capsys, tmp_path):
    code, told = run(monkeypatch, capsys, "distill", tmp_path / "no.toml", "--run", tmp_path / "r")
    assert (code, "No such file" in told.err) == (2, True)
    (tmp_path / "bad.toml").write_text("[method\n")
    code, told = run(monkeypatch, capsys, "distill", tmp_path / "bad.toml", "--run", tmp_path / "r")
    assert (code, "is not TOML" in told.err) == (2, True)


def test_from_config_to_image(monkeypatch, capsys, tmp_path, config):
    folder, out = tmp_path / "run", tmp_path / "out.png"
    code, told = run(monkeypatch, capsys, "distill", config, "--run", folder)
    assert (code, "next: fewstep sample" in told.out) == (0, True)
    code, told = run(monkeypatch, capsys, "sample", folder, "a star", "--seed", 7, "-o", out)
    assert code == 0
    assert "4 network evaluations an image, starting at timesteps 999, 749, 499, 249" in told.out
    assert out.read_bytes().startswith(b"\x89PNG")
    code, told = run(monkeypatch, capsys, "sample", folder, "a star", "--steps", 3, "-o", out)
    assert (code, "sampled in 4 steps, not 3" in told.err) == (2, True)
    code, told = run(
        monkeypatch, capsys, "sample", folder, "a star", "--guidance-scale", 3, "-o", out
    )
    assert (code, "guidance 4 is distilled into it" in told.err) == (2, True)


def test_an_image_of_a_batch_is_made_again_alone_by_what_its_file_says(
    monkeypatch, capsys, tmp_path
):
    artefact = tiny_artefact(tmp_path / "student")
    size = ("--height", 48, "--width", 32)
    batch = ("sample", artefact, "a star", "a heart", "--seed", 7, "--num-images", 2, *size)
    assert run(monkeypatch, capsys, *batch, "-o", tmp_path / "images")[0] == 0
    files = sorted((tmp_path / "images").iterdir(), key=lambda path: int(path.stem))
    assert [path.name for path in files] == ["7.png", "8.png", "9.png", "10.png"]
    with Image.open(files[-1]) as last:
        told, wanted = last.info["parameters"], np.asarray(last, np.int16)
    assert told.startswith("a heart\n")
    assert "Seed: 10, Size: 32x48" in told
    alone = ("sample", artefact, "a heart", "--seed", 10, *size, "-o", tmp_path / "alone.png")
    assert run(monkeypatch, capsys, *alone)[0] == 0
    with Image.open(tmp_path / "alone.png") as image:
        assert image.size == (32, 48)
        assert np.abs(np.asarray(image, np.int16) - wanted).max() <= 1
    assert run(monkeypatch, capsys, *batch, "-o", tmp_path / "grid.png")[0] == 0
    with Image.open(tmp_path / "grid.png") as image:
        assert image.width > image.height // 2 > 200, "two images beside each other"
        assert "Seed: 7, Size: 32x48, Seeds: 7 to 10" in image.info["parameters"]


def test_a_teachers_images_have_seeds_that_count_up_too(monkeypatch, capsys, tmp_path):
    teacher, images = ("sample", tiny_pipeline(), "--steps", 2), tmp_path / "images"
    code, _ = run(monkeypatch, capsys, *teacher, "a star", "a ring", "-o", images)
    assert code == 0
    code, _ = run(monkeypatch, capsys, *teacher, "a ring", "--seed", 1, "-o", tmp_path / "b.png")
    both = [np.asarray(Image.open(p), np.int16) for p in (images / "1.png", tmp_path / "b.png")]
    assert np.abs(both[0] - both[1]).max() <= 1
    code, told = run(monkeypatch, capsys, *teacher, "a ring", "--num-images", 0)
    assert (code, "the number of images is 0; it has to be 1 or more" in told.err) == (2, True)


def test_prompts_come_from_a_file_and_an_empty_one_is_refused(monkeypatch, capsys, tmp_path):
    teacher, prompts = tiny_pipeline(), tmp_path / "prompts.txt"
    prompts.write_text("\n \n")
    out = tmp_path / "out.png"
    arguments = ("sample", teacher, "--prompts", prompts, "--steps", 2, "-o", out)
    code, told = run(monkeypatch, capsys, *arguments)
    assert (code, "holds no prompt" in told.err) == (2, True)
    prompts.write_text("a star\n\ntwo rings\n")
    code, told = run(monkeypatch, capsys, *arguments)
    assert (code, out.exists()) == (0, True)


def test_a_student_without_negative_prompts_says_so_whatever_their_words(monkeypatch, capsys):
    student = Path(__file__).parent / "fixtures/release-0.1.0/multi-boundary-artefact"
    negative = ("--negative-prompt", "blurry", "--guidance-scale", 3)
    code, told = run(monkeypatch, capsys, "sample", student, "a red heart", *negative)
    assert (code, "does not know" in told.err) == (2, False)
    assert "takes no guidance_scale and no negative prompt" in told.err.replace("\n", " ")


@pytest.mark.parametrize("option", [
    ("--negative-prompt", "blurry"), ("--image", "a.png"), ("--lora", "a"), ("--base", "a"),
])  # fmt: skip
def test_a_mistyped_source_is_said_before_what_its_options_are_for(monkeypatch, capsys, option):
    code, told = run(monkeypatch, capsys, "sample", "runs/mistyped", "a star", *option)
    assert (code, "no file or folder runs/mistyped" in " ".join(told.err.split())) == (2, True)


def test_a_plain_model_takes_a_negative_prompt_and_writes_it_down(monkeypatch, capsys, tmp_path):
    out, negative = tmp_path / "out.png", ("--negative-prompt", "a ring")
    arguments = ("sample", tiny_pipeline(), "a star", "--steps", 2, "-o", out)
    code, told = run(monkeypatch, capsys, *arguments, *negative, "--guidance-scale", 1)
    assert (code, "no effect at guidance_scale 1; set one" in told.err) == (2, True)
    assert run(monkeypatch, capsys, *arguments, *negative)[0] == 0
    image = Image.open(out)
    assert "\nNegative prompt: a ring\n" in image.info["parameters"]
    sampler = teacher_sampler(load_model(tiny_pipeline()), 2, TEACHER_GUIDANCE,
                              negative_prompt="a ring")  # fmt: skip
    expected = sampler.generate(["a star"], 0, 64, 64)[0]
    assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_a_source_that_is_no_artefact_or_has_no_checkpoint_is_refused(
    monkeypatch, capsys, tmp_path
):
    code, told = run(monkeypatch, capsys, "sample", tmp_path, "a star")
    assert (code, "neither a diffusers folder" in told.err) == (2, True)
    (tmp_path / "config.toml").write_text("")
    code, told = run(monkeypatch, capsys, "sample", tmp_path, "a star")
    words = "not trained to its end and has no checkpoint yet; run its fewstep distill again"
    assert (code, words in " ".join(told.err.split())) == (2, True)


def test_the_systems_errors_name_the_file():
    error = OSError(28, "No space left on device", "runs/a")
    assert explain(error) == "No space left on device: runs/a"


def test_ctrl_c_before_training_leaves_with_code_130(monkeypatch, capsys, tmp_path, config):
    def pressed(*arguments):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("fewstep.training.distill.build", pressed)
    code, told = run(monkeypatch, capsys, "distill", config, "--run", tmp_path / "run")
    assert code == 130
    assert "run the same command again to continue" in told.err


def test_a_command_without_memory_says_so_and_other_faults_are_not_hidden(monkeypatch, capsys):
    def ends(error):
        def command():
            raise error

        return command

    for error in (MemoryError(), RuntimeError("can't allocate memory: you tried to allocate 8")):
        with pytest.raises(SystemExit) as left:
            run_command(ends(error))
        told = capsys.readouterr().err
        assert (left.value.code, "there is no memory left" in told) == (2, True)
        assert "make fewer or smaller images at a time" in told
    with pytest.raises(RuntimeError, match="a fault"):
        run_command(ends(RuntimeError("a fault")))
