"""Long work with progress."""

from fusecache.jobs.changes import Changes
from fusecache.jobs.evacuation import evacuate
from fusecache.jobs.flush import Flusher
from fusecache.jobs.job import Job
from fusecache.jobs.scrub import Scrub
from fusecache.jobs.table import Jobs

__all__ = [
    "Changes",
    "Flusher",
    "Job",
    "Jobs",
    "Scrub",
    "evacuate",
]
