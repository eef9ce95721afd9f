"""Long work with progress."""

from fusecache.jobs.evacuation import evacuate
from fusecache.jobs.flush import Flusher
from fusecache.jobs.scrub import Scrub
from fusecache.jobs.switching import drop_all, switch_mode, switch_policy

__all__ = [
    "Flusher",
    "Scrub",
    "drop_all",
    "evacuate",
    "switch_mode",
    "switch_policy",
]
