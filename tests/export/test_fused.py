"""Whole models with the student inside generate the student's image and load to its weights."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from fewstep.diffusion.random import Draw
from fewstep.evaluation.evaluate import evaluate_sources
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.models.base import ModelError
from fewstep.models.ldm import ldm_weights, unet_name, vae_name
from fewstep.models.loading import load_model, load_skeleton
from fewstep.student.load import ArtefactError, is_artefact
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.sample import SampleOptions, generate
from fewstep.student.scheduler import FewStepScheduler
from fewstep.student.seeds import image_generators
from tests.artefacts import tiny_artefact
from tests.tiny import tiny_pipeline

PROMPTS = ["a red heart", "two stars"]


@pytest.fixture(scope="module", params=["multi-boundary-cd", "cd"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fused")
    source = tiny_artefact(folder / "source", request.param)
    export_artefact(str(source), folder / "out", ExportOptions(fused=True, checkpoint=True))
    return folder / "out"


def test_the_diffusers_folder_generates_the_students_image_as_it_is(exported):
    mine = FewStepPipeline.from_pretrained(exported)(PROMPTS, seed=3)
    draw = Draw(image_generators(3, 2))
    noise = draw.noise_like(torch.empty(2, 4, 8, 8))
    pipe = StableDiffusionPipeline.from_pretrained(exported / "fused" / "diffusers")
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.scheduler, diffusers.DDIMScheduler | diffusers.LCMScheduler)
    theirs = pipe(
        PROMPTS, num_inference_steps=4, guidance_scale=1, latents=noise,
        generator=list(draw.generators), height=64, width=64, output_type="np",
    ).images  # fmt: skip
    pixels = np.stack([np.asarray(image.image) for image in mine]) / 255
    assert np.abs(pixels - theirs).max() <= 2 / 255


def test_the_diffusers_folder_is_sampled_as_the_student_and_not_as_a_teacher(exported):
    folder = exported / "fused" / "diffusers"
    assert is_artefact(folder)
    mine, theirs = (FewStepPipeline.from_pretrained(source)(PROMPTS, seed=3)
                    for source in (exported, folder))  # fmt: skip
    for one, other in zip(mine, theirs, strict=True):
        assert one.nfe == other.nfe == 4
        assert np.abs(np.asarray(one.image, int) - np.asarray(other.image)).max() <= 2
    with pytest.raises(ModelError, match=r"holds a student, as its fewstep\.json says"):
        load_model(folder)


def test_nothing_but_the_contracts_says_where_the_base_lay(exported):
    for path in (exported / "fused").rglob("*.json"):
        if path.name != "fewstep.json":
            assert str(tiny_pipeline()) not in path.read_text(), path
            assert "_name_or_path" not in path.read_text(), path


@pytest.mark.parametrize("method", ["multi-boundary-cd", "cd"])
def test_uneven_timesteps_need_a_scheduler_that_knows_them(method, tmp_path):
    """A stock one would start elsewhere for the same number of steps, without a word."""
    source = tiny_artefact(tmp_path / "source", method, num_solver_steps=16, spacing="quadratic")
    export_artefact(str(source), tmp_path / "out", ExportOptions(fused=True))
    folder = tmp_path / "out" / "fused" / "diffusers"
    with pytest.raises(ValueError, match=r"expected.*scheduler"):
        StableDiffusionPipeline.from_pretrained(folder)
    scheduler = FewStepScheduler.from_artefact(folder)
    pipe = StableDiffusionPipeline.from_pretrained(folder, scheduler=scheduler)
    draw = Draw(image_generators(3, 2))
    theirs = pipe(
        PROMPTS, num_inference_steps=4, guidance_scale=1, height=64, width=64, output_type="np",
        latents=draw.noise_like(torch.empty(2, 4, 8, 8)), generator=list(draw.generators),
    ).images  # fmt: skip
    for source in (folder, tmp_path / "out"):
        mine = FewStepPipeline.from_pretrained(source)(PROMPTS, seed=3, num_inference_steps=4)
        pixels = np.stack([np.asarray(image.image) for image in mine]) / 255
        assert np.abs(pixels - theirs).max() <= 2 / 255


def test_half_precision_is_that_of_every_network_in_the_whole_models(tmp_path):
    options = ExportOptions(fused=True, checkpoint=True, precision="fp16")
    export_artefact(str(tiny_artefact(tmp_path / "source")), tmp_path / "out", options)
    files = [*(tmp_path / "out" / "fused").rglob("*.safetensors")]
    assert len(files) == 4
    for path in files:
        dtypes = {weight.dtype for weight in load_file(path).values() if weight.is_floating_point()}
        assert dtypes == {torch.float16}, path
    folders = (tmp_path / "out", tmp_path / "out" / "fused" / "diffusers")
    mine, fused = (
        FewStepPipeline.from_pretrained(f)(PROMPTS[:1], seed=3)[0].image for f in folders
    )
    assert np.abs(np.asarray(mine, int) - np.asarray(fused)).max() <= 4


def test_whoever_reads_one_file_reads_all(exported):
    assert len({path.stat().st_mode for path in exported.rglob("*") if path.is_file()}) == 1


def test_the_checkpoint_loads_to_identical_weights(exported):
    path = exported / "fused" / "tiny-student-fused.safetensors"
    pipe = StableDiffusionPipeline.from_single_file(
        str(path), config=str(tiny_pipeline()), local_files_only=True, torch_dtype=torch.float32
    )
    pipeline = FewStepPipeline.from_pretrained(exported)
    family, network = pipeline.student
    for mine, theirs in (
        (network, pipe.unet),
        (family.vae, pipe.vae),
        (family.text_encoder, pipe.text_encoder),
    ):
        mine, theirs = mine.state_dict(), theirs.state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    base = load_model(tiny_pipeline()).network.state_dict()
    assert any(not torch.equal(base[name], weight) for name, weight in network.state_dict().items())
    with safe_open(path, "pt") as file:
        assert "modelspec.usage_hint" in file.metadata()


def test_the_checkpoint_is_not_taken_for_a_teacher(exported, tmp_path):
    path = str(exported / "fused" / "tiny-student-fused.safetensors")
    inside = r"holds a (multi-boundary-)?cd student, as its header says.* name the folder"
    for read in (load_model, load_skeleton, lambda file: generate(file, PROMPTS, SampleOptions())):
        with pytest.raises(ModelError, match=inside):
            read(path)
    with pytest.raises(ArtefactError, match="is a file, which has no timesteps: name the"):
        evaluate_sources([path], "prompts", tmp_path)


def test_the_names_are_those_of_stable_diffusion_1():
    """Numbers and places as in the checkpoint that was published."""
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(cross_attention_dim=768), AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )  # fmt: skip
    names = {unet_name(name, unet.config) for name in unet.state_dict()}
    assert len(names) == len(unet.state_dict()) == 686
    assert {".".join(n.split(".")[:2]) for n in names if n.startswith(("in", "out", "mid"))} == {
        *(f"input_blocks.{i}" for i in range(12)), *(f"output_blocks.{i}" for i in range(12)),
        *(f"middle_block.{i}" for i in range(3)), "out.0", "out.2",
    }  # fmt: skip
    assert names >= {
        "time_embed.2.bias", "input_blocks.0.0.weight", "input_blocks.3.0.op.weight",
        "input_blocks.4.0.skip_connection.weight", "input_blocks.11.0.out_layers.3.bias",
        "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight",
        "output_blocks.2.1.conv.weight", "output_blocks.5.2.conv.weight",
        "output_blocks.8.2.conv.bias", "output_blocks.11.0.emb_layers.1.weight",
        "output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight",
    }  # fmt: skip
    places = {vae_name(name, vae.config) for name in vae.state_dict()}
    assert len(places) == len(vae.state_dict()) == 248
    assert places >= {
        "encoder.down.0.downsample.conv.weight", "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.mid.attn_1.norm.weight", "decoder.mid.block_2.conv2.bias",
        "decoder.up.3.block.2.conv1.weight", "decoder.up.1.upsample.conv.bias",
        "decoder.up.0.block.0.nin_shortcut.bias", "decoder.norm_out.weight", "quant_conv.bias",
    }  # fmt: skip


def test_the_text_encoder_of_stable_diffusion_2_goes_there_and_back():
    settings = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 32, "hidden_act": "gelu",
                "num_hidden_layers": 2, "num_attention_heads": 2,
                "max_position_embeddings": 8}  # fmt: skip
    encoder = CLIPTextModel(CLIPTextConfig(**settings))
    tensors = ldm_weights({"text_encoder": encoder})
    width = {"cond_stage_model.model.text_projection": torch.zeros(16, 16)}  # tells it the width
    again = convert_open_clip_checkpoint(encoder, tensors | width, "cond_stage_model.model.")
    mine = {n.removeprefix("text_model."): w for n, w in encoder.state_dict().items()}
    theirs = {n.removeprefix("text_model."): w for n, w in again.items()}
    theirs.pop("text_projection.weight", None)
    theirs.pop("embeddings.position_ids", None)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
