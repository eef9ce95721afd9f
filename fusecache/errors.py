"""What can go wrong, in the words of this house; only the front ends turn these into errno values."""

from __future__ import annotations


class FusecacheError(Exception):
    """Anything that fusecache refuses or fails to do; the message is one clear line for the user."""


class UsageError(FusecacheError):
    """What was asked makes no sense; nothing was changed.  Exit code 2 on the command line, EINVAL in the mount."""


class RefusedError(FusecacheError):
    """What was asked makes sense but is not safe or not possible now; nothing was changed."""


class InvalidError(RefusedError):
    """A value that cannot be: an unknown policy or tunable, a number out of range.  EINVAL in the mount."""


class BusyError(RefusedError):
    """Somebody else uses it: a lock, a mountpoint, a block."""

    holder = ""
    """Who, if that is known."""


class UntrustedError(RefusedError):
    """A file that others may have made, or may change; nothing of it was read."""


class ReadOnlyError(RefusedError):
    """The image can only be read: the metadata cannot be written any more, or the origin never.  EROFS in the mount."""


class StoreError(FusecacheError):
    """Reading, writing or flushing a store failed."""


class MetadataError(FusecacheError):
    """The metadata is unreadable, foreign, damaged, or could not be written."""


class OutOfRangeError(FusecacheError):
    """A request lies beyond the end of the image."""


class UnknownKeyError(UsageError):
    """There is no attribute or message of that name."""


class ReadOnlyKeyError(RefusedError):
    """The attribute can be read but not set."""
