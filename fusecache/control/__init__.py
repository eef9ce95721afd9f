"""What can be asked of a running mount and changed in it, by name."""

from fusecache.control.control import Control, new_policy

__all__ = [
    "Control",
    "new_policy",
]
