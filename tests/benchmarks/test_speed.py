"""The timed designs do the same work, and their reported cost is right."""

import json
import sys
from itertools import pairwise

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import nn

from benchmarks import speed, speed_data, speed_memory, speed_sampling
from benchmarks.speed_designs import DESIGNS, EXTRA, LADDER, Levers, build
from benchmarks.speed_models import SIZES, save_pipeline
from benchmarks.speed_table import arguments, measure, rows_of
from benchmarks.speed_turns import WorkFailed, flops_of, in_turns, median
from benchmarks.speed_work import Probe, Setting, network_bytes
from fewstep.models.quantised import _Quantised

OTHERS = [name for name in DESIGNS[1:] if "compiled" not in name]
QUICK = ["levers off", "one product", "fewstep"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = save_pipeline("tiny", tmp_path_factory.mktemp("model"))
    return Setting("tiny", str(folder), batch_size=2, rank=2)


def gradient(name, setting):
    design = build(name, setting)
    gradients = design.gradients(Probe.of(setting))
    design.step()
    return torch.cat([gradients[n].flatten() for n in sorted(gradients)]), design


@pytest.mark.parametrize(
    "names", [QUICK, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_the_designs_compute_the_gradient_of_the_reference(setting, names):
    expected, reference = gradient("reference", setting)
    bare = sum(weight.numel() for weight in reference.teacher.parameters()) * 4
    assert expected.norm() > 1e-4
    for name in names:
        found, design = gradient(name, setting)
        assert (found - expected).norm() < 1e-3 * expected.norm(), name
        assert design.static_bytes() > bare, name
    ours = build("fewstep", setting)
    ours.step()
    assert reference.static_bytes() - ours.static_bytes() > 0.8 * bare  # a network less


def test_what_stands_is_smaller_by_the_bits_that_are_left_out(setting):
    static, layers = {}, {}
    for name in speed_memory.OWN:
        design = speed_memory.build(name, setting)
        design.step()
        static[name] = design.static_bytes()
        modules = design.parts.family.network.modules()
        quantised = [m for m in modules if isinstance(m, _Quantised) and m.kind != "none"]
        layers[name] = quantised
        trained = [weight.numel() for weight in design.parts.roles.trained.values()]
    whole, int8, lean, nf4 = static.values()
    *_, in_int8, in_nf4 = layers.values()
    numel = sum(layer.shape.numel() for layer in in_int8)
    rows = sum(layer.shape[0] for layer in in_int8)
    narrower = [layer for layer in in_nf4 if layer.kind == "nf4"]
    fewer = sum(layer.shape.numel() + 4 * layer.shape[0] for layer in narrower)
    blocks = sum(-(-layer.shape.numel() // 64) for layer in narrower)
    assert 0 < len(narrower) < len(in_nf4) == len(in_int8)
    assert whole - int8 == 4 * numel - (numel + 4 * rows), "a byte a weight, 4 an output channel"
    moments = 2 * sum(4 * n - 260 * -(-n // 256) for n in trained)
    assert int8 - lean == moments + 2 * sum(trained), "8 bits a moment, 16 of the average"
    assert lean - nf4 == fewer - 36 * blocks, "32 bytes and a scale a block"


def test_shares_are_of_the_references_memory_of_the_same_batch():
    rows = [{"design": name, "batch_size": 1, "static_bytes": size} for name, size in
            (("fewstep", 50), ("reference", 100), ("int8", 30))]  # fmt: skip
    for device, shares in (("cpu", (0.3, 0.2)), ("cuda", (0.3, 0.3))):
        results = {"work": {"device": device}, "rows": [dict(row) for row in rows]}
        last = speed_memory.with_shares(results, parts=10)["rows"][-1]
        assert (last["share"], last["share_offloaded"]) == shares


@pytest.mark.slow
def test_the_memory_of_a_base_in_few_bits_is_measured_in_turns(tmp_path, monkeypatch):
    out = tmp_path / "m.json"
    monkeypatch.setattr(sys, "argv", ["speed_memory.py", "--rank", "2", "--rounds", "1", "--steps",
                                      "1", "--threads", "1", "-o", str(out)])  # fmt: skip
    speed_memory.main()
    results = json.loads(out.read_text())
    shares = [row["share"] for row in results["rows"] if row["design"] != "reference"]
    assert shares == sorted(shares, reverse=True)
    assert all(row["share_offloaded"] < row["share"] for row in results["rows"] if "share" in row)
    assert all(row["speed_up"]["value"] > 0 for row in results["rows"][1:])


def test_each_rung_adds_to_the_one_before():
    rungs = [rung for name, rung in LADDER.items() if name not in EXTRA]
    assert rungs[0] == Levers()
    on = [{lever for lever, used in vars(rung).items() if used} for rung in rungs]
    assert all(before < after for before, after in pairwise(on))


def test_operations_are_counted_by_the_formulas_forward_and_backward():
    x = torch.randn(3, 5, requires_grad=True)
    linear = nn.Linear(5, 7)
    assert flops_of(lambda: linear(x)) == 2 * 3 * 5 * 7
    assert flops_of(lambda: linear(x).sum().backward()) == 3 * (2 * 3 * 5 * 7)
    q = torch.randn(2, 4, 16, 8)
    attend = nn.functional.scaled_dot_product_attention
    assert flops_of(lambda: attend(q, q, q)) == 2 * (2 * 4 * 16 * 16 * 8) * 2


def test_a_forward_pass_of_stable_diffusion_has_the_known_number_of_operations():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SIZES["sd15"].unet)
        inputs = torch.empty(1, 4, 64, 64), torch.empty(1), torch.empty(1, 77, 768)
    assert sum(weight.numel() for weight in unet.parameters()) == 859_520_964
    assert flops_of(lambda: unet(*inputs)) == pytest.approx(803e9, rel=0.01)


def test_shared_weights_count_once():
    one = nn.Linear(4, 4, bias=False)
    other = nn.Linear(4, 4, bias=False)
    assert network_bytes([one, one, other], torch.zeros(2)) == 2 * 64 + 8


def test_turns_alternate_and_the_first_one_changes_each_round():
    order = []

    class FakeRemote:
        def __init__(self, name, seconds):
            self.name, self.each = name, seconds

        def seconds(self, count):
            order.append(self.name)
            return [self.each] * count

    ours, theirs = in_turns(FakeRemote("a", 1.0), FakeRemote("b", 2.0), rounds=3, count=2)  # type: ignore[arg-type]
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert (ours, theirs) == ([1.0] * 3, [2.0] * 3)


def test_a_medians_interval_covers_it_in_19_of_20_samples():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(200):
        found = median(torch.randn(25, generator=generator).numpy())
        hits += found["low"] <= 0 <= found["high"]
    assert 0.88 < hits / 200 < 0.995


def broken(pipe, name, setting):
    raise MemoryError("no room")


def sleeping(pipe, name, setting):
    output = {"x": torch.ones(3) * (2 if name == "wrong" else 1)}
    from benchmarks.speed_table import serve

    serve(pipe, setting, name, lambda: torch.ones(8, 8) @ torch.ones(8, 8), output, lambda: 64)


@pytest.mark.slow
def test_a_design_that_fails_or_does_other_work_is_a_row_with_the_reason(setting):
    rows = rows_of(sleeping, ["base", "wrong", "right"], setting, rounds=2, steps=1)
    assert [row["design"] for row in rows] == ["base", "wrong", "right"]
    assert "off by 100.0%" in rows[1]["failed"]
    assert rows[2]["disagreement"] == 0
    assert rows[2]["flops"] == 2 * 8**3
    with pytest.raises(WorkFailed, match="MemoryError: no room"):
        rows_of(broken, ["base"], setting, rounds=1, steps=1)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (["--device", "cuda"], "no GPU"),
        (["--memory-cap", "15"], "add --device cuda"),
        (["--rounds", "0"], "1 or more"),
        (["--resolution", "100"], "multiple of 64"),
        (["--designs", "mine"], "invalid choice"),
    ],
)
def test_bad_arguments_are_refused_with_a_message(bad, words, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["speed", "-o", "x.json", *bad])
    with pytest.raises(SystemExit):
        arguments("", DESIGNS, [1], 1)
    assert words in capsys.readouterr().err


def run(monkeypatch, out, work, designs, *more, **kwargs):
    argv = ["speed.py", "--rank", "2", "--rounds", "2", "--steps", "1", "--batch-sizes", "1"]
    monkeypatch.setattr(sys, "argv", [*argv, "--threads", "1", "-o", str(out), *more])
    measure(arguments("", designs, [1], 1), work, designs, **kwargs)
    return json.loads(out.read_text())


@pytest.mark.slow
def test_a_training_table_is_written_with_its_plot(tmp_path, monkeypatch):
    out = tmp_path / "step.json"
    results = run(monkeypatch, out, speed.work, ["reference", "fewstep"])
    reference, ours = results["rows"]
    assert ours["flops"] < reference["flops"]
    assert ours["static_bytes"] < reference["static_bytes"] <= reference["peak_bytes"]
    assert ours["speed_up"]["low"] <= ours["speed_up"]["value"] <= ours["speed_up"]["high"]
    assert "speed_up" not in reference
    assert (tmp_path / "step.png").stat().st_size > 5000
    assert "folder" not in results["work"]


@pytest.mark.slow
def test_a_sampling_table_compares_the_same_images(tmp_path, monkeypatch):
    designs = ["diffusers, LoRA", "diffusers, LoRA fused", "fewstep", "fewstep, plain layout",
               "diffusers, teacher"]  # fmt: skip
    results = run(
        monkeypatch, tmp_path / "s.json", speed_sampling.work, designs,
        prepare=speed_sampling.write_student,
    )  # fmt: skip
    by_name = {row["design"]: row for row in results["rows"]}
    assert not any("failed" in row for row in results["rows"])
    assert by_name["fewstep"]["disagreement"] < 1e-3
    assert by_name["fewstep, plain layout"]["disagreement"] < 1e-3
    assert by_name["diffusers, teacher"]["disagreement"] is None
    assert by_name["diffusers, teacher"]["flops"] > 10 * by_name["fewstep"]["flops"]
    assert by_name["fewstep"]["flops"] < by_name["diffusers, LoRA"]["flops"]


def test_a_sampling_design_is_timed_where_it_differs(monkeypatch):
    monkeypatch.setattr(speed_sampling, "find_spec", lambda name: name)
    designs = set(speed_sampling.DESIGNS)
    openvino = set(speed_sampling.OPENVINO)
    assert designs - {*speed_sampling.distinct_designs("fp32")} == {"fewstep, half decoder"}
    assert designs - {*speed_sampling.distinct_designs("bf16")} == {"fewstep, OpenVINO bf16"}
    assert designs - {*speed_sampling.distinct_designs("fp16")} == openvino
    monkeypatch.setattr(speed_sampling, "find_spec", lambda name: None)
    assert openvino <= designs - {*speed_sampling.distinct_designs("bf16")}


def test_the_tiny_decoder_takes_the_place_of_the_vae(setting):
    speed_sampling.write_student(setting)
    generate, networks = speed_sampling.by_fewstep(setting, tiny_decoder=True)
    kinds = [type(network) for network in networks]
    assert AutoencoderTiny in kinds
    assert AutoencoderKL not in kinds
    assert generate().shape == (setting.batch_size, setting.resolution, setting.resolution, 3)


@pytest.mark.slow
def test_a_step_reads_caches_of_any_size(tmp_path, monkeypatch):
    designs = ("3 pairs", "9 pairs")
    monkeypatch.setattr(speed_data, "DESIGNS", designs)
    results = run(
        monkeypatch, tmp_path / "d.json", speed_data.work, designs, prepare=speed_data.write_caches
    )
    few, more = results["rows"]
    assert few["flops"] == more["flops"] > 0
    assert more["disagreement"] is None
    assert few["peak_bytes"] > few["static_bytes"]
