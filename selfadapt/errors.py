"""What ends a run early: the error that a user can put right, and the machine being taken away."""


class UserError(Exception):
    """A fault in what the user gave: a file, a config, a model, a full disk.

    The command line prints its text as one line and exits with status 2, without a traceback. The text
    names what was wrong, where, and what would be right. Subclasses also derive from the built-in error
    they refine (`ValueError`, `OSError`), so that Python callers can catch either.
    """


class Preempted(Exception):
    """SIGTERM has come, and the run has stopped at a place from which it goes on when it is started again."""
