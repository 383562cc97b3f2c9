"""The exceptions of the project: one tree, the same locally and remotely."""

from __future__ import annotations


class CassError(Exception):
    """Base of every error this project raises on purpose."""


class InputWarning(UserWarning):
    """Input that can be used but is probably not what was meant; each kind is shown once."""


class InvalidRequest(CassError, ValueError):
    """An argument that cannot be used, named by its field.

    Attributes:
        field: path of the argument, for example ``boxes[3][1].x2`` or ``mask_spec.patch_size``.
        reason: what is wrong with it, a clause without a full stop.

    Example:
        >>> str(InvalidRequest("boxes[3][1].x2", "is smaller than x1"))
        'boxes[3][1].x2: is smaller than x1'
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type[InvalidRequest], tuple[str, str]]:
        # The default would call __init__ with the joined message; workers pickle their errors.
        return type(self), (self.field, self.reason)
