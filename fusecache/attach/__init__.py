"""Which origin, cache and metadata belong together; opening, recovering and resizing them.

A mount goes through three steps: :func:`inspect` looks and locks, the :class:`Plan` that it returns says what will be
used and made, and carrying that out gives the :class:`Binding`.
"""

from fusecache.attach.agreement import (
    DisagreementError,
    Verdict,
    judge_origin,
    require_no_other_claim,
    require_one_moment,
    require_same_origin,
    shows_in_content_only,
)
from fusecache.attach.binding import Binding
from fusecache.attach.bond import Bond, require_same_generation
from fusecache.attach.cache_file import changed_at
from fusecache.attach.choice import locate
from fusecache.attach.claim import Claim
from fusecache.attach.claims import Claims
from fusecache.attach.findings import held_against, look_at_origin
from fusecache.attach.generation import ANY, fits, is_claim_accepted
from fusecache.attach.inspection import inspect
from fusecache.attach.lease import hold, lock
from fusecache.attach.origin import Location, Origin, Space, Strengths
from fusecache.attach.places import default_places, metadata_beside
from fusecache.attach.plan import Plan
from fusecache.attach.recovery import DamagedRowError, hint_signature, policy_values, recover, remember
from fusecache.attach.stamp import DAMAGED, DATA_START, Stamp, read_stamp, write_stamp

__all__ = [
    "ANY",
    "DAMAGED",
    "DATA_START",
    "Binding",
    "Bond",
    "Claim",
    "Claims",
    "DamagedRowError",
    "DisagreementError",
    "Location",
    "Origin",
    "Plan",
    "Space",
    "Stamp",
    "Strengths",
    "Verdict",
    "changed_at",
    "default_places",
    "fits",
    "held_against",
    "hint_signature",
    "hold",
    "inspect",
    "is_claim_accepted",
    "judge_origin",
    "locate",
    "lock",
    "look_at_origin",
    "metadata_beside",
    "policy_values",
    "read_stamp",
    "recover",
    "remember",
    "require_no_other_claim",
    "require_one_moment",
    "require_same_generation",
    "require_same_origin",
    "shows_in_content_only",
    "write_stamp",
]
