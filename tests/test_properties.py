"""Whatever stands in a config or a contract: it is read, and written again the same, or refused."""

import copy
import dataclasses
import json
import math
import tempfile
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fewstep.config import PATHS, Config, load_config, to_toml
from fewstep.errors import UserError
from fewstep.methods import METHODS
from fewstep.strict import from_tables
from fewstep.student.contract import Contract, _checksum
from fewstep.toml import with_paths
from fewstep.training.run_dir import flat
from fewstep.training.settings import build_method, check_settings
from tests.artefacts import tiny_contract

LONGEST = 2000
"""Characters of a refusal, whatever was refused."""

WORDS = st.text(max_size=8) | st.sampled_from(["cd", "ct", "all", "fp32", "uniform", "linear"])
NUMBERS = st.integers(-(2**70), 2**70) | st.integers(-2, 60) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def table_of(kind: type) -> type | None:
    """Return the dataclass of a table, which may be optional."""
    kinds = typing.get_args(kind) or (kind,)
    return next((k for k in kinds if dataclasses.is_dataclass(k)), None)


KINDS = {
    name: kind for name, hint in typing.get_type_hints(Config).items() if (kind := table_of(hint))
}
TABLES = st.fixed_dictionaries(
    {"method": st.fixed_dictionaries({"name": st.sampled_from([*METHODS, "none"])})},
    optional={
        name: VALUES
        | st.dictionaries(
            st.sampled_from([f.name for f in dataclasses.fields(kind)]), VALUES, max_size=3
        )
        for name, kind in KINDS.items()
    },
)


def read(call: Callable[[], Any]) -> Any:
    """Return what was read; None where it was refused in a sentence of the package's own."""
    try:
        return call()
    except UserError as error:
        refusal = str(error)
    assert len(refusal) <= LONGEST
    return None


def loaded(text: str | bytes, *overrides: str) -> Config:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_config(path, overrides)


@settings(max_examples=50)
@given(TABLES)
def test_tables_of_any_values_are_read_and_written_the_same_or_refused(tables):
    config = read(lambda: from_tables(Config, with_paths(copy.deepcopy(tables), PATHS)))
    if config is not None:
        assert loaded(to_toml(config)) == config


def configs() -> st.SearchStrategy[Config]:
    """Return every config that the types allow."""
    hints = typing.get_type_hints(Config, include_extras=True)
    parts = {name: st.from_type(hints[name]) for name in KINDS}
    names = st.sampled_from(sorted(METHODS))
    return st.fixed_dictionaries({"method": st.fixed_dictionaries({"name": names}), **parts}).map(
        lambda values: Config(**values)
    )


@settings(max_examples=50)
@given(st.data())
def test_a_config_that_the_types_allow_is_written_and_read_the_same_or_refused(data):
    config = read(lambda: data.draw(configs()))
    assume(config is not None)
    values = flat(config).values()
    assume(all(math.isfinite(value) for value in values if isinstance(value, float)))
    assume(not any(str(value).startswith("~") for value in values))  # a folder of the user's
    again = read(lambda: loaded(to_toml(config)))
    assert again is None or again == config
    read(lambda: check_settings(config))


@given(st.binary(max_size=60) | st.text(alphabet="[]{}=\"'\n.,#\\ abmethod1-", max_size=60))
def test_any_file_of_settings_is_read_or_refused(text):
    read(lambda: loaded(text))


SETTINGS = [
    f"{name}.{entry.name}" for name, kind in KINDS.items() for entry in dataclasses.fields(kind)
]


@given(st.sampled_from([*SETTINGS, "method.name", "adapter", ""]) | WORDS, VALUES)
def test_any_override_is_read_or_refused(name, value):
    for text in (str(value), json.dumps(value)):
        read(lambda text=text: loaded('[method]\nname = "cd"\n', f"{name}={text}"))


@given(st.data(), st.sampled_from(sorted(METHODS)))
def test_any_setting_of_a_method_is_used_or_refused(data, name):
    names = [entry.name for entry in dataclasses.fields(METHODS[name])]
    fields = data.draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=3))
    built = read(lambda: build_method({"name": name, **fields}))
    if built is not None:
        assert {key: getattr(built[1], key) for key in fields} == fields


@pytest.fixture(scope="module")
def entries() -> dict[str, Any]:
    return json.loads(tiny_contract().to_json())


def paths(value: Any, above: tuple = ()) -> Iterator[tuple]:
    """Yield the place of everything in a nested value."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, part in inner:
        yield (*above, key)
        if isinstance(part, dict | list):
            yield from paths(part, (*above, key))


def changed(entries: dict[str, Any], path: tuple, value: Any, gone: bool) -> str:
    """Return a contract with one entry replaced or removed, and a checksum that is right."""
    entries = copy.deepcopy(entries)
    *outer, last = path
    part = entries
    for key in outer:
        part = part[key]
    if gone:
        del part[last]
    else:
        part[last] = value
    if isinstance(entries, dict) and "seal" in entries and path != ("seal",):
        del entries["seal"]
        entries["seal"] = _checksum(entries)
    return json.dumps(entries)


@given(st.data(), VALUES, st.booleans())
def test_a_contract_with_any_entry_changed_is_read_the_same_or_refused(entries, data, value, gone):
    path = data.draw(st.sampled_from([*paths(entries)]))
    text = changed(entries, path, value, gone)
    contract = read(lambda: Contract.from_json(text))
    if contract is not None:
        assert Contract.from_json(contract.to_json()).to_json() == contract.to_json()
        assert len(contract.timesteps()) == contract.default_num_steps


CONFIG = ("schedule", "config")


@given(
    st.sampled_from(["num_train_timesteps", "beta_start", "beta_end", "trained_betas",
                     "beta_schedule", "prediction_type", "rescale_betas_zero_snr"]),
    VALUES | st.lists(st.floats(0, 1), max_size=4),
)  # fmt: skip
@example("num_train_timesteps", 10**12)
@example("num_train_timesteps", 1)
@example("num_train_timesteps", -1)
@example("trained_betas", [0.5] * 3)
def test_a_contract_with_any_noise_levels_is_read_or_refused(entries, name, value):
    text = changed(entries, (*CONFIG, name), value, gone=False)
    contract = read(lambda: Contract.from_json(text))
    assert contract is None or contract.schedule.digest == entries["schedule"]["sha256"]


@given(st.text(max_size=60) | VALUES.map(json.dumps))
def test_any_text_is_a_contract_or_refused(text):
    read(lambda: Contract.from_json(text))
