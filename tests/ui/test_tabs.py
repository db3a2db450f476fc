"""What the tab Compare offers depends on what its students were trained for."""

from dataclasses import replace

import gradio as gr

from fewstep.ui.compare_tab import NO_NEGATIVES, guidance_row


def test_a_negative_prompt_is_offered_where_a_student_was_trained_for_one(models):
    cd = models.students[1]
    contract = replace(
        cd.contract, guidance_scale=1.0, data={**cd.contract.data, "caption_dropout": 0.1}
    )
    free = replace(models, students=[models.students[0], replace(cd, contract=contract)])
    with gr.Blocks():
        (off, teachers), (on, both) = guidance_row(models), guidance_row(free)
    assert (off.interactive, off.info) == (False, NO_NEGATIVES)
    assert (on.interactive, on.info) == (True, f"for the teacher and {cd.source}")
    assert teachers.info == "of the teacher; students have theirs inside"
    assert both.info == on.info
