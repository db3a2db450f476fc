"""The error that is the user's to mend: shown as one sentence, without a traceback."""


class UserError(ValueError):
    """Something asked for cannot be done; the message names it, its value and the way out."""


class Interrupted(BaseException):
    """A signal asked the run to stop, and its state has been saved.

    No Exception, so that it gets through a library that takes those for failures of its own.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum
