"""What ends a command in one line instead of a traceback."""


class UserError(Exception):
    """Something a person can put right. Its text is one line: what, where, and what to do.

    The scripts print that line and exit with `status`."""

    status = 2


class NonFiniteError(UserError):
    """A loss or a gradient became infinite or not a number."""

    status = 3


def flag_name(name: str) -> str:
    """learning_rate -> --learning-rate"""
    return "--" + name.replace("_", "-")
