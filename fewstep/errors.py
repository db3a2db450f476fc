"""Errors that the user can fix: shown as one sentence, without a traceback."""


class UserError(ValueError):
    """A request that cannot be met; the message names it, its value and the fix."""


class SettingError(UserError):
    """A setting that cannot be used; the message names it, its value and the fix."""


class DataError(UserError):
    """Data that cannot be used; the message names the file and a fix."""


class PromptWarning(UserWarning):
    """A prompt that is longer than the text encoder reads: the message quotes what is cut."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed: of Python's, of a GPU's or of torch's on a CPU."""
    words = ("can't allocate memory", "not enough memory: you tried to allocate")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(text in str(error) for text in words)
    )


class Interrupted(BaseException):
    """A signal asked the run to stop, and its state has been saved.

    Not an Exception, so that libraries that catch exceptions let it through.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum
