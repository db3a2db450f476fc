"""The model card: what a student is, how to sample it, how good it was measured to be."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from huggingface_hub import ModelCardData

from fewstep.export.recipes import FUSED_FOLDER, guidance, recipes
from fewstep.methods import method_title
from fewstep.student.contract import Contract
from fewstep.student.locate import on_the_hub, public_name


@dataclass(frozen=True)
class Figures:
    """One row of the card's table: who was measured, in how many calls, and the numbers."""

    source: str
    calls: int
    metrics: Mapping[str, str]


@dataclass(frozen=True)
class Card:
    """What the card says beside the contract; `settings` are the run's, as TOML."""

    license: str | None = None
    preview: str | None = None
    settings: str | None = None
    figures: Sequence[Figures] = field(default_factory=tuple)
    measured_by: str = ""


def write_card(contract: Contract, name: str, card: Card) -> str:
    """Return the README.md of an artefact."""
    parts = [
        f"---\n{_front_matter(contract, card)}\n---",
        f"# {name}",
        _what_it_is(contract),
        f"![teacher and student]({card.preview})" if card.preview else "",
        "## How to sample it",
        _how_to_sample(contract, name),
        "## What it was trained on",
        _training(contract),
        _settings(card),
        "## How good it is",
        _figures(card),
        "## Limits",
        _limits(contract),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def recipe_table(contract: Contract, name: str) -> str:
    """Return how each program samples the student, as a Markdown table."""
    return table(
        ["program", "file", "settings", "result", "otherwise"],
        ([r.program, r.file, r.settings, r.result, r.otherwise] for r in recipes(contract, name)),
    )


def _front_matter(contract: Contract, card: Card) -> str:
    base = contract.base.get("id", "")
    data = ModelCardData(
        base_model=base if on_the_hub(base) else None,
        base_model_relation=_relation(contract) if on_the_hub(base) else None,
        library_name="diffusers",
        license=card.license,
        pipeline_tag="text-to-image",
        tags=[
            "text-to-image",
            "diffusers",
            "stable-diffusion",
            "consistency-distillation",
            *(["lora"] if _relation(contract) == "adapter" else []),
        ],
        widget=[{"text": "teacher and student", "output": {"url": card.preview}}]
        if card.preview
        else None,
    )
    return data.to_yaml()


def _base(contract: Contract) -> str:
    """Return what the base is called, without a path on this machine."""
    return public_name(contract.base.get("id", "BASE"))


def _relation(contract: Contract) -> str:
    return "finetune" if contract.adapter.get("preset") == "full" else "adapter"


def _what_it_is(contract: Contract) -> str:
    method = method_title(contract.method["name"], full=True)
    steps = contract.default_num_steps
    inside = (
        f"guidance {contract.guidance_scale:g} is distilled into it"
        if contract.guidance_scale > 1
        else "no guidance is distilled into it"
    )
    return (
        f"A {steps}-step student of `{_base(contract)}`, made with "
        f"fewstep by {method}: {inside}, and its calls start at timesteps "
        f"{', '.join(map(str, contract.timesteps()))}."
    )


def _how_to_sample(contract: Contract, name: str) -> str:
    steps, known = contract.default_num_steps, sorted(map(int, contract.grid.sampling_timesteps))
    base = _base(contract)
    base = "bundled_folder()" if base == "bundled" else f'"{base}"'  # fewstep.models.loading
    loaded = (
        f"pipe = StableDiffusionPipeline.from_pretrained({base})\n"
        'pipe.load_lora_weights("FOLDER", weight_name="pytorch_lora_weights.safetensors")'
        if _relation(contract) == "adapter"
        else f'pipe = StableDiffusionPipeline.from_pretrained("FOLDER/{FUSED_FOLDER[:-1]}")'
    )
    return (
        f"In **{steps} steps** (it knows {', '.join(map(str, known))}), guidance "
        f"{guidance(contract)}.\n\n{recipe_table(contract, name)}\n\n"
        f"```python\n{loaded}\n"
        'pipe.scheduler = FewStepScheduler.from_artefact("FOLDER")  # fewstep.student.scheduler\n'
        f'image = pipe("a prompt", num_inference_steps={steps}, guidance_scale=1).images[0]\n'
        "```\n\n`comfyui.json` is a workflow to drag onto ComfyUI's canvas."
    )


def _training(contract: Contract) -> str:
    ends = ", ".join("clean data" if b < 0 else str(b) for b in contract.grid.boundaries)
    facts = {
        "base model": f"`{_base(contract)}` (UNet's fingerprint "
        f"`{str(contract.base.get('fingerprint'))[:16]}…`)",
        "method": ", ".join(f"{key} {value}" for key, value in contract.method.items()),
        "jumps land at": ends,
        "guidance distilled": f"{contract.guidance_scale:g} (diffusers' form; 1 is none)",
        "adapter": ", ".join(f"{key} {value}" for key, value in contract.adapter.items()),
        "data": ", ".join(f"{key} {value}" for key, value in contract.data.items()),
        "training": ", ".join(f"{key} {value}" for key, value in contract.train.items()),
        "versions": ", ".join(f"{key} {value}" for key, value in contract.versions.items()),
    }
    return table(["", ""], ([key, value] for key, value in facts.items() if value))


def _settings(card: Card) -> str:
    if not card.settings:
        return ""
    return (
        "To train it again, put this into `student.toml` and run "
        f"`fewstep distill student.toml --run RUN`:\n\n```toml\n{card.settings.strip()}\n```"
    )


def _figures(card: Card) -> str:
    if not card.figures:
        return "It was not measured; `fewstep evaluate` does so."
    names = list(dict.fromkeys(name for row in card.figures for name in row.metrics))
    rows = (
        [row.source, str(row.calls), *(row.metrics.get(name, "") for name in names)]
        for row in card.figures
    )
    return (
        f"{table(['', 'network calls', *names], rows)}\n\n"
        f"95 % intervals in brackets, n images. Measured by `{card.measured_by}`."
    )


def _limits(contract: Contract) -> str:
    several = len(contract.grid.boundaries) > 1
    limits = [
        "Another number of steps than those that it knows, or another program's default sampler, "
        "asks it for jumps that it never learnt: see the table above.",
        "It has its base model's faults and biases; on another base model it is not what was "
        "measured.",
    ]
    if contract.method["name"] in ("ct", "multi-boundary-ct"):
        limits.append(
            "It learnt from data alone and imitates the base model *without* guidance, whose "
            "images follow the prompt less."
        )
    if not contract.takes_guidance:
        limits.append("Guidance and negative prompts have no meaning for it.")
    if not several:
        limits.append("Between its calls fresh noise is added: the starting noise decides little.")
    return "\n".join(f"- {limit}" for limit in limits)
