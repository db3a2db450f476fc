"""What a teacher in few bits generates, beside the one that is not quantised: the same noise.

    python -m benchmarks.quantised_teacher RUN -o benchmarks/results/quantised_teacher.json

RUN is a student of the bundled model, such as `benchmarks/students.py` trains: it names the teacher
and its guidance. Images are kept in --runs, where those of the unquantised teacher are found if
an evaluation has made them. After an interruption it continues.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from fewstep.console import show_progress
from fewstep.evaluation.measure import Measurement, rows
from fewstep.evaluation.models import EvaluatedModel, EvaluationSet
from fewstep.evaluation.prompts import load_inputs
from fewstep.evaluation.provenance import provenance
from fewstep.evaluation.results import Results, save
from fewstep.evaluation.samples import SampleCache, generate_images
from fewstep.models.loading import load_model
from fewstep.student.generate import TEACHER_STEPS, ImageSampler, teacher_sampler

KINDS = ("int8", "nf4")


def quantised(runs: EvaluationSet, kind: str, steps: int = TEACHER_STEPS) -> EvaluatedModel:
    """Return the teacher with its network in few bits, compared with the one that it is made of."""
    teacher = runs.teacher(steps)

    def sampler() -> ImageSampler:
        family = load_model(runs.base, quantize=kind)
        return teacher_sampler(family, steps, runs.guidance_scale)

    return replace(
        teacher,
        source=f"{teacher.source}, {kind}",
        settings=f"{teacher.settings}, {kind}",
        identity=(*teacher.identity, kind),
        references={"teacher": teacher, "full precision": teacher},
        sampler=sampler,
    )


def measure(run: Path, out: Path, num_prompts: int) -> Results:
    """Return a row for the teacher, and for each kind of few bits."""
    runs = EvaluationSet.open([str(run)], brief=True)
    inputs = load_inputs("bundled", runs.resolution, num_prompts)
    models = [runs.teacher(), *(quantised(runs, kind) for kind in KINDS)]
    side = inputs.protocol.side
    samples = SampleCache(models, out / "images", inputs.prompts, runs.resolution, side=side)
    measurement = Measurement.open(inputs, samples, out / "features").with_targets()
    show_progress(generate_images(samples, samples.batches))
    table = rows(show_progress(measurement.measure()), {})
    protocol = measurement.describe(f"teacher's guidance {runs.guidance_scale:g}")
    unavailable = measurement.unavailable
    return Results(protocol=protocol, rows=table, unavailable=unavailable, **provenance())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--num-prompts", type=int, default=500)
    parser.add_argument("--runs", type=Path, default=Path("runs/students"))
    args = parser.parse_args()
    results = measure(args.run, args.runs, args.num_prompts)
    command = " ".join(["python -m benchmarks.quantised_teacher", *sys.argv[1:]])
    save(replace(results, command=command), args.out)


if __name__ == "__main__":
    main()
