"""The package's exceptions: errors that the user can fix, edits that cannot be applied, and preemption."""


class UserError(Exception):
    """The user can fix this: a file, a config field, a model, a missing package or a full disk.

    The command prints the message as one line and exits with status 2, without a traceback. The message names
    what is wrong, where, and what would be right. Each subclass also derives from the built-in exception that it
    refines (`ValueError`, `OSError`, ...), so Python callers can catch either. Every other exception, a plain
    `ValueError` included, is a fault of the program and keeps its traceback.
    """


class InvalidValueError(UserError, ValueError):
    """An argument, a config field or a file has a value that cannot be used."""


class InvalidTypeError(UserError, TypeError):
    """An argument has a type that cannot be used."""


class OutOfMemoryError(UserError, MemoryError):
    """The work does not fit in the memory that is free, even in the smallest pieces; found before it starts."""


class MissingPackageError(UserError, ImportError):
    """An optional package is not installed; the message has the command that installs it."""


class InvalidEdit(ValueError):
    """An edit cannot be applied; the message is the reason. It is the policy's doing, so it is no `UserError`."""


class Preempted(Exception):
    """SIGTERM has arrived and all work is saved; the same command resumes the run."""
