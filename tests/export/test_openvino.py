"""A student that OpenVINO computes samples the same images, and says what it cannot do."""

import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fewstep.errors import UserError
from fewstep.export import openvino as export
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.models.base import ModelError
from fewstep.models.loading import load_model
from fewstep.models.openvino import core, library, load_converted
from fewstep.models.quantised import to_int8
from fewstep.student.contract import CONTRACT_FILE, OPENVINO_FOLDER
from fewstep.student.load import ArtefactError
from fewstep.student.pipeline import FewStepPipeline
from tests.artefacts import tiny_artefact, tiny_contract, tiny_family
from tests.tiny import SD2_SCHEDULER, tiny_pipeline, tiny_xl_pipeline

if find_spec("openvino") is None:
    pytest.skip("OpenVINO is not installed", allow_module_level=True)
openvino = library()

PROMPTS = ["a red heart", "two stars", "a ring"]
SAME = 3
"""Of 255: the largest difference of images that are the same."""


def exported(folder, **options):
    """Export a student that takes guidance, and return the folder."""
    source = tiny_artefact(folder / "source", guidance_scale=1.0, caption_dropout=0.1)
    export_artefact(str(source), folder / "out", ExportOptions(openvino=True, **options))
    return folder / "out"


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("openvino"))


@pytest.fixture(scope="module")
def in_int8(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("openvino-int8"), int8=True)


@pytest.fixture(scope="module")
def pipelines(artefact):
    """The same student, by torch and by OpenVINO."""
    return [FewStepPipeline.from_pretrained(artefact, backend=b) for b in ("torch", "openvino")]


def pixels(images):
    return np.stack([np.asarray(image.image, np.int16) for image in images])


def off(one, other):
    return np.abs(pixels(one) - pixels(other)).max()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"height": 32, "width": 96},
        {"guidance_scale": 3.0, "negative_prompt": "a star"},
        {"image": Image.linear_gradient("L"), "strength": 0.5},
    ],
    ids=["default", "no square", "guidance", "from an image"],
)
def test_the_images_are_those_of_torch(pipelines, options):
    theirs, mine = (pipeline(PROMPTS, seed=3, **options) for pipeline in pipelines)
    assert off(mine, theirs) <= SAME
    assert mine[0].settings == theirs[0].settings
    assert off(mine, pipelines[1](PROMPTS, seed=4, **options)) > 10 * SAME


def test_the_stochastic_sampler_draws_the_same_noise(tmp_path):
    tiny_artefact(tmp_path / "source", "cd", num_solver_steps=16, spacing="quadratic")
    export_artefact(str(tmp_path / "source"), tmp_path / "out", ExportOptions(openvino=True))
    for folder in (tmp_path / "out", tmp_path / "out" / OPENVINO_FOLDER):
        mine = FewStepPipeline.from_pretrained(folder, backend="openvino")
        theirs = FewStepPipeline.from_pretrained(tmp_path / "out")
        for steps in (4, 2):
            assert (
                off(*(p(PROMPTS, seed=3, num_inference_steps=steps) for p in (mine, theirs)))
                <= SAME
            )


@pytest.mark.parametrize("long_prompts", ["cut", "chunks"])
def test_every_network_of_xl_gives_what_torchs_does(long_prompts, tmp_path):
    family = load_model(tiny_xl_pipeline(**SD2_SCHEDULER), long_prompts=long_prompts)
    contract = replace(tiny_contract(), scheduler_config=family.scheduler_config)  # predicts v
    export.write_openvino(tmp_path, contract, family, family.network, half=False, int8=False)
    mine = load_converted(tmp_path / OPENVINO_FOLDER, family.schedule, torch.float32,
                          base="tiny", long_prompts=long_prompts)  # fmt: skip
    prompts = ["a red heart above a blue star " * 5, "", "two stars"]
    cond, same = family.encode_prompts(prompts), mine.encode_prompts(prompts)
    assert cond.keys() == same.keys()
    for name, value in cond.items():
        torch.testing.assert_close(same[name], value, rtol=1e-4, atol=1e-5)
    x_t = torch.randn(3, *family.latent_shape(64, 96), generator=torch.Generator().manual_seed(0))
    t = torch.tensor([999, 20, -1])
    with torch.no_grad():
        theirs = family.denoiser(family.network)(x_t, t, cond)
        ours = mine.denoiser(mine.network)(x_t, t, same)
    torch.testing.assert_close(ours.x_0, theirs.x_0, rtol=1e-4, atol=1e-4)
    images = family.decode(theirs.x_0)
    torch.testing.assert_close(mine.decode(theirs.x_0), images, rtol=1e-4, atol=1e-4)
    for own, other in zip(mine.encode_images(images), family.encode_images(images), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_it_computes_in_fp32_unless_told_otherwise(artefact, pipelines):
    model = pipelines[1].student[1].compiled("unet")
    assert model.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert model.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()
    if "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        half = FewStepPipeline.from_pretrained(artefact, backend="openvino", dtype=torch.bfloat16)
        assert 0 < off(half(PROMPTS, seed=3), pipelines[1](PROMPTS, seed=3)) < 100


def test_int8_holds_the_codes_of_model_quantize(in_int8, artefact):
    sizes = [sum(path.stat().st_size for path in (folder / OPENVINO_FOLDER).rglob("*.bin"))
             for folder in (in_int8, artefact)]  # fmt: skip
    model = core().read_model(in_int8 / OPENVINO_FOLDER / "unet" / "openvino_model.xml")
    found = [op.data for op in model.get_ops()
             if op.get_type_name() == "Constant" and op.data.dtype == np.int8]  # fmt: skip
    _, network = FewStepPipeline.from_pretrained(in_int8).student
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    wide = [layer.weight for layer in layers if min(layer.weight.shape[:2]) >= export.NARROW]
    codes = [to_int8(weight)[0].numpy() for weight in wide]
    assert len(found) == len(codes) > 20
    assert {array.tobytes() for array in found} == {array.tobytes() for array in codes}
    assert sizes[0] < 0.5 * sizes[1]
    mine = FewStepPipeline.from_pretrained(in_int8, backend="openvino")(PROMPTS, seed=3)
    assert off(mine, FewStepPipeline.from_pretrained(artefact)(PROMPTS, seed=3)) > SAME


def test_weights_in_fp16_take_half_of_the_space_and_a_little_of_the_image(artefact, tmp_path):
    half = exported(tmp_path, precision="fp16", fused=True)
    sizes = [sum(path.stat().st_size for path in (folder / OPENVINO_FOLDER).rglob("*.bin"))
             for folder in (half, artefact)]  # fmt: skip
    assert sizes[0] < 0.6 * sizes[1]
    mine, theirs = (FewStepPipeline.from_pretrained(half, backend=backend)(PROMPTS, seed=3)
                    for backend in ("openvino", "torch"))  # fmt: skip
    assert off(mine, theirs) <= 2 * SAME


def test_the_commands_go_from_a_student_to_an_image(typed, tmp_path):
    tiny_artefact(tmp_path / "source")
    code, said = typed("export", "source", "--openvino", "-o", "out")
    assert code == 0, said
    for backend in ("torch", "openvino"):
        code, said = typed("sample", "out", "a star", "--backend", backend, "-o", f"{backend}.png")
        assert code == 0, said
        assert "4 network evaluations" in said
    images = [
        np.asarray(Image.open(tmp_path / f"{b}.png"), np.int16) for b in ("torch", "openvino")
    ]
    assert np.abs(images[0] - images[1]).max() <= SAME
    for options, message in {
        ("--steps", 3): "is sampled in",
        ("--height", 65): "height is 65; this model needs a multiple of 16",
        ("--precision", "fp16"): r"does not compute in torch.float16 on this CPU: use fp32",
        ("--precision", "fp8"): r"--precision is 'fp8'; use fp32, bf16, fp16",
        ("--base", "bundled"): "takes no other LoRA, base model, decoder",
        ("--lora", "ink.safetensors"): "takes no other LoRA, base model, decoder",
    }.items():
        code, said = typed("sample", "out", "a star", "--backend", "openvino", *options)
        assert (code, message in said) == (2, True), said
    code, said = typed("sample", "source", "a star", "--backend", "openvino")
    assert code == 2
    assert "source has no files for OpenVINO: fewstep export it with --openvino" in said
    code, said = typed("sample", "out", "a star", "--backend", "tensorrt")
    assert code == 2
    assert "backend is 'tensorrt'; use torch or openvino" in said
    code, said = typed("sample", tiny_pipeline(), "a star", "--backend", "openvino")
    assert "--backend is for students" in said


def test_the_folder_is_an_artefact_that_torch_refuses(artefact):
    folder = artefact / OPENVINO_FOLDER
    assert (folder / CONTRACT_FILE).is_file()
    with pytest.raises(ArtefactError, match="is for OpenVINO: sample it with --backend openvino"):
        FewStepPipeline.from_pretrained(folder)
    with pytest.raises(ModelError, match="holds a student"):
        load_model(folder)
    for path in folder.rglob("*.json"):
        assert path.name == CONTRACT_FILE or str(tiny_pipeline()) not in path.read_text(), path


@pytest.mark.parametrize("folder", ["", OPENVINO_FOLDER])
def test_a_changed_file_is_refused(folder, tmp_path, artefact):
    copy = shutil.copytree(artefact, tmp_path / "copy")
    path = copy / OPENVINO_FOLDER / "vae_decoder" / "openvino_model.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(ArtefactError, match="its sha256 differs"):
        FewStepPipeline.from_pretrained(copy / folder, backend="openvino")


def test_files_that_it_cannot_read_are_named(artefact, tmp_path):
    family = tiny_family()
    export.save_configs(family.pipeline(family.network), tmp_path)
    (tmp_path / "text_encoder" / "openvino_model.xml").write_text("<net version='99'/>")
    with pytest.raises(ModelError, match=r"cannot read .*text_encoder.*export the student again"):
        load_converted(tmp_path, family.schedule, torch.float32, base="tiny", long_prompts="cut")


class Unknown(nn.Module):
    """A network with an operation that no converter knows."""

    def forward(self, x):
        return torch.special.spherical_bessel_j0(x)


def test_a_network_that_it_cannot_convert_is_named(tmp_path):
    part = export.Part("unet", Unknown(), lambda x: (Unknown()(x),), {"x": torch.ones(2)})
    with pytest.raises(ModelError, match=r"cannot convert the unet of this model .*bessel.*leave"):
        export.converted(part)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"int8": True}, "--int8 is for the files of --openvino: add it"),
        ({"openvino": True, "precision": "bf16"}, "--precision is 'bf16'; leave it out"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export_artefact("nowhere", tmp_path, ExportOptions(**options))


def test_without_the_library_one_sentence_says_how_to_get_it(monkeypatch, artefact, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    missing = r"OpenVINO is not installed: pip install 'fewstep\[openvino\]'"
    with pytest.raises(UserError, match=missing):
        FewStepPipeline.from_pretrained(artefact, backend="openvino")
    with pytest.raises(UserError, match=missing):
        export_artefact(str(artefact), tmp_path / "out", ExportOptions(openvino=True))


AFTER_TWO_STUDENTS = """
import signal, sys
from fewstep.student.pipeline import FewStepPipeline
first, second = (FewStepPipeline.from_pretrained(sys.argv[1], backend="openvino") for _ in "ab")
del first, second
signal.signal(signal.SIGINT, lambda *_: print("received"))
signal.raise_signal(signal.SIGINT)
"""


def test_ctrl_c_is_received_after_two_students_were_loaded_and_freed(artefact):
    command = [sys.executable, "-c", AFTER_TWO_STUDENTS, str(artefact)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "received\n"), ended.stderr


def test_it_sends_nobody_how_it_is_used():
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__.endswith("telemetry_stub")
