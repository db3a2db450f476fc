"""A workflow for ComfyUI, to drag onto its canvas, that samples a student at its timesteps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
"""What each node gives, in the order of its sockets."""

Socket = tuple[int, int]
"""A node's number and which of its outputs."""


def workflow(contract: Contract, file: str) -> str:
    """Return the workflow's JSON for `file`: a LoRA, or a checkpoint with the student in it."""
    graph, is_full = Graph(), contract.adapter.get("preset") == "full"
    loader = graph.add("CheckpointLoaderSimple", {}, [file if is_full else "your-base-model"])
    model, clip, vae = ((loader, i) for i in range(3))
    if not is_full:
        model = (graph.add("LoraLoaderModelOnly", {"model": model}, [file, 1.0]), 0)
    if sampling := comfyui_sampling(contract):
        model = (graph.add("ModelSamplingDiscrete", {"model": model}, sampling), 0)
    sampler = comfyui_sampler(contract)
    prompt = graph.add("CLIPTextEncode", {"clip": clip}, ["a lighthouse at dusk"])
    nothing = graph.add("CLIPTextEncode", {"clip": clip}, [""])
    side = contract.data.get("resolution", 512)
    empty = graph.add("EmptyLatentImage", {}, [side, side, 1])
    asked = {"model": model, "positive": (prompt, 0), "negative": (nothing, 0)}
    steps = contract.default_num_steps
    if contract.spacing == "uniform":
        told = [0, "fixed", steps, 1.0, sampler, "simple", 1.0]
        sampled = graph.add("KSampler", asked | {"latent_image": (empty, 0)}, told)
    else:
        chosen = graph.add("KSamplerSelect", {}, [sampler])
        sigmas = graph.add("ManualSigmas", {}, [comfyui_sigmas(contract, steps)])
        asked |= {"sampler": (chosen, 0), "sigmas": (sigmas, 0), "latent_image": (empty, 0)}
        sampled = graph.add("SamplerCustom", asked, [True, 0, "fixed", 1.0])
    decoded = graph.add("VAEDecode", {"samples": (sampled, 0), "vae": vae}, [])
    graph.add("SaveImage", {"images": (decoded, 0)}, ["fewstep"])
    return graph.to_json()


@dataclass
class Graph:
    """Nodes and links in the form of ComfyUI's files, version 0.4."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)

    def add(self, kind: str, inputs: Mapping[str, Socket], values: Sequence[Any]) -> int:
        """Add a node whose inputs come from other nodes' outputs; return its number."""
        number = len(self.nodes) + 1
        node = {
            "id": number,
            "type": kind,
            "pos": [330 * (number - 1), 100 + 120 * (number % 3)],
            "size": [310, 100],
            "flags": {},
            "order": number - 1,
            "mode": 0,
            "inputs": [
                {"name": name, **self._link(source, number, slot)}
                for slot, (name, source) in enumerate(inputs.items())
            ],
            "outputs": [
                {"name": output, "type": output, "links": [], "slot_index": slot}
                for slot, output in enumerate(OUTPUTS[kind])
            ],
            "properties": {"Node name for S&R": kind},
            "widgets_values": list(values),
        }
        self.nodes.append(node)
        return number

    def _link(self, source: Socket, target: int, slot: int) -> dict[str, Any]:
        number = len(self.links) + 1
        output = self.nodes[source[0] - 1]["outputs"][source[1]]
        output["links"].append(number)
        self.links.append([number, *source, target, slot, output["type"]])
        return {"type": output["type"], "link": number}

    def to_json(self) -> str:
        whole = {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }
        return json.dumps(whole, indent=1) + "\n"
