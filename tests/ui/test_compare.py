"""What the page's columns hold: the images of `fewstep sample`, from one noise, step by step."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from fewstep.errors import UserError
from fewstep.student.generate import teacher_sampler
from fewstep.student.pipeline import FewStepPipeline
from fewstep.ui import compare
from fewstep.ui.compare import Request, allowed_steps, columns, fill
from tests.ui.conftest import SOURCES

ASKED = Request("a red heart above a blue star", 7, 2, (4, 4), 2.0)


@pytest.fixture(autouse=True)
def short_teacher(monkeypatch):
    monkeypatch.setattr(compare, "TEACHER_STEPS", 6)


def filled(models, request, known=()):
    return list(fill(columns(models, request), request, models.resolution, known))


def pixels(column):
    return [np.asarray(sampled.image, np.int16) for sampled in column.images]


@pytest.fixture(scope="module")
def states(models):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "TEACHER_STEPS", 6)
        return filled(models, ASKED)


def test_each_student_shows_what_sample_writes(models, states):
    for source, column in zip(SOURCES, states[-1][2:], strict=True):
        theirs = FewStepPipeline.from_pretrained(source)(
            ASKED.prompt, seed=7, num_images_per_prompt=2
        )
        for ours, other in zip(pixels(column), theirs, strict=True):
            assert np.abs(ours - np.asarray(other.image, np.int16)).max() <= 1
        assert [sampled.nfe for sampled in column.images] == [4, 4]
        assert [sampled.seed for sampled in column.images] == [7, 8]


def test_the_teacher_is_shown_in_all_its_steps_and_in_few_with_guidance(models, states):
    long, short, *_ = states[-1]
    assert (long.images[0].nfe, short.images[0].nfe) == (12, 8)
    theirs = teacher_sampler(models.family, 4, 2.0).generate([ASKED.prompt], 7, models.resolution)
    assert np.abs(pixels(short)[0] - np.asarray(theirs[0], np.int16)).max() <= 1


def test_columns_grow_step_by_step_those_of_few_steps_first(states):
    progress = [tuple(column.done for column in state) for state in states]
    assert progress[0] == (0, 0, 0, 0)
    assert progress[-1] == (6, 4, 4, 4)
    assert all(sum(after) - sum(before) in (0, 1) for before, after in pairwise(progress))
    first = next(state for state in states if any(column.images for column in state))
    assert not first[0].images, "the teacher's many steps come last"
    assert all(column.seconds > 0 for column in states[-1])


def test_who_stops_listening_stops_the_work(models, monkeypatch):
    calls = []
    forward = models.family.network.forward
    monkeypatch.setattr(
        models.family.network, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k)
    )
    request = replace(ASKED, num_images=1)
    steps = fill(columns(models, request)[:1], request, models.resolution)
    for _ in range(3):
        next(steps)
    steps.close()
    assert 0 < len(calls) < 6


def test_what_was_made_before_is_not_made_again(models, states):
    known = states[-1]
    blended = filled(models, replace(ASKED, strength=0.5), known)
    assert blended[0][:2] == known[:2]
    assert not blended[0][2].images
    assert filled(models, ASKED, known)[-1] == known


def test_the_strip_begins_with_the_noise_and_ends_with_the_image(models):
    request = replace(ASKED, num_images=1, with_strip=True)
    for column in filled(models, request)[-1]:
        assert len(column.strip) == min(column.total + 1, compare.STRIP)
        assert np.array_equal(np.asarray(column.strip[-1]), np.asarray(column.images[0].image))
    noise = [np.asarray(column.strip[0]) for column in filled(models, request)[-1]]
    assert all(np.array_equal(noise[0], other) for other in noise), "all start from the same noise"


def test_steps_that_a_student_does_not_know_have_their_reason(models):
    multi_boundary, cd = map(dict, map(allowed_steps, models.students))
    assert multi_boundary[4] == ""
    assert "it was trained on 4 segments" in multi_boundary[3]
    assert cd[4] == cd[1] == ""
    assert "they have to divide its solver's" in cd[3]


def test_a_negative_prompt_reaches_the_students_that_were_trained_for_it(models):
    cd = models.students[1]
    contract = replace(
        cd.contract, guidance_scale=1.0, data={**cd.contract.data, "caption_dropout": 0.1}
    )
    free = replace(models, students=[models.students[0], replace(cd, contract=contract)])
    request = replace(ASKED, num_images=1, negative_prompt="blue")
    plain, negated = (
        filled(free, replace(request, negative_prompt=words))[-1] for words in ("", "blue")
    )
    assert negated[3].images[0].nfe == 8
    changed = [not np.array_equal(a, b) for a, b in
               zip(map(pixels, plain), map(pixels, negated), strict=True)]  # fmt: skip
    assert changed == [True, True, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " \n"}, "there is no prompt"),
        ({"prompt": "a red elephant"}, "does not know 'elephant'"),
        ({"prompt": "a " * 3000}, "more than 4000"),
        ({"seed": -1}, "seed is -1; it has to be 0 or more"),
        ({"seed": 2**64}, "seed is"),
        ({"num_images": 0}, "the number of images is 0; it has to be 1 to 4"),
        ({"num_images": 400}, "the number of images is 400"),
        ({"steps": (3, 4)}, "sampled in 4 steps, not 3"),
        ({"strength": 9.0}, "the blend is 9; it has to be 0 to 1.5"),
        ({"strength": float("nan")}, "the blend is nan"),
    ],
)
def test_a_bad_value_is_a_sentence_before_any_work(models, change, message):
    with pytest.raises(UserError, match=message):
        columns(models, replace(ASKED, **change))
