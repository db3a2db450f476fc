import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fewstep.diffusion.schedule import CLEAN
from fewstep.methods import METHODS
from fewstep.student.contract import Contract

SETTINGS = {
    "ct": {"num_solver_steps": 10, "final_solver_steps": 160},
    "cd": {"num_solver_steps": 50, "solver": "heun"},
    "multi-boundary-cd": {"num_solver_steps": 52, "num_segments": 4},
    "multi-boundary-ct": {"num_segments": 8, "weighting": "inverse-gap"},
    "trajectory-matching": {"num_solver_steps": 52, "num_segments": 4},
}


def contract_of(config: dict, name: str = "multi-boundary-cd", **settings: Any) -> Contract:
    return Contract.of(name, METHODS[name](**settings), 8.0, config)


def damaged(contract: Contract, damage: Callable[[dict], object]) -> str:
    """Return the contract's file with something done to it."""
    entries = json.loads(contract.to_json())
    damage(entries)
    return json.dumps(entries)


@pytest.mark.parametrize("name", METHODS)
def test_a_contract_survives_its_file(config, name):
    contract = replace(
        contract_of(config | {"prediction_type": "v_prediction"}, name, **SETTINGS[name]),
        adapter={"preset": "all", "rank": 64, "alpha": 8.0},
        base={"id": "a/model", "revision": None},
        train={"steps": 1000, "seed": 0},
        versions={"torch": "2.13.0"},
        files={"a.safetensors": "0f"},
    )
    again = Contract.from_json(contract.to_json())
    assert again == contract
    assert again.to_json() == contract.to_json()
    assert again.timesteps() == contract.timesteps()
    assert again.schedule.digest == contract.schedule.digest


def test_a_contract_holds_the_grid_and_the_schedule(config, schedule):
    contract = contract_of(config)
    assert contract.method["name"] == "multi-boundary-cd"
    assert contract.method["num_solver_steps"] == 40
    assert contract.guidance_scale == 8.0
    assert contract.grid.num_train_timesteps == 1000
    assert len(contract.grid.timesteps) == 41
    assert contract.grid.boundaries == (CLEAN, 249, 499, 749)
    assert contract.sampling_timesteps == {4: (999, 749, 499, 249)}
    assert contract.sampler == "deterministic"
    assert contract.prediction_type == "epsilon"
    assert contract.schedule.digest == schedule.digest


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("num_train_timesteps", [1000, 500])
def test_every_sampling_timestep_is_on_the_grid_and_lies_within_the_schedule(
    config, name, num_train_timesteps
):
    config = config | {"num_train_timesteps": num_train_timesteps}
    contract = contract_of(config, name, **SETTINGS[name])
    grid = contract.grid
    assert contract.sampling_timesteps
    assert grid.timesteps[-1] == num_train_timesteps - 1
    for num_steps, starts in contract.sampling_timesteps.items():
        assert len(starts) == num_steps
        assert set(starts) <= set(grid.timesteps)
    assert set(grid.boundaries) <= set(grid.timesteps)


def test_a_student_of_one_segment_is_sampled_in_every_divisor_of_its_last_grid(config):
    contract = contract_of(config, "ct", num_solver_steps=10, final_solver_steps=40)
    known = list(contract.sampling_timesteps)
    assert known == [1, 2, 4, 5, 8, 10, 20, 40]
    assert contract.timesteps(8) == tuple(range(999, 0, -125))


@pytest.mark.parametrize(
    ("name", "settings", "default"),
    [
        ("cd", {}, 4),
        ("ct", {"num_solver_steps": 25}, 1),
        ("cd", {"num_solver_steps": 30}, 3),
        ("multi-boundary-cd", {"num_segments": 8}, 8),
        ("multi-boundary-ct", {"num_segments": 1}, 1),
    ],
)
def test_by_default_the_student_takes_its_segments_or_up_to_4_steps(
    config, name, settings, default
):
    contract = contract_of(config, name, **settings)
    assert contract.default_num_steps == default == len(contract.timesteps())


@pytest.mark.parametrize("num_steps", [0, 3, 5, 40])
def test_another_number_of_steps_is_refused_with_those_that_work(config, num_steps):
    with pytest.raises(
        ValueError, match=f"sampled in 4 steps, not {num_steps}: it was trained on 4 segments"
    ):
        contract_of(config).timesteps(num_steps)


def test_the_numbers_of_steps_that_work_are_named_in_order_after_reading_too(config):
    contract = Contract.from_json(contract_of(config, "cd").to_json())
    with pytest.raises(ValueError, match="in 1, 2, 4, 5, 8, 10, 20, 40 steps, not 3"):
        contract.timesteps(3)


def test_a_file_that_is_not_json_is_refused(config):
    with pytest.raises(ValueError, match=r"here/fewstep.json is not JSON \(.*export the run again"):
        Contract.from_json(contract_of(config).to_json()[:-30], "here/fewstep.json")


@pytest.mark.parametrize("text", ["[]", "5", "null", '"fewstep"', "{}"])
def test_a_file_that_is_json_but_no_contract_is_refused(text):
    words = (
        "has format_version None; this fewstep reads 1 and 2"
        if text == "{}"
        else "not a JSON object"
    )
    with pytest.raises(ValueError, match=words):
        Contract.from_json(text)


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_another_format_version_is_refused(config, version):
    text = damaged(contract_of(config), lambda entries: entries.update(format_version=version))
    words = re.escape(f"has format_version {version!r}; this fewstep reads 1 and 2: update fewstep")
    with pytest.raises(ValueError, match=words):
        Contract.from_json(text)


@pytest.mark.parametrize("entry", ["method", "grid", "schedule", "guidance_scale"])
def test_a_lost_entry_is_refused_by_name(config, entry):
    text = damaged(contract_of(config), lambda entries: entries.pop(entry))
    with pytest.raises(ValueError, match=rf"is not a valid contract: .*{entry}"):
        Contract.from_json(text)


@pytest.mark.parametrize(
    ("where", "entry"),
    [
        ("grid", "knots"),
        ("grid", "boundaries"),
        ("grid", "sampling_timesteps"),
        ("grid", "sampler"),
        ("grid", "num_train_timesteps"),
        ("schedule", "config"),
        ("schedule", "sha256"),
        ("schedule", "prediction_type"),
    ],
)
def test_a_lost_entry_further_in_is_refused_by_name(config, where, entry):
    text = damaged(contract_of(config), lambda entries: entries[where].pop(entry))
    with pytest.raises(ValueError, match=rf"is not a valid contract: .*{entry}"):
        Contract.from_json(text)


@pytest.mark.parametrize("where", [None, "grid", "schedule"])
def test_an_unknown_entry_is_refused_by_name(config, where):
    def add(entries):
        (entries[where] if where else entries)["colour"] = "red"

    with pytest.raises(ValueError, match=r"is not a valid contract: .*colour"):
        Contract.from_json(damaged(contract_of(config), add))


@pytest.mark.parametrize(
    ("where", "entry", "value"),
    [
        ("grid", "knots", [-1, 499, 999]),
        ("grid", "boundaries", [-1, 259, 519, 779]),
        ("grid", "sampling_timesteps", {"4": [999, 759, 499, 259]}),
        ("grid", "sampling_timesteps", {"4": [999, 749, 499, 249], "8": [999]}),
        ("grid", "num_train_timesteps", 999),
        ("grid", "sampler", "stochastic"),
        ("schedule", "sha256", "0" * 64),
        ("schedule", "prediction_type", "v_prediction"),
    ],
)
def test_an_entry_that_does_not_follow_from_the_method_is_refused_by_name(
    config, where, entry, value
):
    text = damaged(contract_of(config), lambda entries: entries[where].update({entry: value}))
    with pytest.raises(ValueError, match=f"{where}.{entry} does not follow from the method"):
        Contract.from_json(text)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_solver_steps": 80}, "grid.knots does not follow"),
        ({"num_segments": 2}, "grid.boundaries does not follow"),
        ({"num_segments": 3}, "40 solver steps do not contain the boundaries"),
        ({"num_solver_steps": "forty"}, "is not a valid contract"),
        ({"temperature": 1.0}, "is not a valid contract.*temperature"),
        ({"distance": "l1"}, "method.distance is 'l1'"),
        ({"name": "lcm"}, "unknown method 'lcm'; known: ct, cd, multi-boundary-cd"),
        ({"name": None}, "unknown method None"),
    ],
)
def test_a_method_that_was_changed_is_refused(config, settings, words):
    text = damaged(contract_of(config), lambda entries: entries["method"].update(settings))
    with pytest.raises(ValueError, match=f"fewstep.json.*{words}"):
        Contract.from_json(text)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"beta_end": 0.02}, "schedule.sha256 does not follow"),
        ({"rescale_betas_zero_snr": True}, "'epsilon' cannot be used with rescale_betas_zero"),
        ({"num_train_timesteps": 500}, "grid.num_train_timesteps does not follow"),
        ({"beta_schedule": "sigmoid"}, "unknown beta_schedule 'sigmoid'"),
        ({"beta_start": "small"}, "is not a valid contract"),
        ({"num_train_timesteps": 1}, "is not a valid contract"),
    ],
)
def test_a_noise_schedule_that_was_changed_is_refused(config, parameters, words):
    text = damaged(
        contract_of(config), lambda entries: entries["schedule"]["config"].update(parameters)
    )
    with pytest.raises(ValueError, match=f"fewstep.json.*{words}"):
        Contract.from_json(text)


@pytest.mark.parametrize("parameter", ["beta_schedule", "num_train_timesteps", "beta_end"])
def test_a_noise_schedule_that_lost_a_parameter_is_refused(config, parameter):
    text = damaged(
        contract_of(config), lambda entries: entries["schedule"]["config"].pop(parameter)
    )
    with pytest.raises(ValueError, match=f"is not a valid contract.*{parameter}"):
        Contract.from_json(text)


@pytest.mark.parametrize("guidance_scale", [0.5, -8.0, math.inf, math.nan])
def test_a_guidance_that_cannot_have_been_is_refused(config, guidance_scale):
    text = damaged(
        contract_of(config), lambda entries: entries.update(guidance_scale=guidance_scale)
    )
    with pytest.raises(ValueError, match=f"guidance_scale is {guidance_scale}; it has to be"):
        Contract.from_json(text)


@pytest.mark.parametrize("guidance_scale", [0.2, -1.0, math.inf])
def test_a_guidance_that_no_reader_would_accept_is_not_written(config, guidance_scale):
    with pytest.raises(ValueError, match=f"guidance_scale is {guidance_scale}; it has to be 1"):
        Contract.of("cd", METHODS["cd"](), guidance_scale, config)


UNREADABLE = pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"prediction_type": "nonsense"}, "unknown prediction_type 'nonsense'; known: epsilon"),
        ({"rescale_betas_zero_snr": True}, "'epsilon' cannot be used with rescale_betas_zero_snr"),
    ],
)


@UNREADABLE
def test_a_prediction_that_nothing_can_read_is_not_written(config, parameters, words):
    with pytest.raises(ValueError, match=words):
        contract_of(config | parameters)


@UNREADABLE
def test_a_prediction_that_nothing_can_read_is_refused(config, parameters, words):
    """Even where the file agrees with itself."""
    contract = contract_of(config | parameters | {"prediction_type": "v_prediction"})
    kind = parameters.get("prediction_type", "epsilon")

    def damage(entries):
        entries["schedule"]["prediction_type"] = kind
        entries["schedule"]["config"]["prediction_type"] = kind

    with pytest.raises(ValueError, match=f"fewstep.json.*{words}"):
        Contract.from_json(damaged(contract, damage))


@pytest.mark.parametrize("part", ["method", "grid", "schedule", "guidance_scale"])
@pytest.mark.parametrize("value", [None, 0.5, "text", [1, 2], {}])
def test_an_entry_of_another_type_is_refused(config, part, value):
    text = damaged(contract_of(config), lambda entries: entries.update({part: value}))
    with pytest.raises(ValueError, match=r"fewstep\.json"):
        Contract.from_json(text)


@pytest.mark.parametrize("part", ["adapter", "base", "data", "train", "versions", "files"])
@pytest.mark.parametrize("value", [None, "full", []])
def test_a_part_that_is_no_object_is_refused_by_name(config, part, value):
    contract = contract_of(config)
    text = damaged(contract, lambda entries: entries.update({part: value}))
    with pytest.raises(ValueError, match=f"is not a valid contract.*{part}"):
        Contract.from_json(text)
