"""Errors that the user can fix: shown as one sentence, without a traceback."""


class UserError(ValueError):
    """A request that cannot be met; the message names it, its value and the fix."""


class SettingError(UserError):
    """A setting that cannot be used; the message names it, its value and the fix."""


class DataError(UserError):
    """Data that cannot be used; the message names the file and a fix."""


class PromptWarning(UserWarning):
    """A prompt that is longer than the text encoder reads: the message quotes what is cut."""


class Interrupted(BaseException):
    """A signal asked the run to stop, and its state has been saved.

    Not an Exception, so that libraries that catch exceptions let it through.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum
