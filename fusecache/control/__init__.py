"""What can be asked of a running mount and changed in it, by name."""

from fusecache.control.control import Control
from fusecache.control.facts import MountFacts, Survival
from fusecache.control.status import Status

__all__ = [
    "Control",
    "MountFacts",
    "Status",
    "Survival",
]
