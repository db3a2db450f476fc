"""A row of buttons for a student's number of steps, those it was not trained for greyed out."""

from html import escape

import gradio as gr

from fewstep.evaluation.students import Student
from fewstep.ui.compare import allowed_steps

TEMPLATE = """
<fieldset class="fs-steps"><legend>${title}</legend><div role="radiogroup" aria-label="${title}">
${choices.map(([steps, why]) =>
  `<button type="button" role="radio" data-steps="${steps}" aria-checked="${steps == value}"
    ${why ? `disabled title="${why}"` : ''}>${steps}</button>`).join('')}
</div><small>${why}</small></fieldset>"""

CHOOSE = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-steps]');
  if (button && !button.disabled) props.value = Number(button.dataset.steps);
});"""


def steps_picker(student: Student, title: str) -> gr.HTML:
    """Return the component, whose value is the number of steps."""
    choices = [(steps, escape(why)) for steps, why in allowed_steps(student)]
    reasons = {why.rpartition(": ")[2] for _, why in choices if why}
    return gr.HTML(
        value=student.contract.default_num_steps,
        html_template=TEMPLATE,
        js_on_load=CHOOSE,
        title=escape(title),
        choices=choices,
        why="; ".join(f"greyed: {why}" for why in sorted(reasons)),
        elem_classes="fs-picker",
    )
