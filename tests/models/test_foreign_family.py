"""A model family is one module and its line in MODELS: one from outside goes the whole way."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from zlib import crc32

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fewstep.config import AdapterSettings, Config, DataSettings, ModelSettings, TrainSettings
from fewstep.diffusion.prediction import from_epsilon
from fewstep.diffusion.schedule import NoiseSchedule
from fewstep.evaluation.evaluate import evaluate_sources
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.models.adapters import lora_roles
from fewstep.models.base import ModelError, PromptLength, fingerprint
from fewstep.models.checkpointing import set_checkpointing
from fewstep.models.loading import MODELS, load_model
from fewstep.student.pipeline import FewStepPipeline
from fewstep.training.distill import distill_run

SCHEDULER = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
             "beta_end": 0.012, "prediction_type": "epsilon"}  # fmt: skip
PROMPTS = ["a red heart", "two stars", "a blue ring"]


class PixelNetwork(nn.Module):
    """Looks at one pixel at a time; no class of diffusers, and none of its modules' names."""

    def __init__(self):
        super().__init__()
        self.inside, self.outside = nn.Linear(3 + 4 + 1, 16), nn.Linear(16, 3)

    def forward(self, x, t, words):
        height, width = x.shape[2:]
        extra = torch.cat([words, t[:, None] / 1000], 1)[:, None, None]
        seen = torch.cat([x.movedim(1, -1), extra.expand(-1, height, width, -1)], -1)
        return self.outside(self.inside(seen).tanh()).movedim(-1, 1)


@dataclass(frozen=True)
class PixelFamily:
    """Its latents are the image's pixels at a quarter of the size; a prompt is its mean word."""

    network: PixelNetwork
    words: nn.Embedding
    fingerprint: str
    schedule: NoiseSchedule
    dtype: torch.dtype
    revision: str | None = None
    long_prompts = "cut"
    default_resolution = 16
    image_divisor = 4
    scheduler_config = SCHEDULER
    encoding_settings: ClassVar = {"factor": 4}
    lora_presets: ClassVar = {"all": ("inside", "outside")}
    ldm_blocks: ClassVar = {}

    @property
    def vae_and_text_encoder(self):
        return (self.words,)

    def latent_shape(self, height, width=None):
        return 3, height // 4, (width or height) // 4

    def denoiser(self, network):
        def denoise(x_t, t, cond):
            t = t.clamp(min=0)
            return from_epsilon(network(x_t, t, cond["words"]), x_t, t, self.schedule)

        return denoise

    def prompt_lengths(self, prompts):
        return [PromptLength(len(prompt.split()), 1000, "") for prompt in prompts]

    @torch.no_grad()
    def encode_prompts(self, prompts):
        numbers = [[crc32(w.encode()) % 32 for w in prompt.split()] or [0] for prompt in prompts]
        return {"words": torch.stack([self.words(torch.tensor(n)).mean(0) for n in numbers])}

    def encode_images(self, images):
        mean = nn.functional.avg_pool2d(2 * images - 1, 4)
        return mean, torch.zeros_like(mean)

    def decode(self, latents):
        return (nn.functional.interpolate(latents, scale_factor=4) / 2 + 0.5).clamp(0, 1)

    def pipeline(self, network, scheduler_config=None):
        raise ModelError("the pixel family has no pipeline in diffusers")

    checkpoint_weights = pipeline

    def with_own_text_encoder(self):
        return self


def load_pixels(source, *, dtype, device, **_):
    network, words = PixelNetwork(), nn.Embedding(32, 4)
    weights = load_file(Path(source) / "pixels.safetensors")
    words.weight.data = weights.pop("words")
    network.load_state_dict(weights)
    for part in (network, words):
        part.requires_grad_(False).to(device)
    schedule = NoiseSchedule.from_config(SCHEDULER).to(device)
    return PixelFamily(network, words, fingerprint(network), schedule, dtype)


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A folder with a model of a family that is added from outside."""
    monkeypatch.setitem(MODELS, "PixelPipeline", load_pixels)
    torch.manual_seed(0)
    folder = tmp_path / "pixels"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "PixelPipeline"}))
    weights = {**PixelNetwork().state_dict(), "words": torch.randn(32, 4)}
    save_file(weights, folder / "pixels.safetensors")
    return folder


@pytest.mark.parametrize("adapter", [AdapterSettings(rank=2, alpha=4.0), None])
def test_a_foreign_family_is_distilled_exported_sampled_and_evaluated(base, tmp_path, adapter):
    config = Config(
        method={"name": "cd"},
        model=ModelSettings(base=str(base)),
        adapter=adapter,
        data=DataSettings(num_pairs=12),
        train=TrainSettings(steps=4, batch_size=2, warmup=1, save_every=2, preview_every=2,
                            learning_rate=1e-2),
    )  # fmt: skip
    assert distill_run(config, tmp_path / "runs" / "cd") == 4
    export_artefact(str(tmp_path / "runs" / "cd"), tmp_path / "out", ExportOptions())

    pipeline = FewStepPipeline.from_pretrained(tmp_path / "out")
    image, again = (np.asarray(pipeline(PROMPTS, seed=3)[1].image) for _ in range(2))
    assert image.shape == (16, 16, 3)
    assert (image == again).all()
    teacher, student = load_model(base).network, pipeline.student[1]
    assert not torch.equal(teacher.inside.weight, student.inside.weight)

    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    (tmp_path / "weights").mkdir()
    results = evaluate_sources(
        [str(tmp_path / "out")], "prompts", tmp_path / "evaluation", student_steps=(1,),
        prompt_file=tmp_path / "prompts.txt", weights=tmp_path / "weights",
    )  # fmt: skip
    rows = json.loads(results.read_text())["rows"]
    assert any("same_noise_rmse" in row["metrics"] for row in rows)


def test_what_a_foreign_family_lacks_is_refused(base):
    family = load_model(base)
    with pytest.raises(ModelError, match=r"adapter.preset is 'attention'; this model has: all"):
        lora_roles(family, "attention", 2, 4.0)
    with pytest.raises(ModelError, match=r"train.checkpointing is 'full', which this network"):
        set_checkpointing(family.network, "full")
