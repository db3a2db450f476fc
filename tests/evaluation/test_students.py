"""Students are read once, and those trained in few bits know their like in full precision."""

import pytest

from fewstep.evaluation.students import Student
from fewstep.methods import MultiBoundaryDistillation
from fewstep.models.architectures import SCHEDULER
from fewstep.student.contract import Contract


def student(seed, steps=5, **train):
    contract = Contract.of("multi-boundary-cd", MultiBoundaryDistillation(), 2.0, SCHEDULER,
                           data={"resolution": 64},
                           base={"id": "bundled", "fingerprint": "f"},
                           train={"steps": steps, "seed": seed} | train)  # fmt: skip
    return Student(f"{seed}", contract, {})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_student_in_few_bits_is_compared_with_the_same_training_in_full_precision(precision):
    plain = [student(seed, steps=steps, precision=precision)
             for seed, steps in ((0, 5), (1, 5), (1, 6))]  # fmt: skip
    few_bits = [student(1, precision=precision, quantize=kind) for kind in ("int8", "nf4")]
    mixed = [student(1, precision="mixed"), student(1, precision="mixed", quantize="int8")]
    for one in few_bits if precision == "bf16" else few_bits + mixed:
        assert one.in_full_precision([*few_bits, *mixed, *plain]) is plain[1]
    assert plain[1].in_full_precision(plain) is None, "it is so itself"
    assert few_bits[0].in_full_precision(plain[:1]) is None
