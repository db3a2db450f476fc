"""The checks of settings that come before any model library is imported: they need torch alone."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from fewstep.config import Config
from fewstep.errors import SettingError
from fewstep.methods import METHODS, Method
from fewstep.strict import from_tables
from fewstep.student.generate import TEACHER_GUIDANCE


def check_settings(config: Config) -> None:
    """Check the method, its guidance and the trackers.

    Raises:
        SettingError: naming the setting, its value and what to use instead.
    """
    build_method(config.method)
    teacher_guidance(config)
    for name in config.train.trackers:
        if importlib.util.find_spec(name) is None or not _is_known_to_accelerate(name):
            raise SettingError(
                f"train.trackers has {name!r}, which is not installed, or accelerate is too old "
                f"for it: pip install 'fewstep[{name}]', or leave it out"
            )


def build_method(settings: Mapping[str, Any]) -> tuple[str, Method]:
    """Return the name and the method that the table [method] asks for.

    Raises:
        SettingError: if the name or a field is unknown, or a value cannot be used.
    """
    fields = dict(settings)
    name = fields.pop("name", None)
    if not isinstance(name, str) or name not in METHODS:
        raise SettingError(f"method.name is {name!r}; known: {', '.join(METHODS)}")
    return name, from_tables(METHODS[name], fields, "method.")


def teacher_guidance(config: Config) -> float:
    """Return the teacher's guidance scale; it is 1 for a method without a teacher.

    Raises:
        SettingError: if a scale is set for a method that would not use it.
    """
    (name, method), scale = build_method(config.method), config.teacher.guidance_scale
    if method.has_teacher:
        return TEACHER_GUIDANCE if scale is None else scale
    if scale not in (None, 1.0):
        raise SettingError(
            f"teacher.guidance_scale is {scale}, but {name} learns from data and not from a "
            "teacher: leave it out, or choose a method that distils one (cd, multi-boundary-cd)"
        )
    return 1.0


def _is_known_to_accelerate(tracker: str) -> bool:
    from accelerate.utils import LoggerType

    return tracker in LoggerType
