"""`fewstep evaluate --images`: folders of images from anywhere, without their network."""

import sys

import numpy as np
import pytest
from PIL import Image

from fewstep.__main__ import main
from fewstep.errors import UserError
from fewstep.evaluation import prompts as prompts_module
from fewstep.evaluation.evaluate import evaluate_images, print_results
from fewstep.evaluation.prompts import PROMPT_SEED, held_out_prompts
from fewstep.evaluation.report.write import write_report
from fewstep.evaluation.results import load
from fewstep.evaluation.samples import ImageFolders
from fewstep.world.scenes import render, sample_scene


def save_images(folder, images):
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def test_two_folders_are_scored_by_the_bundled_protocol(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prompts_module, "NUM_REFERENCES", 100)
    rngs = (np.random.default_rng([PROMPT_SEED, i]) for i in range(100))
    right = np.stack([render(sample_scene(rng)) for rng in rngs])
    folders = [save_images(tmp_path / "right", right),
               save_images(tmp_path / "wrong", np.roll(right, 1, 0))]  # fmt: skip
    (tmp_path / "prompts.txt").write_text("\n".join(held_out_prompts(100)))
    path = evaluate_images(folders, "bundled", tmp_path / "out", tmp_path / "prompts.txt")
    results = load(path)
    first, second = results.rows
    assert (first.source, first.method, first.calls) == (str(folders[0]), "images", 0)
    assert first.metrics["prompt_accuracy"].value > 0.9
    assert second.metrics["prompt_accuracy"].value < 0.5
    assert "prompt_accuracy.shape" in first.metrics
    assert first.metrics["frechet"].value == pytest.approx(second.metrics["frechet"].value)
    assert results.protocol.startswith("bundled; 100 prompts of the user's (")
    assert "100 images of each folder" in results.protocol
    assert "needs the teacher's images" in results.unavailable["same_noise_rmse"]
    assert "latent_frechet" in results.unavailable
    assert "seconds_per_image" in results.unavailable

    print_results(path)
    printed = " ".join(capsys.readouterr().out.split())
    assert "Prompt accuracy" in printed
    assert "Same-noise PSNR: unavailable, needs the teacher's images" in printed
    html = write_report([tmp_path / "out"], tmp_path / "report.html").read_text()
    assert "Prompt accuracy" in html

    alone = load(evaluate_images(folders[:1], "bundled", tmp_path / "alone"))
    assert alone.unavailable["prompt_accuracy"] == "needs --prompts FILE, one line an image"
    assert alone.rows[0].metrics["frechet"] == first.metrics["frechet"]


def test_bad_folders_are_refused_with_the_reason(tmp_path):
    black = np.zeros((3, 64, 64, 3), np.uint8)
    good = save_images(tmp_path / "good", black)
    few = save_images(tmp_path / "few", black[:2])
    small = save_images(tmp_path / "small", black[:, :32, :32])
    mixed = save_images(tmp_path / "mixed", [*black, black[0, :, :32]])
    empty = save_images(tmp_path / "empty", [])
    broken = save_images(tmp_path / "broken", black)
    (broken / "0.png").write_bytes(b"no image")
    (tmp_path / "prompts.txt").write_text("a star\na heart\n")
    for folders, prompt_file, reason in (
        ([empty], None, r"empty holds no images"),
        ([tmp_path / "none"], None, r"none holds no images"),
        ([mixed], None, r"differ in size: .* is 64 x 64 and .* is 32 x 64"),
        ([good, few], None, r"differ in their number of images: .*good holds 3, .* holds 2"),
        ([good], tmp_path / "prompts.txt", r"prompts\.txt holds 2 prompts for 3 images"),
        ([broken], None, r"the image .*0\.png cannot be read"),
        ([good], None, r"has no metric for these images: needs .* 3"),
        ([small], None, r"measures images of 64 x 64 pixels, not 32 x 32"),
    ):
        with pytest.raises(UserError, match=reason):
            evaluate_images(folders, "bundled", tmp_path / "out", prompt_file)
        assert not (tmp_path / "out").exists(), "a refused evaluation leaves nothing behind"


def test_images_are_in_the_order_of_their_numbers(tmp_path):
    folder = save_images(tmp_path / "images", np.zeros((12, 8, 8, 3), np.uint8))
    (names,) = ImageFolders.open([folder]).files.values()
    assert [path.stem for path in names] == [str(i) for i in range(12)]


@pytest.mark.parametrize(("arguments", "protocol"), [((), "prompts"), (("bundled",), "bundled")])
def test_images_from_anywhere_are_not_compared_with_the_bundled_world(
    tmp_path, monkeypatch, capsys, arguments, protocol
):
    folder = save_images(tmp_path / "images", np.zeros((3, 32, 32, 3), np.uint8))
    given = ["--protocol", *arguments] if arguments else []
    monkeypatch.setattr(sys, "argv", ["fewstep", "evaluate", "--images", str(folder), *given])
    with pytest.raises(SystemExit):
        main()
    assert f"protocol '{protocol}'" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("arguments", [(), ("runs/cd", "--images", "images")])
def test_sources_or_images_are_given_and_not_both(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fewstep", "evaluate", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert (
        "name either runs and artefacts, or folders of images by --images DIR"
        in capsys.readouterr().err
    )
