"""SDXL is what stock diffusers makes of it: prompts, images, roles, files, LoRA names, refusals."""

import json
import shutil
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from fewstep.config import FakeSettings, ModelSettings
from fewstep.export.artefact import PEFT_FILE
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.methods import METHODS, Batch
from fewstep.models.adapters import lora_roles
from fewstep.models.base import ModelError
from fewstep.models.checkpointing import set_checkpointing
from fewstep.models.extra_loras import add_loras
from fewstep.models.ldm import XL_PREFIXES, ldm_names
from fewstep.models.loading import load_model, load_skeleton
from fewstep.models.single_file import FIRST_CONV, SIZE_KEY, recognise
from fewstep.student.contract import LORA_FILE
from fewstep.student.generate import teacher_sampler
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.scheduler import FewStepScheduler
from fewstep.training.distill import distill_run
from tests.models.test_adapters import ALPHA, RANK, disturb, has_gradient_of_copies
from tests.models.test_quantised import plain_copy
from tests.models.test_single_file import weights_of
from tests.tiny import SD2_SCHEDULER, tiny_config, tiny_pipeline, tiny_xl_pipeline

PROMPTS = ["a red heart", "two stars"]
XL = "stabilityai/stable-diffusion-xl-base-1.0"


def stock(folder, **scheduler):
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    config = dict(pipeline.scheduler.config)
    fixed = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
    pipeline.scheduler = DDIMScheduler.from_config(config | fixed | scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_prompts_are_encoded_as_diffusers_does():
    family, pipeline = load_model(tiny_xl_pipeline()), stock(tiny_xl_pipeline())
    cond, empty = family.encode_prompts(PROMPTS), family.encode_prompts([""])
    with torch.no_grad():
        text, negative, pooled, negative_pooled = pipeline.encode_prompt(PROMPTS)
    torch.testing.assert_close(cond["text"], text)
    torch.testing.assert_close(cond["pooled"], pooled)
    for name, theirs in (("text", negative), ("pooled", negative_pooled)):
        assert torch.equal(empty[name], theirs[:1])
        assert (empty[name] == 0).all()


def test_a_long_prompt_is_read_in_chunks_with_the_pooled_prompt_of_the_first():
    long, short = " ".join(["a red heart above a blue star"] * 8), "two stars"
    family = load_model(tiny_xl_pipeline(), long_prompts="chunks")
    first = load_model(tiny_xl_pipeline()).encode_prompts([long, short])
    cond = family.encode_prompts([long, short])
    assert cond["text"].shape[1] > first["text"].shape[1] == 24
    torch.testing.assert_close(cond["text"][:, :24], first["text"])
    torch.testing.assert_close(cond["pooled"], first["pooled"])
    assert cond["mask"].sum(1).tolist() == [cond["text"].shape[1], 24]
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([99, 899])
    alone = family.denoiser(family.network)(x[1:], t[1:], family.encode_prompts([short])).eps
    torch.testing.assert_close(family.denoiser(family.network)(x, t, cond).eps[1:], alone,
                               rtol=1e-4, atol=1e-5)  # fmt: skip


def test_where_the_index_says_so_the_empty_prompt_is_encoded(tmp_path):
    folder = shutil.copytree(tiny_xl_pipeline(), tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    index["force_zeros_for_empty_prompt"] = False
    (folder / "model_index.json").write_text(json.dumps(index))
    family = load_model(folder)
    assert (family.encode_prompts([""])["pooled"] != 0).any()
    other = load_model(tiny_xl_pipeline())
    assert family.encoding_settings != other.encoding_settings


@pytest.mark.parametrize("scheduler", [{}, SD2_SCHEDULER], ids=["epsilon", "v, zero SNR"])
def test_the_teachers_images_are_those_of_stock_diffusers(scheduler):
    folder = tiny_xl_pipeline(**scheduler)
    family, pipeline = load_model(folder), stock(folder)
    mine = teacher_sampler(family, 5, 3.0).generate(PROMPTS, seed=3, height=64)
    generators = [torch.Generator().manual_seed(3 + number) for number in range(2)]
    theirs = pipeline(PROMPTS, generator=generators, num_inference_steps=5, guidance_scale=3.0,
                      height=64, width=64, output_type="pt").images  # fmt: skip
    for image, expected in zip(mine, theirs, strict=True):
        pixels = torch.tensor(list(image.getdata()), dtype=torch.float32).view(64, 64, 3)
        assert (pixels - 255 * expected.permute(1, 2, 0)).abs().max() <= 1.01


@pytest.mark.parametrize(
    ("name", "checkpointing", "quantize"),
    [("ct", "none", "none"), ("cd", "full", "none"), ("multi-boundary-cd", "selective", "int8"),
     ("multi-boundary-ct", "none", "nf4"), ("trajectory-matching", "selective", "none")],
)  # fmt: skip
def test_the_gradient_is_that_of_separate_copies(name, checkpointing, quantize):
    """In double precision, with the dequantised weights in the copies."""
    family = load_model(tiny_xl_pipeline(), dtype=torch.float64, quantize=quantize)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=draw, dtype=torch.float64)
    cond = family.encode_prompts(PROMPTS)
    family.network.double()
    teacher = family.denoiser(plain_copy(family.network))
    roles = lora_roles(family, "all", RANK, ALPHA)
    disturb(roles)
    roles.network.double()
    method, batch = METHODS[name](), Batch(x, cond)
    has_gradient_of_copies(
        method, batch, family, roles, plain_copy(roles.network), teacher, checkpointing,
        rtol=1e-6, atol=1e-9,
    )  # fmt: skip


def test_selective_checkpointing_finds_the_transformers_which_the_finest_level_lacks():
    network = load_skeleton(XL).network
    set_checkpointing(network, "selective")
    chosen = {name for name, module in network.named_modules()
              if getattr(module, "gradient_checkpointing", False)}  # fmt: skip
    down = {f"down_blocks.{level}.attentions.{n}" for level in (1, 2) for n in range(2)}
    assert chosen == down | {
        f"up_blocks.{level}.attentions.{n}" for level in (0, 1) for n in range(3)
    }


def xl_config(method="multi-boundary-cd", **train):
    config = tiny_config(method, **train)
    return replace(config, model=ModelSettings(base=str(tiny_xl_pipeline())))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on a quantised base, and its export with a whole model and a checkpoint file."""
    folder = tmp_path_factory.mktemp("xl")
    config = xl_config(steps=3, optimizer="adamw8bit")
    config = replace(config, model=replace(config.model, quantize="int8"))
    distill_run(config, folder / "run")
    export_artefact(str(folder / "run"), folder / "out", ExportOptions(fused=True, checkpoint=True))
    return folder / "run", folder / "out"


def kohya_file(out):
    (path,) = [
        path for path in out.glob("*.safetensors") if path.name not in (LORA_FILE, PEFT_FILE)
    ]
    return path


def mean_pixel_off(images, expected):
    pairs = zip(images, expected, strict=True)
    return max(
        (torch.tensor(list(a.getdata())) - torch.tensor(list(b.getdata()))).abs().float().mean()
        for a, b in pairs
    )


def test_a_student_is_sampled_alike_here_and_in_stock_diffusers(finished):
    run, out = finished
    mine = [found.image for found in FewStepPipeline.from_pretrained(run)(PROMPTS, seed=3)]
    call = {"num_inference_steps": 4, "guidance_scale": 1.0, "height": 64, "width": 64}
    exact = stock(tiny_xl_pipeline())
    exact.load_lora_weights(str(out), weight_name="pytorch_lora_weights.safetensors")
    exact.scheduler = FewStepScheduler.from_artefact(out)
    kohya = stock(tiny_xl_pipeline())
    kohya.load_lora_weights(str(out), weight_name=kohya_file(out).name)
    fused = StableDiffusionXLPipeline.from_pretrained(
        out / "fused" / "diffusers", add_watermarker=False
    )
    for pipeline in (exact, kohya, fused):
        pipeline.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(3 + number) for number in range(2)]
        images = pipeline(PROMPTS, generator=generators, **call).images
        assert mean_pixel_off(mine, images) < 0.5, pipeline


@pytest.mark.parametrize("name", [name for name in METHODS if name != "multi-boundary-cd"])
def test_every_method_distils_it(name, tmp_path):
    config = xl_config(name, steps=2, save_every=2)
    fake = FakeSettings(warmup=1) if name == "trajectory-matching" else None
    assert distill_run(replace(config, fake=fake), tmp_path / "run") == 2


def test_kohyas_names_are_ldms_and_none_is_left_over(finished):
    network = load_model(tiny_xl_pipeline()).network
    known = {
        f"lora_unet_{name.removeprefix(XL_PREFIXES['unet']).removesuffix('.weight')}".replace(
            ".", "_"
        )
        for name in ldm_names("unet", network, XL_PREFIXES).values()
    }
    names = {name.partition(".")[0] for name in load_file(kohya_file(finished[1]))}
    assert len(names) > 20
    assert names <= known
    assert {name.split("_")[2] for name in names} == {"input", "middle", "output"}


def test_the_kohya_file_is_read_back_as_the_student(finished):
    run, out = finished
    base = load_model(tiny_xl_pipeline())
    _, network = add_loras(base, deepcopy(base.network), {str(kohya_file(out)): 1.0})
    student = FewStepPipeline.from_pretrained(run).student[1]
    for name, weight in student.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], weight, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_file_loads_to_identical_weights(tmp_path):
    family = load_model(folder := tiny_xl_pipeline())
    weights = family.checkpoint_weights(family.network)
    assert weights["conditioner.embedders.1.model.text_projection"].shape == (24, 20)
    save_file(weights, tmp_path / "model.safetensors")
    mine = load_model(tmp_path / "model.safetensors", config=str(folder))
    for (a, x), (b, y) in zip(weights_of(mine), weights_of(family), strict=True):
        assert a == b
        assert torch.equal(x, y)
    assert mine.fingerprint == family.fingerprint


def test_the_names_of_sdxls_weights_are_those_that_diffusers_reads():
    from diffusers.loaders.single_file_utils import (
        convert_ldm_unet_checkpoint,
        convert_open_clip_checkpoint,
    )

    family = load_skeleton(XL)
    weights = {name: torch.empty(w.shape, device="meta")
               for name, w in meta_weights(family).items()}  # fmt: skip
    unet = convert_ldm_unet_checkpoint(dict(weights), dict(family.network.config))
    assert unet.keys() == family.network.state_dict().keys()
    second = convert_open_clip_checkpoint(
        family.text_encoder_2, dict(weights), prefix="conditioner.embedders.1.model."
    )
    plain = {name.removeprefix("text_model.") for name in second}
    own = family.text_encoder_2.state_dict()
    assert plain - {"embeddings.position_ids"} == {n.removeprefix("text_model.") for n in own}


def meta_weights(family):
    parts = {"unet": family.network, "vae": family.vae, "text_encoder": family.text_encoder,
             "text_encoder_2": family.text_encoder_2}  # fmt: skip
    found = {}
    for part, network in parts.items():
        own = network.state_dict()
        for name, ldm in ldm_names(part, network, XL_PREFIXES).items():
            weight = own[name]
            found[ldm] = weight if ".in_proj_" not in ldm else weight.repeat_interleave(3, 0)
    return found


def test_sdxl_is_recognised_by_its_weights(tmp_path):
    def file(**more):
        weights = {FIRST_CONV: torch.empty(320, 4, 3, 3), SIZE_KEY: torch.empty(1280, 2816)}
        return weights | more

    path = tmp_path / "model.safetensors"
    assert recognise(path, file(), {}) == "sdxl"
    assert recognise(path, file(v_pred=torch.ones(())), {}) == "sdxl-v"
    assert recognise(path, file(), {"modelspec.prediction_type": "v"}) == "sdxl-v"
    with pytest.raises(ModelError, match="the refiner of SDXL, which only repaints"):
        recognise(path, file() | {SIZE_KEY: torch.empty(1280, 2560)}, {})
    with pytest.raises(ModelError, match="takes 9 channels"):
        recognise(path, file() | {FIRST_CONV: torch.empty(320, 9, 3, 3)}, {})


def edited(tmp_path, name, **settings):
    folder = shutil.copytree(tiny_xl_pipeline(), tmp_path / "model")
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionXLImg2ImgPipeline"}, "refiner is"),
        ("unet/config.json", {"addition_embed_type": None}, "pooled prompt and the image's size"),
        ("unet/config.json", {"projection_class_embeddings_input_dim": 20 + 5 * 8},
         "= 60, .* has 68, as the refiner's does: take the base"),
        ("unet/config.json", {"projection_class_embeddings_input_dim": 70}, "= 70, .* has 68;"),
        ("unet/config.json", {"time_cond_proj_dim": 8}, "the guidance scale, as those of LCM do"),
        ("unet/config.json", {"in_channels": 9}, "as inpainting models do"),
        ("text_encoder_2/config.json", {"hidden_size": 32}, "hidden_size is 48"),
        ("unet/config.json", {"quantization_config": {"quant_method": "bitsandbytes"}},
         r"the unet of .* is quantised \(bitsandbytes\)"),
    ],
)  # fmt: skip
def test_what_is_no_sdxl_base_is_refused_by_its_config(tmp_path, name, settings, message):
    with pytest.raises(ModelError, match=message):
        load_model(edited(tmp_path, name, **settings))


def test_a_second_text_encoder_that_is_missing_is_named(tmp_path):
    folder = shutil.copytree(tiny_xl_pipeline(), tmp_path / "model")
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(ModelError, match="cannot load the text_encoder_2 of"):
        load_model(folder)


@pytest.mark.parametrize("make", [tiny_pipeline, tiny_xl_pipeline])
@pytest.mark.parametrize(
    "name", ["sd-turbo", "Model_Lightning-4step", "my-LCM-merge", "Hyper-SDXL"]
)
def test_a_model_that_takes_few_steps_already_is_no_teacher(tmp_path, make, name):
    folder = shutil.copytree(make(), tmp_path / name)
    with pytest.raises(ModelError, match="takes few steps already"):
        load_skeleton(folder)
    assert load_skeleton(shutil.copytree(folder, tmp_path / "enlightening")).network


@pytest.mark.parametrize("kept", ["text_encoder", "text_encoder_2"])
def test_a_file_with_one_text_encoder_of_two_is_refused(tmp_path, kept):
    family = load_model(folder := tiny_xl_pipeline())
    prefix = XL_PREFIXES[({"text_encoder", "text_encoder_2"} - {kept}).pop()]
    weights = family.checkpoint_weights(family.network)
    less = {name: weight for name, weight in weights.items() if not name.startswith(prefix)}
    assert len(less) < len(weights)
    save_file(less, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"text_encoder.*missing|no text_encoder"):
        load_model(tmp_path / "model.safetensors", config=str(folder))


def test_a_second_text_encoder_without_its_pooled_prompt_is_refused(tmp_path):
    folder = shutil.copytree(tiny_xl_pipeline(), tmp_path / "model")
    path = folder / "text_encoder_2" / "model.safetensors"
    weights = load_file(path)
    del weights["text_projection.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"text_encoder_2 .*missing, such as text_projection"):
        load_model(folder)


@pytest.mark.parametrize("more", ["absmax", "quant_state.bitsandbytes__nf4"])
def test_a_file_with_quantised_weights_is_refused(tmp_path, more):
    family = load_model(folder := tiny_xl_pipeline())
    weights = family.checkpoint_weights(family.network)
    name = next(name for name in weights if name.endswith("attn1.to_q.weight"))
    weights |= {name: torch.zeros(8, 1, dtype=torch.uint8), f"{name}.{more}": torch.ones(1)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="quantised"):
        load_model(tmp_path / "model.safetensors", config=str(folder))


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_no_machine_is_without_what_a_quantised_base_needs(kind):
    """Its formats are plain tensors: where there is no GPU a step is taken as well."""
    family = load_model(tiny_xl_pipeline(), quantize=kind, device="cpu")
    cond = family.encode_prompts(PROMPTS)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([99, 899])
    assert family.denoiser(family.network)(x, t, cond).eps.isfinite().all()
