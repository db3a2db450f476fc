"""Two finished runs of the tiny pipeline, made once a process."""

import pytest

from fewstep.training.distill import distill_run
from tests.tiny import tiny_config


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for method in ("ct", "multi-boundary-cd"):
        distill_run(tiny_config(method, steps=1), folder / method)
    return folder
