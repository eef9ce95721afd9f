"""Which origin, cache and metadata belong together; opening, recovering and resizing them."""

from fusecache.attach.binding import Binding, Plan, identify, lock
from fusecache.attach.claim import read_claim
from fusecache.attach.inspection import inspect
from fusecache.attach.recovery import DamagedRowError, hint_signature, recover
from fusecache.attach.stamp import DAMAGED, DATA_START, read_stamp, write_stamp

__all__ = [
    "DAMAGED",
    "DATA_START",
    "Binding",
    "DamagedRowError",
    "Plan",
    "hint_signature",
    "identify",
    "inspect",
    "lock",
    "read_claim",
    "read_stamp",
    "recover",
    "write_stamp",
]
