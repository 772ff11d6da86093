"""The one exception family of the project: what was wrong, where, what is allowed, what to do.

Command-line entry points turn a `UserError` into exit 2 and an `OperationError` into exit 1, never into a traceback.
"""


class BundleError(Exception):
    """Root of every error that this project raises on purpose."""

    exit_code = 1


class UserError(BundleError):
    """The input or the machine does not allow what was asked; nothing was changed."""

    exit_code = 2


class OperationError(BundleError):
    """The input was right, but the operation failed."""


class ContentError(BundleError):
    """Files do not match their receipt or manifest; they must not be used."""

    exit_code = 3
