"""A method is a frozen dataclass and its line in METHODS: one from outside goes the whole way."""

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from fewstep.config import AdapterSettings, Config, DataSettings, TrainSettings
from fewstep.diffusion.grid import Grid
from fewstep.diffusion.solvers import ddim
from fewstep.errors import SettingError
from fewstep.evaluation.evaluate import evaluate_sources
from fewstep.evaluation.report.write import write_report
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.methods import METHODS, LossOutput
from fewstep.student.pipeline import FewStepPipeline
from fewstep.training.distill import TrainingStep, distill, distill_run
from fewstep.training.plan import plan_run


@dataclass(frozen=True)
class TeacherRegression:
    """The student's jump to a segment's boundary is fitted to the teacher's jump, by L1.

    It has what `fewstep.methods.base.Method` asks for and nothing of the package's own methods:
    no distance, no weighting, no title.
    """

    sampler: ClassVar = "deterministic"
    has_teacher: ClassVar = True

    num_segments: int = 2

    def grid(self, num_train_timesteps=1000, progress=1.0):
        return Grid(2 * self.num_segments, self.num_segments, "uniform", num_train_timesteps)

    def loss(self, nets, batch, schedule, draw):
        grid = self.grid(schedule.num_train_timesteps)
        t, s = draw.neighbours(grid.timesteps)
        end = grid.boundary_below(s)
        x_t = schedule.add_noise(batch.x_0, draw.noise_like(batch.x_0), t)
        with torch.no_grad():
            target = ddim(nets.teacher, x_t, t, end, batch.cond)
        pred = ddim(nets.student, x_t, t, end, batch.cond)
        return LossOutput((pred - target).abs().flatten(1).mean(1), t)


CONFIG = Config(
    method={"name": "teacher-regression", "num_segments": 2},
    adapter=AdapterSettings(rank=2),
    data=DataSettings(num_pairs=8),
    train=TrainSettings(steps=4, batch_size=2, warmup=0, save_every=2, preview_every=4),
)


@pytest.fixture(autouse=True)
def foreign(monkeypatch):
    """Add the method to the table, for one test."""
    monkeypatch.setitem(METHODS, "teacher-regression", TeacherRegression)


def weights(folder):
    return load_file(folder / "pytorch_lora_weights.safetensors")


def test_a_foreign_method_is_trained_resumed_exported_sampled_evaluated_and_reported(tmp_path):
    run, artefact, prompts = tmp_path / "run", tmp_path / "artefact", tmp_path / "prompts.txt"
    for event in distill(CONFIG, run):
        if isinstance(event, TrainingStep) and event.done == 3:
            break  # as if it were killed: what was saved is step 2
    assert not (run / "artefact").exists()
    assert distill_run(CONFIG, run) == 4
    distill_run(CONFIG, tmp_path / "whole")
    resumed, whole = weights(run / "artefact"), weights(tmp_path / "whole" / "artefact")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert any(value.any() for value in whole.values())

    export_artefact(str(run), artefact, ExportOptions())
    assert "teacher-regression" in (artefact / "README.md").read_text(encoding="utf-8")
    pipeline = FewStepPipeline.from_pretrained(artefact)
    (sampled,) = pipeline("a red heart", seed=1)
    assert (sampled.image.size, pipeline.contract.timesteps()) == ((64, 64), (999, 499))

    prompts.write_text("a red heart\ntwo stars\n")
    (tmp_path / "weights").mkdir()
    results = evaluate_sources(
        [str(run)], "prompts", tmp_path / "evaluation", student_steps=(2,), prompt_file=prompts,
        weights=tmp_path / "weights",
    )  # fmt: skip
    rows = json.loads(results.read_text())["rows"]
    assert {row["method"] for row in rows} == {"teacher", "teacher-regression"}
    report = write_report([tmp_path / "evaluation", run], tmp_path / "report.html")
    assert "teacher-regression" in report.read_text(encoding="utf-8")


def test_a_foreign_method_is_planned_and_its_settings_are_read_strictly(tmp_path):
    assert plan_run(CONFIG).cost.flops > 0
    with pytest.raises(SettingError, match="did you mean num_segments"):
        distill_run(Config(method={"name": "teacher-regression", "num_segment": 2}), tmp_path / "r")
