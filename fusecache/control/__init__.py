"""What can be asked of a running mount and changed in it, by name."""

from fusecache.control.control import Control
from fusecache.control.facts import MountFacts

__all__ = [
    "Control",
    "MountFacts",
]
