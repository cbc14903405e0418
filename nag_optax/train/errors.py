"""Errors that a person can mend: the command line shows them as one line, without a traceback."""


class TrainError(Exception):
    """Ends the command with one line; `exit_code` is what the shell sees."""

    exit_code = 1


class InputError(TrainError):
    """An argument or a file is wrong; the message names it, its value and what is allowed."""

    exit_code = 2


class StreamError(InputError):
    """A batch cannot be read; the step before it is whole."""


class Diverged(TrainError):
    """The loss became NaN or infinite; the message says where, and what is kept."""


class Interrupted(TrainError):
    """A signal ended the run after a checkpoint; the message says how to resume."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def reason(error: Exception) -> str:
    """Why, in one line. The text of an OSError repeats the file, which our message names already."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())
