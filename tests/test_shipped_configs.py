"""Every config that ships is found by its name, wherever a command is typed."""

from pathlib import Path

import pytest

from fewstep.config import load_config, shipped
from fewstep.errors import SettingError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_found_by_its_name(monkeypatch, tmp_path, path):
    monkeypatch.chdir(tmp_path)
    assert load_config(path.stem) == load_config(path)


def test_a_file_here_comes_before_a_name_and_a_path_is_a_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("sd15-t4").write_text("[method]\nname = 'ct'\n")
    assert load_config("sd15-t4").method == {"name": "ct"}
    for other in ("sd15-t4.toml", "configs/sd15-t4", "nothing", ".."):
        assert shipped(Path(other)) == Path(other)
    with pytest.raises(SettingError, match="cannot read nothing"):
        load_config("nothing")
