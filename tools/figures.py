"""Write the tables and numbers of README.md and docs/ from the committed results files.

    python tools/figures.py            write the pages
    python tools/figures.py --check    list the pages that differ from their results files

A page marks a table with `<!-- figures: NAME -->` and `<!-- end -->`; NAME is a function below.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fewstep.evaluation.labels import metric_title, shown, shown_range, title_of
from fewstep.evaluation.results import Results, Row, load, overview
from fewstep.verify.tables import TABLES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MARK = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def bundled(name: str) -> str:
    """The teacher in 50, 8 and 4 steps, every student in 8 and in 4, and matched ones in fewer."""
    results = load(RESULTS / name)
    rows = [row for row in overview(results.rows)
            if row.steps in (4, 8, 50) or row.method == "trajectory-matching"]  # fmt: skip
    names = ["prompt_accuracy", "frechet", "seconds_per_image"]
    return f"{_table(rows, names)}\n{_note(results, _trainings(results))}"


def matching(each: bool) -> str:
    """Trajectory matching beside its start student and the teacher: pooled, and `each` training."""
    results = load(RESULTS / "matching.json")
    students = [row for row in results.rows if row.method != "teacher"]
    names = ["prompt_accuracy", "prompt_accuracy_difference", "frechet_ratio",
             "bundled_recall_ratio", "diversity_ratio", "training_core_seconds"]  # fmt: skip
    teachers = [row for row in results.rows if row.method == "teacher" and row.steps == 50][:1]
    seeds = [row for row in students if each and row not in overview(students)]
    table = _table([*teachers, *overview(students), *seeds], names)
    below = ", each of which has a row of its own below the pooled ones" if seeds else ""
    n, of = students[0].metrics["prompt_accuracy"].n, students[0].metrics["diversity"].n
    note = (
        f"Mean and 95 % interval; n = {n:,} held-out prompts, {of} for diversity"
        f"{_trainings(results)}{below}.\n"
        f"Protocol: {results.protocol}."
    )
    return f"{table}\n{note}\n"


def public_script() -> str:
    """The public LCM script in 4 steps on the same teacher, scenes and number of samples."""
    results = load(RESULTS / "public_script.json")
    names = ["prompt_accuracy", "frechet", "bundled_recall", "training_core_seconds"]
    n = results.rows[0].metrics["prompt_accuracy"].n
    note = f"Mean and 95 % interval; n = {n:,} held-out prompts. By `{results.command}`."
    return f"{_table(results.rows, names)}\n{note}\n"


def time_to_quality() -> str:
    """When our student passes what the public script reaches at its end."""
    results = json.loads((RESULTS / "time_to_quality.json").read_text(encoding="utf-8"))
    script, passed = results["script"], results["passed"]
    goal = f"the script's {script['accuracy']['value']:.1%} after {script['core_seconds']:,.0f}"
    if passed is None:
        return f"No checkpoint reaches {goal} core-seconds.\n"
    accuracy, share = passed["accuracy"], results["share_of_the_scripts_seconds"]
    return (
        f"{passed['run']} passes {goal} core-seconds at step {passed['step']}, with "
        f"{accuracy['value']:.1%} ({accuracy['low']:.1%} to {accuracy['high']:.1%}, n = "
        f"{accuracy['n']:,}) after {passed['seconds']:,.0f}: {share:.2f} of the script's. By "
        f"`{results['command']}`, {results['machine']}.\n"
    )


def teacher() -> str:
    """The teacher's accuracy by number of steps and guidance."""
    results = json.loads((RESULTS / "teacher.json").read_text())
    entries, command = results["rows"], results["command"]
    steps = sorted({row["steps"] for row in entries}, reverse=True)
    scales = sorted({row["guidance_scale"] for row in entries})
    cells = {
        (row["steps"], row["guidance_scale"]): "{value:.1%} ({low:.1%} to {high:.1%})".format(
            **row["metrics"]["prompt_accuracy"]
        )
        for row in entries
        if row["prompts"] == "seen"
    }
    head = ["steps", *(f"guidance {scale:g}" for scale in scales)]
    table = _markdown(head, [[str(s), *(cells.get((s, g), "–") for g in scales)] for s in steps])
    n = min(row["metrics"]["prompt_accuracy"]["n"] for row in entries)
    return f"{table}\nFrom n = {n:,} prompts a cell on, by `{command}`.\n"


def teacher_line() -> str:
    """How good the teacher is, in a sentence."""
    entries = json.loads((RESULTS / "teacher.json").read_text())["rows"]
    held_back = next(row for row in entries if row["prompts"] == "held-back")
    scale = held_back["guidance_scale"]
    seen = [r for r in entries if (r["prompts"], r["guidance_scale"]) == ("seen", scale)]
    best = [row for row in seen if row["steps"] == 50][-1]
    few = next(row for row in seen if row["steps"] == 4)
    text = "{value:.1%} (95 %: {low:.1%} to {high:.1%}, n = {n:,})"
    many, four = (text.format(**r["metrics"]["prompt_accuracy"]) for r in (best, few))
    return (
        f"The teacher gets {many} of held-out prompts right in 50 steps of guidance\n"
        f"{scale:g}, and {four} in 4 plain ones.\n"
    )


def teacher_attributes() -> str:
    """The teacher's best row by attribute, for seen and held-back combinations."""
    entries = json.loads((RESULTS / "teacher.json").read_text())["rows"]
    held_back = next(row for row in entries if row["prompts"] == "held-back")
    same = {key: held_back[key] for key in ("steps", "guidance_scale")}
    seen = [row for row in entries if row["prompts"] == "seen" and same.items() <= row.items()][-1]
    lines = [
        [
            name.partition(".")[2] or "the whole caption",
            *(
                "{value:.1%} ({low:.1%} to {high:.1%}; n = {n:,})".format(**row["metrics"][name])
                for row in (seen, held_back)
            ),
        ]
        for name in seen["metrics"]
        if name.startswith("prompt_accuracy")
    ]
    note = "At {steps} steps and guidance {guidance_scale:g}.".format(**same)
    return f"{_markdown(['correct', 'seen', 'held back'], lines)}\n{note}\n"


def openness() -> str:
    """How much of the image a caption leaves open."""
    entries = json.loads((RESULTS / "openness.json").read_text(encoding="utf-8"))["captions"]
    lines = [
        [caption, *(f"{error:.3f}" for error in row.values())] for caption, row in entries.items()
    ]
    return _markdown(["caption", "4 steps", "50 steps"], lines)


def timesteps() -> str:
    """How many images the teacher generates right at chosen timesteps."""
    results = json.loads((RESULTS / "timesteps.json").read_text(encoding="utf-8"))
    lines = [
        [row["walk"], str(len(row["timesteps"])), "{value:.1%} ({low:.1%} to {high:.1%})".format(
            **row["prompt_accuracy"])]
        for row in results["walks"]
    ]  # fmt: skip
    note = f"n = {results['walks'][0]['prompt_accuracy']['n']} prompts that no evaluation uses."
    return f"{_markdown(['trajectory', 'steps', 'correct'], lines)}\n{note}\n"


def segments(name: str) -> str:
    """How far the jumps of a multi-boundary student are from its teacher."""
    results = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    names = ["student", "teacher, guided", "teacher, unguided"]
    lines = [
        [f"{row['start']} to {row['end'] if row['end'] >= 0 else 'clean'}", row["from"]]
        + [f"{row[n]['value']:.3f} ({row[n]['low']:.3f} to {row[n]['high']:.3f})" for n in names]
        for row in results["segments"]
    ]
    note = f"RMS of the latents, n = {results['segments'][0]['student']['n']} trajectories."
    columns = ["jump", "from", "the student", "one guided step", "one unguided step"]
    return f"{_markdown(columns, lines)}\n{note}\n"


def backends() -> str:
    """How far images of other backends and precisions are from those of torch in fp32."""
    results = json.loads((RESULTS / "backends.json").read_text(encoding="utf-8"))
    text, points = (
        "{value:.1%} ({low:.1%} to {high:.1%})",
        "{value:+.1%} ({low:+.1%} to {high:+.1%})",
    )
    lines = [
        [row["design"], str(row["largest"]), f"{row['mean']:.2f}",
         text.format(**row["prompt_accuracy"]),
         points.format(**row["difference"]) if row["difference"] else "–"]
        for row in results["rows"]
    ]  # fmt: skip
    columns = [
        "backend",
        "largest difference of 255",
        "mean",
        "prompt accuracy",
        "paired difference",
    ]
    n = results["rows"][0]["prompt_accuracy"]["n"]
    note = f"n = {n:,} held-out prompts, 95 % intervals. By `{results['command']}`."
    return f"{_markdown(columns, lines)}\n{note} {results['machine']}.\n"


def verified(name: str) -> str:
    """One of the truth bench's tables."""
    table = TABLES[name](json.loads((RESULTS / "verify.json").read_text(encoding="utf-8")))
    return _markdown(table.columns, table.rows)


def speed(name: str) -> str:
    """A table of designs: speed and memory, relative to the first."""
    results = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    rate = results["matmul_flops_per_second"]
    lines = []
    for row in results["rows"]:
        head = [row["design"], str(row["batch_size"])]
        if "failed" in row:
            lines.append([*head, row["failed"], "–", "–", "–", "–"])
            continue
        per_image = f"{seconds_per_image(row):.2g}"
        ratio = row.get("speed_up", {"value": 1, "low": 1, "high": 1})
        memory = (f"{row[k] / 1e9:.2f} GB" for k in ("static_bytes", "peak_bytes"))
        times = "{value:.2f} ({low:.2f} to {high:.2f})".format(**ratio)
        share = f"{row['flops_per_second'] / rate:.0%}" if row["flops_per_second"] else "–"
        lines.append([*head, times, per_image, share, *memory])
    columns = ["design", "batch", "times as fast", "seconds per image", "share of the matmul rate",
               "static memory", "peak memory"]  # fmt: skip
    work = results["work"]
    note = f"{work['model']}, {work['resolution']} px, {work['precision']}, {results['machine']}."
    image = f"![The same as an image](images/{Path(name).stem}.png)"
    return f"{image}\n\n{_markdown(columns, lines)}\n{note}\n"


def seconds_per_image(row: dict) -> float:
    """Return the median seconds per image of a design."""
    return row["seconds"]["value"] / row["batch_size"]


def tiny_decoder() -> str:
    """How near a small decoder's images are to the VAE's, and what the parser says of them."""
    results = json.loads((RESULTS / "tiny_decoder.json").read_text(encoding="utf-8"))
    decibels, share = (
        "{value:.1f} dB ({low:.1f} to {high:.1f})",
        "{value:.1%} ({low:.1%} to {high:.1%})",
    )
    points = "{value:+.1f} points ({low:+.1f} to {high:+.1f})"
    rows = {
        "PSNR, scenes that nothing was trained on": ("psnr_of_held_out_scenes", decibels, 1),
        "PSNR, the student's latents": ("psnr_of_the_student", decibels, 1),
        "prompts right, the VAE's decoder": ("prompt_accuracy_full", share, 1),
        "prompts right, the small one": ("prompt_accuracy_tiny", share, 1),
        "difference, paired": ("prompt_accuracy_difference", points, 100),
        "same verdict": ("same_verdict", share, 1),
    }
    lines = []
    for title, (name, shape, scale) in rows.items():
        interval = results[name]
        ends = {end: scale * interval[end] for end in ("value", "low", "high")}
        lines.append([title, shape.format(**ends), f"{interval['n']:,}"])
    trained = results["decoder"]
    note = (
        "The bundled world, a multi-boundary student in 4 steps; mean and 95 % interval, n images. "
        f"{trained['channels']} channels, {trained['steps']} steps of {trained['batch_size']}, "
        f"{results['core_seconds']:.0f} core-seconds. By `{results['command']}`."
    )
    return f"{_markdown(['', 'measured', 'n'], lines)}\n{note}\n"


def tiny_decoder_time() -> str:
    """How many times as fast a small decoder is."""
    results = json.loads((RESULTS / "tiny_decoder_time.json").read_text(encoding="utf-8"))
    lines = [
        [
            str(row["batch_size"]),
            "{value:.2f} ({low:.2f} to {high:.2f})".format(**row["times_as_fast"]),
        ]
        for row in results["rows"]
    ]
    note = f"Median and 95 % interval over rounds in turns. {results['machine']}."
    return f"{_markdown(['batch', 'times as fast'], lines)}\n{note}\n"


def reading() -> str:
    """The cost of reading a batch by the number of pairs, relative to a training step."""
    results = json.loads((RESULTS / "data.json").read_text(encoding="utf-8"))
    step = results["step_seconds"]["value"]
    lines = []
    for row in results["rows"]:
        low, value, high = (row["batch_seconds"][end] for end in ("low", "value", "high"))
        times = f"{1e3 * value:.1f} ms ({1e3 * low:.1f} to {1e3 * high:.1f})"
        sizes = (f"{row[k] / 1e6:,.0f} MB" for k in ("bytes_on_disk", "bytes_opened", "bytes_read"))
        lines.append([f"{row['pairs']:,}", times, f"{value / step:.1%}", *sizes])
    columns = ["pairs", f"reading {results['batch']}", "of a training step", "on the disk",
               "memory when opened", "after reading"]  # fmt: skip
    n = results["rows"][0]["batch_seconds"]["n"]
    note = (
        f"Processor time, median and middle 90 % of {n} batches; a training step of the bundled "
        f"teacher, the smallest model, takes {step:.2f} s. {results['machine']}."
    )
    image = "![Time and memory of reading, over the number of pairs](images/reading.png)"
    return f"{image}\n\n{_markdown(columns, lines)}\n{note}\n"


def cards() -> str:
    """Which card trains which model, by the plan of the config for it."""
    results = json.loads((RESULTS / "cards.json").read_text(encoding="utf-8"))
    titles = {"sd15": "Stable Diffusion 1.5, 512 px", "sdxl": "Stable Diffusion XL, 1024 px"}
    lines: dict[int, list[str]] = {}
    for row in results["rows"]:
        taken = f"{row['with_context_bytes'] / 2**30:.1f} of {row['card_gib']:.1f} GiB"
        cell = f"does not fit: {taken} with the smallest config"
        if row["fits"]:
            quantize = row["settings"]["quantize"]
            base = "" if quantize == "none" else f", base in {quantize}"
            low, high = row["hours"]
            time = f"{low:.0f} to {high:.0f} hours on the {row['gpu']}"
            cell = f"`{row['recipe']}`: {taken}, batch {row['batch']}{base}; {time}"
        lines.setdefault(row["card"], [f"{row['card']} GB"]).append(cell)
    note = (
        "Predicted, not measured: the peak of any part of a run and 1 GiB for CUDA itself. "
        f"By `{results['command']}`."
    )
    return f"{_markdown(['card', *titles.values()], [*lines.values()])}\n{note}\n"


def memory() -> str:
    """What a step keeps in memory whatever its batch, beside the reference recipe, and its time."""
    results = json.loads((RESULTS / "memory_sd15.json").read_text(encoding="utf-8"))
    lines = []
    for row in results["rows"]:
        if "failed" in row:
            lines.append([row["design"], row["failed"], "–", "–", "–", "–"])
            continue
        ratio = row.get("speed_up", {"value": 1, "low": 1, "high": 1})
        slower = {"value": 1 / ratio["value"], "low": 1 / ratio["high"], "high": 1 / ratio["low"]}
        shares = [f"{row[k]:.2f} ×" if k in row else "–" for k in ("share", "share_offloaded")]
        taken = [f"{row[k] / 1e9:.2f} GB" for k in ("static_bytes", "peak_bytes")]
        times = "{value:.2f} × ({low:.2f} to {high:.2f} ×)".format(**slower)
        lines.append([row["design"], *taken, *shares, times])
    columns = ["design", "static memory", "peak memory", "static ÷ reference’s",
               "without VAE and text encoder", "time ÷ the default’s"]  # fmt: skip
    work, batch = results["work"], results["rows"][0]["batch_size"]
    return (
        f"{_markdown(columns, lines)}\n{work['model']}, {work['resolution']} px, "
        f"{work['precision']}, batch {batch}, medians of turns, {results['machine']}.\n"
    )


def less_precise(file: str) -> str:
    """Students trained in less precision beside those of the same seeds in full precision."""
    results = load(RESULTS / file)
    names = ["prompt_accuracy", "prompt_accuracy_difference_full_precision", "frechet",
             "frechet_ratio_full_precision"]  # fmt: skip
    students = [row for row in results.rows if row.method != "teacher"]
    lines = []
    for row in sorted(students, key=lambda row: row.seed is not None):  # the pooled ones first
        seed = "all" if row.seed is None else str(row.seed)
        lines.append([_bits(row), seed, *(_cell(row, name) for name in names)])
    head = ["trained in", "seed", *map(metric_title, names)]
    return f"{_markdown(head, lines)}\n{_note(results, _trainings(results))}"


def quantised_teacher() -> str:
    """The teacher's own images in few bits beside those of the same noise at full precision."""
    results = load(RESULTS / "quantised_teacher.json")
    names = ["same_noise_psnr", "same_noise_rmse", "prompt_accuracy",
             "prompt_accuracy_difference_full_precision",
             "frechet_ratio_full_precision"]  # fmt: skip
    lines = [[_bits(row), *(_cell(row, name) for name in names)] for row in results.rows]
    head = ["teacher", *map(metric_title, names)]
    return f"{_markdown(head, lines)}\n{_note(results, ', 50 steps')}"


def soak() -> str:
    """Whether a training process grows or slows down."""
    results = json.loads((RESULTS / "soak.json").read_text(encoding="utf-8"))
    growth, thirds = results["mib_per_1000_steps"], results["milliseconds_by_third"]
    times = ", ".join("{value:.1f} ({low:.1f} to {high:.1f})".format(**third) for third in thirds)
    return (
        "![Memory, time of a step and size of the logs over a run](images/soak.png)\n\n"
        f"Over {results['step'][-1]:,} steps the process grew by {growth['value']:.2f} MiB per "
        f"1,000 steps (95 %: {growth['low']:.2f} to {growth['high']:.2f}, a line through the last "
        f"three quarters, n = {growth['n']}) of {max(results['resident_mib']):.0f} MiB. The "
        f"processor time of a step was, by thirds of the run, {times} ms. A step adds "
        f"{results['metrics_bytes_per_step']['value']:.0f} bytes to metrics.jsonl.\n"
        f"{results['work']}. {results['machine']}. By `{results['command']}`.\n"
    )


def page() -> str:
    """What a visitor of the page waits for, alone and in a crowd."""
    results = json.loads((RESULTS / "page.json").read_text(encoding="utf-8"))
    lines = []
    for title, name in (("from the command to the first byte", "to_first_byte"),
                        ("from the button to the first image", "to_first_image"),
                        ("from the button to the last image", "to_all_images")):  # fmt: skip
        seconds = "{value:.2f} ({low:.2f} to {high:.2f})".format(**results[f"seconds_{name}"])
        longest = results.get(f"longest_{name}")
        lines.append([title, seconds, f"{longest:.2f}" if longest else "–",
                      str(results[f"seconds_{name}"]["n"])])  # fmt: skip
    waves, growth = results["waves"], results["mib_grown_by_a_wave"]
    return (
        f"{_markdown(['', 'seconds (95 % interval)', 'longest', 'n'], lines)}\n"
        f"Of {results['at_once']} visitors at the same moment {waves[0]['answered']} got their own "
        f"images and {waves[0]['busy']} were told that the queue is full. Each such wave left "
        f"{growth['value']:.1f} MiB (95 %: {growth['low']:.1f} to {growth['high']:.1f}, n = "
        f"{growth['n']}) of {waves[-1]['mib']:.0f} behind.\n"
        f"{results['machine']}. By `{results['command']}`.\n"
    )


def kills() -> str:
    """How many runs ended with the same weights after kills and stops."""
    results = json.loads((RESULTS / "kills.json").read_text(encoding="utf-8"))
    counts, every = [], (results["same_after_kills"], results["same_after_stops"])
    first = 0
    for share in every:
        rows = results["rows"][first : first + share["n"]]
        first += share["n"]
        exported = [{f for f in row["differing"] if f.endswith(".safetensors")
                     and not f.startswith("run/checkpoints/")} for row in rows]  # fmt: skip
        counts.append(f"{sum(not files for files in exported)} of {len(rows)}")
    alike = [f"{share['value'] * share['n']:.0f}" for share in every]
    stages = [[stage, str(count)] for stage, count in results["kills_by_stage"].items()]
    return (
        f"{counts[0]} runs, each killed twice (SIGKILL), and {counts[1]} that were stopped "
        "(SIGINT, SIGTERM) ended with the weights, in artefact and export, of the run that was "
        f"left alone, to the bit. In {alike[0]} and {alike[1]} of them every other file was the "
        "same too. "
        f"A stopped run began at most {results['most_steps_begun_after']} further step and ended "
        f"within {results['longest_seconds_to_end']:.0f} s. Where the kills hit:\n\n"
        f"{_markdown(['stage', 'kills'], stages)}\n"
        f"Seed {results['seed']}. {results['machine']}. By `{results['command']}`.\n"
    )


def style_lora() -> str:
    """What a style LoRA and the speed LoRA do together, by their weights."""
    results = json.loads((RESULTS / "style_lora.json").read_text(encoding="utf-8"))
    rows = []
    for row in results["rows"]:
        shares = [f"{x['value']:.0%} ({x['low']:.0%} to {x['high']:.0%})"
                  for x in (row["prompt_accuracy"], row["style_share"])]  # fmt: skip
        speed = "–" if row["student"].startswith("teacher") else f"{row['speed']:g}"
        rows.append([row["student"], speed, f"{row['style']:g}", *shares])
    counts = sorted({row["prompt_accuracy"]["n"] for row in results["rows"]})
    header = ["model", "speed LoRA", "style LoRA", "prompt accuracy", "images in the style"]
    return (
        f"{_markdown(header, rows)}\n"
        f"95 % intervals; n = {counts[0]:,} prompts for the teacher, {counts[-1]:,} for students, "
        f"one training each. By `{results['command']}`.\n"
    )


def full_disk() -> str:
    """What each command did on a disk that was full, filled up on the way, or was read-only."""
    results = json.loads((RESULTS / "full_disk.json").read_text(encoding="utf-8"))
    cases = list(dict.fromkeys(row["case"] for row in results["cases"]))
    found: dict[str, dict[str, str]] = {}
    for row in results["cases"]:
        found.setdefault(row["place"], {})[row["case"]] = "holds" if row["holds"] else "fails"
    rows = [[place, *(held.get(case, "–") for case in cases)] for place, held in found.items()]
    return (
        f"{results['holds']} of {results['n']} cases hold: the command ended with exit code 2 and "
        "a sentence that names what was not written, what was there before was there to the bit, "
        "every new file was whole, and with room again the same command ended well.\n\n"
        f"{_markdown(['command', *cases], rows)}\n"
        f"{results['machine']}. By `{results['command']}`, as root.\n"
    )


def programs() -> str:
    """What each program that was run made of each file; the others are derived."""
    results = json.loads((RESULTS / "programs.json").read_text(encoding="utf-8"))
    lines = []
    for row in results["rows"]:
        versions = ", ".join(f"{name} {number}" for name, number in row["versions"].items())
        applied = f"{row['keys'][0]} of {row['keys'][1]}" if row["keys"] else "–"
        asked = ", ".join(map(str, row["timesteps"] or "–"))
        cells = [versions, f"`{row['file']}`", row["base"], row["student"], asked, applied]
        lines.append([*cells, f"{row['largest_difference']:.1f}", row["verdict"], "run"])
    elsewhere = "LoRA files in diffusers and PEFT: [how this is tested](#how-this-is-tested)"
    lines.append([elsewhere, *["–"] * 7, "run"])
    lines.append(["every other program above", *["–"] * 7, "derived from its rules"])
    columns = ["program", "file", "model", "student", "timesteps asked", "tensors applied",
               "largest difference of 255", "verdict", "source"]  # fmt: skip
    note = (
        f"Random students of the bundled model or of random ones of Stable Diffusion 1.5's shape, "
        f"{results['prompts']} prompts each, against fewstep's own images; right up to "
        f"{results['limit']:g} of 255. By `{results['command']}`."
    )
    return f"{_markdown(columns, lines)}\n{note}\n"


FIGURES: dict[str, Callable[[], str]] = {
    "bundled": partial(bundled, "bundled.json"),
    "bundled-long": partial(bundled, "bundled_long.json"),
    "matching": partial(matching, each=True),
    "matching-pooled": partial(matching, each=False),
    "matching-step": partial(speed, "matching_step.json"),
    "public-script": public_script,
    "time-to-quality": time_to_quality,
    "teacher": teacher,
    "teacher-line": teacher_line,
    "teacher-attributes": teacher_attributes,
    "openness": openness,
    "segments": partial(segments, "segments.json"),
    "segments-long": partial(segments, "segments_long.json"),
    "timesteps": timesteps,
    "train-step": partial(speed, "train_step.json"),
    "train-step-batches": partial(speed, "train_step_batches.json"),
    "train-step-sd15": partial(speed, "train_step_sd15.json"),
    "train-step-gpu": partial(speed, "train_step_gpu.json"),
    "train-step-t4": partial(speed, "train_step_t4.json"),
    "sampling": partial(speed, "sampling.json"),
    "sampling-bf16": partial(speed, "sampling_bf16.json"),
    "sampling-cpu": partial(speed, "sampling_cpu.json"),
    "sampling-cpu-sd15": partial(speed, "sampling_cpu_sd15.json"),
    "backends": backends,
    "sampling-gpu": partial(speed, "sampling_gpu.json"),
    "tiny-decoder": tiny_decoder,
    "tiny-decoder-time": tiny_decoder_time,
    "programs": programs,
    "reading": reading,
    "soak": soak,
    "cards": cards,
    "memory-sd15": memory,
    "quantised": partial(less_precise, "quantised.json"),
    "nf4": partial(less_precise, "nf4.json"),
    "mixed": partial(less_precise, "mixed.json"),
    "quantised-teacher": quantised_teacher,
    "kills": kills,
    "full-disk": full_disk,
    "style-lora": style_lora,
    "page": page,
    "speed-data": partial(speed, "speed_data.json"),
    **{f"verify-{name}": partial(verified, name) for name in TABLES},
}


def _bits(row: Row) -> str:
    """Return what of a row's model had few bits, by the names of runs and teachers."""
    kinds = {"int8": "base in int8", "nf4": "base in nf4", "mixed": "mixed precision"}
    return next((words for kind, words in kinds.items() if kind in row.source), "full precision")


def _note(results: Results, more: str) -> str:
    """Return what stands below a table of metrics of images."""
    n = results.rows[0].metrics["prompt_accuracy"].n
    return (
        f"Mean and 95 % interval; n = {n:,} held-out prompts{more}.\n"
        f"Protocol: {results.protocol}.\n"
    )


def _trainings(results: Results) -> str:
    seeds = {row.seed for row in results.rows if row.seed is not None}
    return f", {len(seeds)} trainings a method" if len(seeds) > 1 else ", one training a method"


def _table(rows: Sequence[Row], names: Sequence[str]) -> str:
    head = ["", "NFE", *map(metric_title, names)]
    single, lines = [row for row in rows if row not in overview(rows)], []
    for row in rows:
        how = "quadratic " if "quadratic" in row.source else ""
        title = f"{title_of(row.method)}, {row.steps} {how}steps"
        title += " (unguided)" if "unguided" in row.source else ""
        title += f", seed {row.seed}" if row in single else ""
        cells = [_cell(row, name) for name in names]
        lines.append([title, str(row.calls), *cells])
    return _markdown(head, lines)


def _cell(row: Row, name: str) -> str:
    """Return a value with its interval, if it has one; a dash where it was not measured."""
    if (metric := row.metrics.get(name)) is None:
        return "–"
    ends = shown_range(name, metric)
    return f"{shown(name, metric.value)} ({ends})" if ends else shown(name, metric.value)


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    rule = ["---"] * len(head)
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, rule, *lines])


def filled(text: str) -> str:
    """Return a page with every marked table written from its results file, if that exists."""

    def figures(mark: re.Match[str]) -> str:
        try:
            return mark[1] + FIGURES[mark[2]]() + mark[3]
        except FileNotFoundError:
            return f"{mark[1]}*Not measured yet.*\n{mark[3]}"

    return MARK.sub(figures, text)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main(check: bool) -> None:
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(new, encoding="utf-8")
    if check and stale:
        sys.exit(f"not the committed figures: {', '.join(stale)}; run python tools/figures.py")
    print(f"{'stale' if check else 'written'}: {', '.join(stale) or 'none'}")


if __name__ == "__main__":
    main("--check" in sys.argv)
