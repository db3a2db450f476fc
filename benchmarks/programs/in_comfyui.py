"""ComfyUI, from a folder that holds its repository: its own nodes run the exported workflow.

The torchvision that it asks for has to be built for the torch beside it. ComfyUI knows Stable
Diffusion 1.5 by its channels: the model has them, in two levels of four.
"""

# pyright: reportMissingImports=false
import gc
import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.programs import reader
from benchmarks.programs.reader import (
    BASE_FILE,
    CHECKPOINT,
    DIFFUSERS_LORA,
    KOHYA_LORA,
    PEFT_LORA,
    STYLE_LORA,
    WEIGHTS,
    of_both,
    report,
    rows,
)  # fmt: skip

ENVIRONMENTS = {
    "comfyui": (
        "torch==2.13.0", "torchvision==0.28.0", "torchsde==0.2.6", "einops==0.8.1",
        "transformers==4.57.6", "sentencepiece==0.2.1", "safetensors==0.6.2", "aiohttp==3.13.2",
        "pyyaml==6.0.3", "scipy==1.16.3", "psutil==7.1.3", "pydantic-settings==2.12.0",
        "av==16.0.1", "Pillow==12.0.0", "kornia==0.8.2", "spandrel==0.4.1", "alembic==1.17.2",
        "SQLAlchemy==2.0.44",
    )
}  # fmt: skip
REPOSITORY = "comfyui_version.py"
SETTINGS = "the exported workflow, its fresh noise given; ManualSigmas' numbers where it has none"
MODEL = reader.TWO_LEVELS
WHOLE = reader.MULTI
"""The student of which every file is loaded, and a second LoRA beside it; of the others it is the
workflow's own."""
STUDENTS = (WHOLE, reader.CD, reader.QUADRATIC)
NOT_READ = {"comfyui": {(WHOLE, DIFFUSERS_LORA), (WHOLE, PEFT_LORA)}}
"""Of the first it leaves out attention's layers, of the second all, and logs a line for each."""


def workflow(case: Path, file: str) -> list[dict[str, Any]]:
    """Return the exported workflow's nodes, with `file` as what is loaded."""
    graph = json.loads((case / "comfyui.json").read_text(encoding="utf-8"))
    for node in graph["nodes"]:
        if node["type"] == "CheckpointLoaderSimple":
            node["widgets_values"] = [BASE_FILE]
            if file == CHECKPOINT:
                node["widgets_values"] = [f"{case.name}/{CHECKPOINT}"]
        if node["type"] == "LoraLoaderModelOnly":
            node["widgets_values"] = [f"{case.name}/{file}", 1.0]
            node["off"] = file == CHECKPOINT
    links = {link[0]: (link[1], link[2]) for link in graph["links"]}
    for node in graph["nodes"]:
        node["inputs"] = {given["name"]: links[given["link"]] for given in node["inputs"]}
    return graph["nodes"]


def with_style(nodes: list[dict[str, Any]], case: Path, weights: tuple[float, float]) -> None:
    """Put a second node after the one that loads the LoRA, as a user does, and set the weights."""
    at, first = next((i, n) for i, n in enumerate(nodes) if n["type"] == "LoraLoaderModelOnly")
    first["widgets_values"] = [f"{case.name}/{KOHYA_LORA}", weights[0]]
    second = {"id": 1 + max(node["id"] for node in nodes), "type": first["type"]}
    for node in nodes:
        given = node["inputs"].items()
        node["inputs"] = {k: (second["id"], 0) if v == (first["id"], 0) else v for k, v in given}
    second |= {"widgets_values": [f"{case.name}/{STYLE_LORA}", weights[1]]}
    nodes.insert(at + 1, second | {"inputs": {"model": (first["id"], 0)}})


def values(kind: Any, given: list[Any]) -> dict[str, Any]:
    """Return a node's widgets by name, as the frontend lays them out, and check the choices."""
    declared = kind.INPUT_TYPES()
    named, left = {}, list(given)
    for name, (of, *_) in {**declared["required"], **declared.get("optional", {})}.items():
        if isinstance(of, list | tuple) or of in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
            named[name] = left.pop(0)
            if isinstance(of, list | tuple) and named[name] not in of:
                raise ValueError(f"{name} has no {named[name]!r}: {of}")
            if name in ("seed", "noise_seed"):
                left.pop(0)  # what the frontend does with it afterwards
    if left:
        raise ValueError(f"{kind.__name__} has no widgets for {left}")
    return named


class Pipeline:
    """A workflow, called as diffusers' pipeline is. Nodes before the prompt run once."""

    def __init__(self, nodes: list[dict[str, Any]]) -> None:
        from comfy_extras.nodes_custom_sampler import NODE_CLASS_MAPPINGS as CUSTOM
        from nodes import NODE_CLASS_MAPPINGS

        self.kinds, self.nodes = {**NODE_CLASS_MAPPINGS, **CUSTOM}, nodes
        self.outputs: dict[int, tuple] = {}
        for node in nodes:
            if "Loader" in node["type"]:
                self.outputs[node["id"]] = self.run(node)
        self.model = next(n for n in reversed(nodes) if n["id"] in self.outputs)
        self.model = self.outputs[self.model["id"]][0]

    def run(self, node: dict[str, Any], **changed: Any) -> tuple:
        """Return a node's outputs, of its inputs' and its widgets' values."""
        inputs = {name: self.outputs[i][slot] for name, (i, slot) in node["inputs"].items()}
        if node.get("off"):
            return (inputs["model"],)
        if node["type"] == "ManualSigmas" and "ManualSigmas" not in self.kinds:
            return (torch.tensor([float(n) for n in node["widgets_values"][0].split(",")]),)
        kind = self.kinds[node["type"]]
        named = values(kind, node["widgets_values"])
        named |= {name: value for name, value in changed.items() if name in named}
        given = {"prompt": None} if "prompt" in kind.INPUT_TYPES().get("hidden", {}) else {}
        return getattr(kind(), kind.FUNCTION)(**inputs, **named, **given)

    def set_progress_bar_config(self, **_: Any) -> None:
        """There is no bar."""

    @torch.inference_mode()
    def __call__(self, prompt: str, *, generator: torch.Generator, **given: Any) -> Any:
        """Sample an image of [height, width, 3], from 0 to 1."""
        from comfy.k_diffusion import sampling

        seed, asked = generator.initial_seed(), []
        sampling.default_noise_sampler = partial(fresh_noise, seed)
        positive = next(n["inputs"]["positive"][0] for n in self.nodes if "positive" in n["inputs"])
        network = self.model.model.diffusion_model
        hook = network.register_forward_pre_hook(lambda _, given: asked.append(int(given[1][0])))
        for node in self.nodes:
            if node["type"] == "SaveImage":
                continue
            if "Loader" not in node["type"]:
                changed = {"text": prompt} if node["id"] == positive else {}
                changed |= {"seed": seed, "noise_seed": seed}
                self.outputs[node["id"]] = self.run(node, **changed)
        hook.remove()
        for t in asked:
            given["callback_on_step_end"](None, 0, t, {})
        decoded = next(node for node in self.nodes if node["type"] == "VAEDecode")
        return SimpleNamespace(images=[i.numpy() for i in self.outputs[decoded["id"]][0]])


def fresh_noise(first: int, x: torch.Tensor, **_: Any) -> Any:
    """Return what draws the noise after that of the seed `first`, as diffusers' generator does."""
    generator = torch.Generator().manual_seed(first)
    torch.randn(x.shape, generator=generator)
    return lambda *_: torch.randn(x.shape, generator=generator)


def load(file: str, case: Path, weights: tuple[float, float] | None = None) -> Pipeline:
    import comfy.model_management
    import folder_paths

    comfy.model_management.unload_all_models()
    gc.collect()
    for kind in ("checkpoints", "loras"):
        folder_paths.add_model_folder_path(kind, str(case.parent), is_default=True)
    nodes = workflow(case, file)
    if weights:
        with_style(nodes, case, weights)
    return Pipeline(nodes)


def keys(file: str, pipeline: Pipeline, case: Path) -> list[int]:
    """Return how many of the student's layers, or of its network's tensors, ComfyUI has."""
    from safetensors import safe_open

    if file == CHECKPOINT:
        own = pipeline.model.model.diffusion_model.state_dict()
        prefix, applied, total = "model.diffusion_model.", 0, 0
        with safe_open(case / CHECKPOINT, "pt") as written:
            for name in written.keys():  # noqa: SIM118
                if name.startswith(prefix):
                    total += 1
                    applied += torch.equal(own[name.removeprefix(prefix)], written.get_tensor(name))
        return [applied, total]
    loaded = (PEFT_LORA, STYLE_LORA) if STYLE_LORA in file else (PEFT_LORA,)
    names: list[str] = []
    for lora in loaded:
        with safe_open(case / lora, "pt") as written:
            names += written.keys()
    applied = sum(map(len, pipeline.model.patches.values()))
    return [applied, sum(name.endswith((".lora_A.weight", ".lora_down.weight")) for name in names)]


def version() -> dict[str, str]:
    """Return ComfyUI's version."""
    from comfyui_version import __version__

    return {"ComfyUI": __version__}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[2])
    sys.argv[1:], folder = ["--cpu", "--force-fp32"], sys.argv[1]
    import comfy.options

    comfy.options.enable_args_parsing()
    import nodes  # noqa: F401

    sys.argv[1:] = [folder]
    more = (DIFFUSERS_LORA, PEFT_LORA, CHECKPOINT)
    files = {KOHYA_LORA: STUDENTS} | dict.fromkeys(more, (WHOLE,))
    found = [
        row
        for file, students in files.items()
        for row in rows({file: partial(load, file)}, students, keys=partial(keys, file))
    ]
    for weights in WEIGHTS:
        file = of_both(weights)
        both = {file: partial(load, KOHYA_LORA, weights=weights)}
        found += rows(both, (WHOLE,), keys=partial(keys, file))
    report(("torch", "transformers"), found, version())
