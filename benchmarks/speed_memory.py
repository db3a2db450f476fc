"""What a CD step keeps in memory whatever its batch, with a base in 16, 8 or 4 bits, and its time.

    python -m benchmarks.speed_memory --model sd15 --precision bf16 --resolution 256 \\
        --batch-sizes 1 --rounds 5 --steps 1 --threads 1 -o benchmarks/results/memory_sd15.json

Each design takes turns with fewstep's default (A B A B); `speed_up` is the default's time over its
own. `share` is its memory without a batch over that of the reference recipe, the public script of
diffusers: weights, gradients, optimiser and average, with VAE and text encoder. `share_offloaded`
leaves these two out of fewstep's, as on a GPU, from where they go once the data is encoded; the
reference's needs them in every step.
"""

import json
from multiprocessing.connection import Connection

from benchmarks.speed_own import Fewstep
from benchmarks.speed_reference import Flags, Reference
from benchmarks.speed_table import arguments, measure, serve
from benchmarks.speed_work import Setting
from fewstep.files import write_file
from fewstep.models.counting import num_bytes
from fewstep.models.loading import load_skeleton

LEAN: dict[str, object] = {"optimizer": "adamw8bit", "ema_precision": "bf16"}
OWN: dict[str, dict[str, object]] = {
    "fewstep": {},
    "int8": {"quantize": "int8"},
    "int8, 8-bit AdamW, bf16 average": {"quantize": "int8"} | LEAN,
    "nf4, 8-bit AdamW, bf16 average": {"quantize": "nf4"} | LEAN,
}
REFERENCE = "reference"
DESIGNS = ["fewstep", REFERENCE, *list(OWN)[1:]]
"""The names of all designs; the first is the baseline of the times."""


def build(name: str, setting: Setting) -> Reference | Fewstep:
    """Return a design by its name, ready to step."""
    return Reference(setting, Flags()) if name == REFERENCE else Fewstep(setting, **OWN[name])


def work(pipe: Connection, name: str, setting: Setting) -> None:
    """Build a design and take steps; gradients on another base are other ones."""
    setting.begin()
    design = build(name, setting)
    serve(pipe, setting, name, design.step, {}, design.static_bytes)


def parts_bytes(folder: str) -> int:
    """Return the bytes of the VAE and the text encoder of a pipeline in fp32."""
    family = load_skeleton(folder)
    return num_bytes(weight for part in family.vae_and_text_encoder for weight in part.parameters())


def with_shares(results: dict, parts: int) -> dict:
    """Return results whose rows have their shares of the reference's memory, of the same batch.

    `parts` are the bytes of VAE and text encoder; on a GPU fewstep's rows are without them already.
    """
    apart = 0 if results["work"]["device"] == "cuda" else parts
    rows = [row for row in results["rows"] if "failed" not in row]
    whole = {row["batch_size"]: row["static_bytes"] for row in rows if row["design"] == REFERENCE}
    for row in rows:
        if (reference := whole.get(row["batch_size"])) and row["design"] != REFERENCE:
            row["share"] = row["static_bytes"] / reference
            row["share_offloaded"] = (row["static_bytes"] - apart) / reference
    return results


def main() -> None:
    args = arguments(__doc__, DESIGNS, batch_sizes=[1], steps=3)
    parts: list[int] = []

    def prepare(setting: Setting) -> None:
        parts.append(parts_bytes(setting.folder))

    path = measure(args, work, args.designs or DESIGNS, prepare=prepare)
    results = with_shares(json.loads(path.read_text(encoding="utf-8")), parts[0])
    write_file(path, json.dumps(results, indent=1) + "\n")
    for row in results["rows"]:
        if "share" in row:
            time = 1 / row["speed_up"]["value"] if "speed_up" in row else 1
            print(f"{row['design']}: {row['share']:.3f} of the reference's memory, "
                  f"{row['share_offloaded']:.3f} offloaded, {time:.2f} times the time")  # fmt: skip
    print(f"wrote {path} and its plot")


if __name__ == "__main__":
    main()
