"""Students are read once, and those on a quantised base know their like on a plain one."""

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


def test_a_student_of_a_quantised_base_is_compared_with_the_same_training_on_the_plain_one():
    plain = [student(0), student(1), student(1, steps=6)]
    few_bits = [student(1, quantize="int8"), student(1, quantize="nf4")]
    for one in few_bits:
        assert one.on_plain_base([*few_bits, *plain]) is plain[1]
    assert plain[1].on_plain_base(plain) is None, "it is on one itself"
    assert student(2, quantize="nf4").on_plain_base(plain) is None
