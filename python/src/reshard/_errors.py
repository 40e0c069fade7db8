"""What goes wrong, one class for each exit code of the command."""


class ReshardError(Exception):
    """The command failed; the text is the message that it printed."""

    #: The exit code of the command.
    exit_code = 1


class UsageError(ReshardError):
    """The call itself is wrong: an option that is missing, unknown, or cannot be."""

    exit_code = 2


class Refused(ReshardError):
    """The input was refused: missing, damaged, inconsistent or not supported. It is untouched."""

    exit_code = 3


class OutputError(ReshardError):
    """The output cannot be written. Nothing half-written is visible."""

    exit_code = 4


def of(exit_code: int, message: str) -> ReshardError:
    """The error that an exit code of the command stands for."""
    for kind in (UsageError, Refused, OutputError):
        if kind.exit_code == exit_code:
            return kind(message)
    error = ReshardError(message)
    error.exit_code = exit_code
    return error
