"""A workflow for ComfyUI, to drag onto its canvas, that samples a student at its timesteps."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from fewstep.export.artefact import is_whole_network
from fewstep.student.contract import Contract
from fewstep.student.other_programs import comfyui_sampler, comfyui_sampling, comfyui_sigmas

OUTPUTS = {
    "CheckpointLoaderSimple": ("MODEL", "CLIP", "VAE"),
    "LoraLoaderModelOnly": ("MODEL",),
    "ModelSamplingDiscrete": ("MODEL",),
    "CLIPTextEncode": ("CONDITIONING",),
    "EmptyLatentImage": ("LATENT",),
    "KSampler": ("LATENT",),
    "KSamplerSelect": ("SAMPLER",),
    "ManualSigmas": ("SIGMAS",),
    "SamplerCustom": ("LATENT", "LATENT"),
    "VAEDecode": ("IMAGE",),
    "SaveImage": (),
}
"""The outputs of each type of node, in the order of its sockets."""


BASE_MODEL = "your-base-model.safetensors"
"""Stands for a file's name: the frontend reports it missing, as long as it has an extension."""


class Node(NamedTuple):
    """A node's type, its widgets' values, and its inputs: another node's name and output."""

    type: str
    values: list[Any]
    inputs: Mapping[str, tuple[str, int]] = {}


def workflow(contract: Contract, file: str) -> str:
    """Return the workflow's JSON for `file`: a LoRA, or a checkpoint with the student in it."""
    is_whole, steps = is_whole_network(contract), contract.default_num_steps
    nodes, model = {}, ("checkpoint", 0)
    nodes["checkpoint"] = Node("CheckpointLoaderSimple", [file if is_whole else BASE_MODEL])
    if not is_whole:
        nodes["lora"] = Node("LoraLoaderModelOnly", [file, 1.0], {"model": model})
        model = ("lora", 0)
    if sampling := comfyui_sampling(contract):
        nodes["sampling"] = Node("ModelSamplingDiscrete", [*sampling], {"model": model})
        model = ("sampling", 0)
    side, sampler = contract.data.get("resolution", 512), comfyui_sampler(contract)
    clip, latent = {"clip": ("checkpoint", 1)}, {"latent_image": ("latent", 0)}
    nodes["positive"] = Node("CLIPTextEncode", ["a lighthouse at dusk"], clip)
    nodes["negative"] = Node("CLIPTextEncode", [""], clip)
    nodes["latent"] = Node("EmptyLatentImage", [side, side, 1])
    inputs = {"model": model, "positive": ("positive", 0), "negative": ("negative", 0)}
    if contract.grid.spacing == "uniform":
        values = [0, "fixed", steps, 1.0, sampler, "simple", 1.0]
        nodes["sampled"] = Node("KSampler", values, inputs | latent)
    else:
        nodes["sampler"] = Node("KSamplerSelect", [sampler])
        nodes["sigmas"] = Node("ManualSigmas", [comfyui_sigmas(contract, steps)])
        inputs |= {"sampler": ("sampler", 0), "sigmas": ("sigmas", 0)} | latent
        nodes["sampled"] = Node("SamplerCustom", [True, 0, "fixed", 1.0], inputs)
    nodes["decoded"] = Node("VAEDecode", [], {"samples": ("sampled", 0), "vae": ("checkpoint", 2)})
    nodes["saved"] = Node("SaveImage", ["fewstep"], {"images": ("decoded", 0)})
    return json.dumps(_graph(nodes), indent=1) + "\n"


def _graph(nodes: Mapping[str, Node]) -> dict[str, Any]:
    """Return nodes, each after those that its inputs come from, in ComfyUI's format 0.4."""
    written: dict[str, dict[str, Any]] = {}
    links: list[list[Any]] = []
    for i, (name, node) in enumerate(nodes.items()):
        outputs = enumerate(OUTPUTS[node.type])
        written[name] = {
            "id": i + 1,
            "type": node.type,
            "pos": [330 * i, 100 + 120 * ((i + 1) % 3)],
            "size": [310, 100],
            "flags": {},
            "order": i,
            "mode": 0,
            "inputs": [],
            "outputs": [{"name": o, "type": o, "links": [], "slot_index": s} for s, o in outputs],
            "properties": {"Node name for S&R": node.type},
            "widgets_values": node.values,
        }
        for slot, (socket, (source, output)) in enumerate(node.inputs.items()):
            link, origin = len(links) + 1, written[source]
            kind = OUTPUTS[origin["type"]][output]
            origin["outputs"][output]["links"].append(link)
            links.append([link, origin["id"], output, i + 1, slot, kind])
            written[name]["inputs"].append({"name": socket, "type": kind, "link": link})
    graph = {"last_node_id": len(written), "last_link_id": len(links)}
    graph |= {"nodes": [*written.values()], "links": links}
    return graph | {"groups": [], "config": {}, "extra": {}, "version": 0.4}
