"""The exceptions that end a run early for a reason outside the program."""


class UserError(Exception):
    """Something that the user gave cannot be used: a file, a config, a model, a full disk.

    The command prints its text as one line and exits with status 2, without a traceback. The text names
    what was wrong, where, and what would be right. Subclasses also derive from the built-in error that
    they refine (`ValueError`, `OSError`), so that Python callers can catch either.
    """


class InvalidValueError(UserError, ValueError):
    """An argument or a config field has a value that cannot be used."""


class Preempted(Exception):
    """SIGTERM has arrived and all work is saved; the same command resumes the run."""
