"""Long prompts in training: how captions are read is the cache's, the run's and the student's."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from fewstep.config import AdapterSettings, Config, DataSettings, ModelSettings, TrainSettings
from fewstep.console import finish
from fewstep.diffusion.random import Draw
from fewstep.errors import PromptWarning, SettingError, UserError
from fewstep.evaluation.models import EvaluationSet
from fewstep.export.export import ExportOptions, export_artefact
from fewstep.methods import METHODS
from fewstep.models.loading import load_model
from fewstep.student.contract import LORA_FILE, Contract
from fewstep.student.pipeline import FewStepPipeline
from fewstep.training.distill import distill, distill_run
from fewstep.training.plan import plan_run
from fewstep.training.prepare import prepare_data
from fewstep.training.setup import build
from tests.data.samples import noise
from tests.tiny import SD15_SCHEDULER, tiny_pipeline

LONG = "a red heart above a blue star " * 5
CAPTIONS = ["a star", LONG + "red", LONG + "blue", "a ring", LONG * 2, "a heart"]


@pytest.fixture
def config(tmp_path):
    """Settings of a run on images with captions of one to four chunks."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, caption in enumerate(CAPTIONS):
        noise(number, (64, 64)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    return Config(
        method={"name": "cd"},
        model=ModelSettings(base=str(tiny_pipeline()), long_prompts="chunks"),
        adapter=AdapterSettings(rank=2, alpha=8.0),
        data=DataSettings(path=str(folder), max_upscale=99, caption_dropout=0.3),
        train=TrainSettings(steps=4, batch_size=3, warmup=1, save_every=2, preview_every=0,
                            learning_rate=1e-2),
    )  # fmt: skip


def filled(config, run):
    components = build(config, run, "cpu")
    finish(components.dataset.fill())
    return components


def test_cached_captions_are_those_that_are_encoded_at_each_step(config, tmp_path):
    cached = filled(config, tmp_path / "runs" / "a")
    streaming = replace(config, data=replace(config.data, streaming=True))
    streamed = build(streaming, tmp_path / "runs" / "b", "cpu")
    batches = [parts.dataset.batches(0, 3, print) for parts in (cached, streamed)]
    for samples in ([0, 1, 2], [3, 4, 5], [6, 7, 8], [0], [1]):
        ours, theirs = (b.batch(b.reader(samples)).cond for b in batches)
        assert ours.keys() == theirs.keys() == {"text", "mask"}
        assert torch.equal(ours["mask"], theirs["mask"])
        torch.testing.assert_close(ours["text"], theirs["text"])
    assert torch.equal(batches[0].uncond["text"], batches[1].uncond["text"])


def test_a_cache_of_cut_captions_is_not_that_of_chunks(config, tmp_path):
    cut = replace(config, model=replace(config.model, long_prompts="cut"))
    folders = [filled(c, tmp_path / "runs" / "a").dataset.cache_folder for c in (config, cut)]
    assert folders[0] != folders[1]
    names = [load_file(folder / "text-000000.safetensors").keys() for folder in folders]
    assert names == [{"text", "mask"}, {"text"}]


def test_captions_of_one_length_share_a_file_of_the_cache(config, tmp_path, monkeypatch):
    monkeypatch.setattr("fewstep.data.encode.SHARD", 2)
    folder = filled(config, tmp_path / "runs" / "a").dataset.cache_folder
    files = sorted(folder.glob("text-*.safetensors"))
    assert [load_file(file)["text"].shape[1] for file in files] == [24, 24, 48, 96]


def test_a_run_and_what_is_made_of_it_keep_how_prompts_are_read(config, tmp_path):
    run, out = tmp_path / "runs" / "a", tmp_path / "out"
    distill_run(config, run)
    export_artefact(str(run), out, ExportOptions(base=str(config.model.base)))
    for folder in (run / "artefact", out):
        contract = json.loads((folder / "fewstep.json").read_text())
        assert contract["base"]["long_prompts"] == "chunks"
        assert "trained on long prompts in chunks" in (folder / "README.md").read_text()
        pipeline = FewStepPipeline.from_pretrained(folder)
        assert pipeline.base.long_prompts == "chunks"
        red, blue = (np.asarray(pipeline(LONG + end).images[0]) for end in ("red", "blue"))
        assert (red != blue).any()
    other = replace(config, model=replace(config.model, long_prompts="cut"))
    with pytest.raises(SettingError, match=r"model.long_prompts = 'chunks' there, 'cut' here"):
        distill_run(other, run)


def test_an_interrupted_run_of_long_prompts_equals_an_uninterrupted_one(config, tmp_path):
    whole, halves = tmp_path / "runs" / "whole", tmp_path / "runs" / "halves"
    distill_run(config, whole)
    steps = distill(config, halves)
    for step in steps:
        if getattr(step, "result", None) and step.done == 3:
            steps.close()
            break
    assert FewStepPipeline.from_pretrained(halves).base.long_prompts == "chunks", "unfinished too"
    distill_run(config, halves)
    weights = [load_file(run / "artefact" / LORA_FILE) for run in (whole, halves)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(weight.abs().max() > 0 for weight in weights[0].values())


def test_a_samples_loss_does_not_depend_on_the_captions_beside_it(config, tmp_path):
    parts = filled(config, tmp_path / "runs" / "a")
    batches = parts.dataset.batches(0, 3, print)
    nets = parts.denoisers(batches.uncond)

    def losses(samples):
        batch, draw = batches.batch(batches.reader(samples)), Draw.keyed(0, samples)
        with torch.no_grad():
            return parts.method.loss(nets, batch, parts.family.schedule, draw).loss

    together, alone = losses(range(6)), [losses([sample]) for sample in range(6)]
    assert together.count_nonzero() > 4
    torch.testing.assert_close(together, torch.cat(alone))


def test_a_contract_that_says_nothing_cuts_and_one_that_says_nonsense_is_refused(tmp_path):
    base = {"id": "me/model", "fingerprint": "0"}
    contract = Contract.of("ct", METHODS["ct"](), 1.0, SD15_SCHEDULER, base=base)
    assert Contract.from_json(contract.to_json()).long_prompts == "cut"
    with pytest.raises(ValueError, match=r"base.long_prompts is 'words'"):
        replace(contract, base={**base, "long_prompts": "words"})


def test_students_that_read_prompts_in_other_ways_are_not_compared(config, tmp_path):
    runs = [tmp_path / "runs" / how for how in ("cut", "chunks")]
    for run in runs:
        distill_run(replace(config, model=replace(config.model, long_prompts=run.name)), run)
    with pytest.raises(UserError, match=r"differ in their long prompts \(chunks, cut\)"):
        EvaluationSet.open(list(map(str, runs)))
    teachers = [EvaluationSet.open([str(run)]).teacher().identity for run in runs]
    assert teachers[0] != teachers[1], "nor are their teachers' images one another's"


def test_captions_that_are_cut_are_said_by_prepare_and_by_training(config, tmp_path, capsys):
    cut = replace(config, model=replace(config.model, long_prompts="cut"))
    notice = "3 of 6 captions are cut: 'a red heart above a blue star"
    for _ in range(2):  # the second time from the cache
        (note,) = finish(prepare_data(cut, tmp_path / "runs" / "a")).notes[-1:]
        assert note.startswith(notice)
        assert "set model.long_prompts = 'chunks'" in note
    distill_run(cut, tmp_path / "runs" / "a")
    assert f"fewstep: {notice}" in capsys.readouterr().err
    streaming = replace(cut, data=replace(cut.data, streaming=True))
    distill_run(streaming, tmp_path / "runs" / "b")
    assert "fewstep: 3 of 6 captions are cut: " in capsys.readouterr().err
    distill_run(config, tmp_path / "runs" / "c")
    told = capsys.readouterr().err
    assert "are cut" not in told
    assert "(long_prompts was cut and is chunks)" in told, "of the cache that is there"


def test_a_plan_counts_three_chunks_a_prompt(config):
    cut, chunks = (
        plan_run(replace(config, model=replace(config.model, long_prompts=how)), on_cpu=True)
        for how in ("cut", "chunks")
    )
    row = 24 * 16 * 4  # of a chunk; a byte a token more are the mask's
    assert chunks.cache_bytes_per_pair - cut.cache_bytes_per_pair == 2 * row + 3 * 24
    model = load_model(str(tiny_pipeline()), long_prompts="chunks")
    x_t, t = torch.randn(3, 4, 8, 8), torch.tensor([9, 99, 999])
    counted = []
    for length in (1, 3):
        cond = model.encode_prompts(["a " * 22 * length] * 3)
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            model.denoiser(model.network)(x_t, t, cond)
        counted.append(flops.get_total_flops())
    assert chunks.cost.flops - cut.cost.flops > counted[1] - counted[0] > 0
    assert chunks.cost.activations > cut.cost.activations


def test_preview_prompts_that_are_cut_are_said(config, tmp_path):
    train = replace(config.train, preview_prompts=(LONG,))
    cut = replace(config, model=replace(config.model, long_prompts="cut"), train=train)
    with pytest.warns(PromptWarning, match=r"has 35 tokens, more than the 22"):
        build(cut, tmp_path / "runs" / "a", "cpu")
