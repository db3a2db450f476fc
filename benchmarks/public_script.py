"""The public LCM-LoRA script of diffusers on the bundled teacher: the row beside our students.

    python -m benchmarks.public_script SCRIPT --python VENV/bin/python \\
        -o benchmarks/results/public_script.json

SCRIPT is examples/consistency_distillation/train_lcm_distill_lora_sd_wds.py of diffusers. It runs
as it is, with the flags of its README, on the teacher, scenes and number of samples of our students
and at their guidance. Its adapter is sampled as the script's own validation does: LCMScheduler, 4
steps, guidance 1. VENV is an environment of its own:

    pip install torch torchvision diffusers transformers peft accelerate braceexpand tensorboardX \\
        webdataset==0.2.86

From webdataset 0.2.100 on the script cannot read its shards. After an interruption the training
starts anew; what was finished is not repeated.
"""

import argparse
import io
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from peft import PeftModel
from PIL import Image
from transformers import CLIPTextModel

from benchmarks.students import CORE_SECONDS, count, counted
from fewstep.data.pairs import BundledPairs
from fewstep.diffusion.random import Draw
from fewstep.errors import UserError
from fewstep.evaluation.evaluate import evaluate_images
from fewstep.evaluation.intervals import mean_of_few
from fewstep.evaluation.prompts import held_out_prompts
from fewstep.evaluation.results import load, save
from fewstep.evaluation.samples import batches
from fewstep.files import write_file, write_folder
from fewstep.images import png
from fewstep.models.loading import bundled_folder
from fewstep.student.seeds import numbered_generators

WEBDATASET = "0.2.86"
TITLE, STEPS = "Public LCM script", 4
TOKENS = 77
"""The length to which the script pads the empty prompt, whatever the model's own is."""


@dataclass(frozen=True)
class Script:
    """The script, the interpreter that runs it, and what it is given."""

    path: Path
    python: str
    folder: Path
    num_pairs: int
    num_steps: int
    batch_size: int
    learning_rate: float
    guidance_scale: float
    seed: int
    rank: int = 64

    @property
    def out(self) -> Path:
        return self.folder / f"rate-{self.learning_rate:g}-seed-{self.seed}"

    @property
    def seconds_file(self) -> Path:
        return self.out.with_name(f"{self.out.name}.core-seconds.json")

    @property
    def words(self) -> list[str]:
        """Its command line: the flags of its README, where the model does not decide."""
        flags = {
            "pretrained_teacher_model": self.folder / "teacher",
            "train_shards_path_or_url": self.folder / "scenes.tar",
            "output_dir": self.out,
            "resolution": 64,
            "lora_rank": self.rank,
            "learning_rate": self.learning_rate,
            "loss_type": "huber",
            "adam_weight_decay": 0.0,
            "max_train_steps": self.num_steps,
            "max_train_samples": self.num_steps * self.batch_size,
            "train_batch_size": self.batch_size,
            "dataloader_num_workers": 1,  # fewer it does not take
            "w_min": self.guidance_scale - 1,  # w is 0 where diffusers' scale is 1
            "w_max": self.guidance_scale - 1,
            "validation_steps": self.num_steps + 1,  # never: its prompts are of photographs
            "checkpointing_steps": self.num_steps + 1,
            "seed": self.seed,
        }
        return [
            self.python,
            str(self.path),
            *(f"--{name}={value}" for name, value in flags.items()),
        ]

    def check(self) -> None:
        """Refuse what cannot run, before any work.

        Raises:
            UserError: if the script is not there, or its environment lacks the right webdataset.
        """
        if not self.path.is_file():
            raise UserError(f"{self.path} is no file; give the path of diffusers' script")
        asked = "import webdataset, torchvision, braceexpand; print(webdataset.__version__)"
        try:
            done = subprocess.run([self.python, "-c", asked], capture_output=True, text=True)
        except OSError as error:
            raise UserError(f"--python {self.python} cannot be started: {error}") from error
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise UserError(
                f"--python {self.python} cannot import what the script needs ({reason}); make the "
                "environment that this command's --help describes"
            )
        if (found := done.stdout.strip()) != WEBDATASET:
            raise UserError(
                f"--python {self.python} has webdataset {found}, with which the script cannot read "
                f"its shards; install webdataset=={WEBDATASET}"
            )

    def prepare(self) -> None:
        """Write what it reads, unless that was done."""
        if not (self.folder / "teacher").is_dir():
            write_folder(self.folder / "teacher", write_teacher)
        if not (self.folder / "scenes.tar").is_file():
            write_file(self.folder / "scenes.tar", shard(self.num_pairs))

    def train(self) -> None:
        """Run it to its end, unless that was done."""
        self.prepare()
        if not (self.out / "adapter_model.safetensors").is_file():
            self.seconds_file.unlink(missing_ok=True)
            count(self.seconds_file, *self.words)


def write_teacher(folder: Path) -> None:
    """Write the bundled teacher with a text encoder that takes the script's empty prompt.

    The script pads it to 77 tokens, and this encoder has 27 positions. Captions stay 27 tokens long
    and are encoded as before.
    """
    pipeline = StableDiffusionPipeline.from_pretrained(bundled_folder(), local_files_only=True)
    pipeline.to(torch.float32)
    pipeline.text_encoder = with_more_positions(pipeline)
    pipeline.save_pretrained(folder)


def with_more_positions(pipeline: StableDiffusionPipeline, steps: int = 120) -> CLIPTextModel:
    """Return the text encoder with TOKENS positions; the new ones are fitted.

    Their target is the network's output at random inputs for the empty prompt of the model's own
    length: fifty more tokens of padding would change it, and so the guidance.
    """
    encoder, network = pipeline.text_encoder.requires_grad_(False), pipeline.unet
    empty = pipeline.tokenizer("", padding="max_length", max_length=TOKENS, return_tensors="pt")
    length = pipeline.tokenizer.model_max_length
    config, state = deepcopy(encoder.config), encoder.state_dict()
    config.max_position_embeddings = TOKENS
    name = next(name for name in state if name.endswith("position_embedding.weight"))
    turns = torch.arange(length, TOKENS) % length  # to begin with, the first ones again
    state[name] = torch.cat([state[name], state[name][turns]])
    longer = CLIPTextModel(config).eval().requires_grad_(False)
    longer.load_state_dict(state)
    positions = longer.get_parameter(name).requires_grad_()
    optimizer, random = torch.optim.Adam([positions]), torch.Generator().manual_seed(0)
    size = network.requires_grad_(False).config.sample_size
    own = encoder(empty.input_ids[:, :length])[0]
    for step in range(steps):
        x_t, t = (torch.randn(4, 4, size, size, generator=random),
                  torch.randint(0, 1000, (4,), generator=random))  # fmt: skip
        wanted, found = (
            network(x_t, t, encoder_hidden_states=text.expand(4, -1, -1)).sample
            for text in (own, longer(empty.input_ids)[0])
        )
        (found - wanted).square().mean().backward()
        assert positions.grad is not None
        positions.grad[:length] = 0
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()
    return longer


def shard(num_pairs: int) -> bytes:
    """Return the students' scenes as a shard of the webdataset format."""
    pairs, buffer = BundledPairs(num_pairs, 64), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(num_pairs):
            pixels = (pairs.image(number) * 255).round().byte().permute(1, 2, 0).numpy()
            caption = pairs.captions(number)[0].encode()
            for suffix, data in (("png", png(pixels)), ("txt", caption)):
                info = tarfile.TarInfo(f"{number:06d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pipeline_of(teacher: Path, adapter: Path) -> StableDiffusionPipeline:
    """Return the teacher with the script's adapter, sampled by LCMScheduler."""
    pipeline = StableDiffusionPipeline.from_pretrained(teacher, local_files_only=True)
    pipeline.unet = PeftModel.from_pretrained(pipeline.unet, adapter).merge_and_unload()
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline: StableDiffusionPipeline, prompts: Sequence[str], folder: Path) -> None:
    """Write an image of each prompt, from the noise that the students' evaluation starts from."""
    folder.mkdir(parents=True, exist_ok=True)
    size = pipeline.unet.config.sample_size
    for numbers in batches(len(prompts)):
        paths = [folder / f"{number:06d}.png" for number in numbers]
        if all(path.is_file() for path in paths):
            continue
        draw = Draw(numbered_generators(0, numbers), "cpu")
        images = pipeline(
            prompt=[prompts[number] for number in numbers],
            num_inference_steps=STEPS,
            guidance_scale=1.0,
            latents=draw.noise_like(torch.empty(len(numbers), 4, size, size)),
            generator=[torch.Generator().manual_seed(number) for number in numbers],
        ).images
        for path, image in zip(paths, images, strict=True):
            assert isinstance(image, Image.Image)
            image.save(path)


def shown_command(module: str, args: argparse.Namespace) -> str:
    """Return this command line without the paths of this machine."""
    names = {str(args.script): args.script.name, args.python: "VENV/bin/python"}
    words = shlex.join(names.get(word, word) for word in sys.argv[1:])
    return f"python -m benchmarks.{module} {words}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", type=Path)
    parser.add_argument("--python", required=True, help="of the script's own environment")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="its README's: 1e-4")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-pairs", type=int, default=4096)
    parser.add_argument("--guidance", type=float, default=2.0, help="in diffusers' form")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-prompts", type=int, default=2000)
    parser.add_argument("--runs", type=Path, default=Path("runs/public-script"))
    args = parser.parse_args()
    script = Script(args.script, args.python, args.runs, args.num_pairs, args.steps,
                    args.batch_size, args.learning_rate, args.guidance, args.seed)  # fmt: skip
    script.check()
    script.train()

    prompts = held_out_prompts(args.num_prompts)
    images = script.out / f"images-{args.num_prompts}"
    sample(pipeline_of(script.folder / "teacher", script.out), prompts, images)
    write_file(script.out / "prompts.txt", "\n".join(prompts) + "\n")
    path = evaluate_images([images], "bundled", script.out / "evaluation",
                           script.out / "prompts.txt")  # fmt: skip
    results = load(path)
    seconds = mean_of_few([counted(script.seconds_file)])
    row = replace(results.rows[0], source=script.out.name, method=TITLE, steps=STEPS, calls=STEPS,
                  metrics={**results.rows[0].metrics, CORE_SECONDS: seconds})  # fmt: skip
    save(replace(results, rows=(row,), command=shown_command("public_script", args)), args.out)


if __name__ == "__main__":
    main()
