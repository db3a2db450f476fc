"""The benchmark of a quantised teacher samples the same noise by a network in few bits."""

import numpy as np
import pytest

from benchmarks.quantised_teacher import KINDS, quantised
from fewstep.evaluation.models import EvaluationSet
from tests.artefacts import tiny_artefact


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return EvaluationSet.open([str(tiny_artefact(tmp_path_factory.mktemp("student")))])


def image(model):
    return np.asarray(model.sampler().generate(["a red heart"], 3, 64)[0], dtype=float)


def test_few_bits_move_the_teachers_image_of_the_same_noise_the_fewer_the_further(runs):
    plain = image(runs.teacher(2))
    far = {kind: np.abs(image(quantised(runs, kind, steps=2)) - plain).mean() for kind in KINDS}
    assert 0 < far["int8"] < far["nf4"]


def test_each_is_a_model_of_its_own_that_is_compared_with_the_unquantised_one(runs):
    models = [runs.teacher(), *(quantised(runs, kind) for kind in KINDS)]
    assert len({model.identity for model in models}) == len({str(model) for model in models}) == 3
    assert all(model.compared_with("teacher") is not None for model in models[1:])
