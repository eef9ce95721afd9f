"""Which origin, cache and metadata belong together; opening, recovering and resizing them."""

from fusecache.attach.binding import Binding, Identity, Plan, lock
from fusecache.attach.claim import read_claim
from fusecache.attach.inspection import NUMBER, NUMBERS, inspect
from fusecache.attach.recovery import DamagedRowError, hint_signature, recover
from fusecache.attach.stamp import DAMAGED, DATA_START, read_stamp, write_stamp

__all__ = [
    "DAMAGED",
    "DATA_START",
    "NUMBER",
    "NUMBERS",
    "Binding",
    "DamagedRowError",
    "Identity",
    "Plan",
    "hint_signature",
    "inspect",
    "lock",
    "read_claim",
    "read_stamp",
    "recover",
    "write_stamp",
]
