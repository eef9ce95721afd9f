"""Which origin, cache and metadata belong together; opening, recovering and resizing them.

A mount goes through three steps: :func:`inspect` looks and locks, the :class:`Plan` that it returns says what will be
used and made, and carrying that out gives the :class:`Binding`.
"""

from fusecache.attach.binding import Binding
from fusecache.attach.cache_file import changed_at
from fusecache.attach.choice import locate
from fusecache.attach.inspection import inspect
from fusecache.attach.lease import hold, lock
from fusecache.attach.origin import Location, Origin, Strengths
from fusecache.attach.plan import Plan
from fusecache.attach.recovery import DamagedRowError, hint_signature, recover
from fusecache.attach.stamp import DAMAGED, DATA_START, read_stamp, write_stamp

__all__ = [
    "DAMAGED",
    "DATA_START",
    "Binding",
    "DamagedRowError",
    "Location",
    "Origin",
    "Plan",
    "Strengths",
    "changed_at",
    "hint_signature",
    "hold",
    "inspect",
    "locate",
    "lock",
    "read_stamp",
    "recover",
    "write_stamp",
]
