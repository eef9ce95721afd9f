"""Whether the origin is the one that is cached, and its content still what it was: each sign is asked.

Theory of operation
-------------------
Four kinds of signs are held against what the metadata recorded, and each disagreement counts:

*Which origin it is*: its signs (:mod:`fusecache.metadata.identity`), or, where it has none, its address or place and
the label of its content.  Another one is refused.

*Its claim*: ours, and of our generation (:mod:`fusecache.attach.bond`).  One that is gone, or another cache's, shows
that the origin was replaced, or was written without us.  Another's that is not disproved is refused whatever we have.

*Its content*: the sums of some clean blocks, which are the origin's own.  After a crash, too, a clean block is what the
origin durably has.

*Its version and marks*, after a clean end only: after a crash the last writes may have been ours.  Whoever sets the
version back, as those do who copy a golden image over it, still *touches* the origin.  So does a change of its owner,
so that is no reason to refuse anything; but the clean blocks are dropped then, too.

Where the origin has changed, the clean blocks are stale, and are dropped.  But if there are newer blocks in the cache,
nobody can say which of the two has to give way, and the mount is refused.  The one exception is an origin that has
grown, and is the same as far as it went: that explains the change.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from fusecache.attach.generation import is_claim_accepted
from fusecache.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusecache.attach.claim import Claim
    from fusecache.metadata import Identity, Superblock


class Verdict(Enum):
    """What is to be made of the clean blocks."""

    SAME = "same"
    """They are what the origin has."""
    CHANGED = "changed"
    """They may be stale."""
    TOUCHED = "touched"
    """They may be stale, for all that can be said; newer blocks are as good as they were."""
    GROWN = "grown"
    """As before, because the origin was made longer; newer blocks are as good as they were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found at an origin and its cache."""

    now: Identity
    claim: Claim | None
    newer: int
    """Blocks in the cache that the origin lacks, or may lack."""
    compared: int
    """Clean blocks whose sums were held against the origin."""
    differing: int
    """Those among them that are not what the origin has."""
    is_disproved: Callable[[Claim], bool]
    """Finds out whether another cache's claim is void."""


class DisagreementError(RefusedError):
    """Origin, cache and metadata do not belong together as they are.

    :ivar what: what was found.
    :ivar meaning: what that means for the data, and what can be done.
    :ivar command: what can be typed next without harm.
    :ivar in_content_only: whether nothing but the sums of blocks shows it: some of the origin may have rotted.
    """

    def __init__(self, what: str, meaning: str, command: str, *, in_content_only: bool = False) -> None:
        super().__init__(f"{what}: {meaning} (next: `{command}`)")
        self.what = what
        self.meaning = meaning
        self.command = command
        self.in_content_only = in_content_only


def judge_origin(recorded: Superblock, found: Findings, *, arguments: str) -> Verdict:
    """Hold what was found against the record.

    :param arguments: those by which a command is told the same files.
    :raises DisagreementError: why the mount must not be, and what to do.
    """
    require_same_origin(recorded, found.now, arguments=arguments)
    require_no_other_claim(recorded.uuid, found.claim, now=found.now, is_disproved=found.is_disproved)
    require_one_moment(recorded, found.claim)
    reason = _change(recorded, found)
    if not reason:
        was_touched = recorded.clean_shutdown and found.now.was_touched_since(recorded.origin)
        return Verdict.TOUCHED if was_touched else Verdict.SAME
    if recorded.clean_shutdown and _has_only_grown(recorded, found):
        return Verdict.GROWN
    if found.newer:
        what = (
            f"origin {found.now.address} was changed by others while {found.newer} newer blocks of it are in the cache "
            f"({reason})"
        )
        meaning = (
            f"one of the two has to give way: `fusecache writeback --force {arguments}` writes these blocks over the "
            "origin, `mount --format --format` throws them away; keep a copy of the origin before"
        )
        raise DisagreementError(
            what, meaning, f"fusecache check --data {arguments}", in_content_only=shows_in_content_only(recorded, found)
        )
    return Verdict.CHANGED


def shows_in_content_only(recorded: Superblock, found: Findings) -> bool:
    """Tell whether the origin has changed, and sums of its content alone show that, which its time would have shown.

    Where there is no such time, a change of its marks is others' work, and nothing that has rotted.
    """
    now, before = found.now, recorded.origin
    would_show = now.can_tell_since(before)
    as_before = replace(found, differing=0, now=replace(now, marks=before.marks) if would_show else now)
    return bool(_change(recorded, found)) and not _change(recorded, as_before)


def require_same_origin(recorded: Superblock, now: Identity, *, arguments: str) -> None:
    """Refuse an origin that is not the one that is cached; raises DisagreementError."""
    cached = recorded.origin
    reasons = now.other_signs_than(cached)
    if not reasons and not now.is_known_by_signs(cached):
        if not now.is_where_it_was(cached):
            reasons = [f"that was {cached.address}"]
        elif cached.label and now.label != cached.label:
            reasons = [f"what is on it is {now.label or 'not known'}, not {cached.label}"]
    if reasons:
        other = "which was at the same place" if cached.address == now.address else cached.address
        what = f"the cache belongs to another origin, {other}, not to {now.address} ({reasons[0]})"
        meaning = (
            "in front of this one it would show the blocks of that one, and write them back; if this is a copy of that "
            "one, or that one moved or restored, the cache can be bound to it once what is cached was found to agree"
        )
        raise DisagreementError(what, meaning, f"fusecache adopt {arguments}")


def require_no_other_claim(
    uuid: str,
    claim: Claim | None,
    *,
    now: Identity,
    is_disproved: Callable[[Claim], bool],
    last_cache: Callable[[Claim], str] = lambda _: "",
) -> None:
    """Refuse an origin whose newest data may be in another cache; raises DisagreementError.

    :param uuid: of our own cache; nothing if it is to be made.
    :param is_disproved: finds out whether another cache's claim is void.
    :param last_cache: finds out where that other cache was, if that can be told.
    """
    if claim is not None and claim.uuid != uuid and not is_disproved(claim):
        last = (cache := last_cache(claim)) and f"last used: {cache}; "
        what = f"newer data of origin {now.address} may be in the cache that metadata {claim} describes"
        meaning = (
            f"mount it with that one ({last}if its disk is not mounted, mount that first), or give that data up with "
            "--format twice"
        )
        raise DisagreementError(what, meaning, shlex.join(["fusecache", "check", "--metadata", claim.metadata]))


def require_one_moment(recorded: Superblock, claim: Claim | None) -> None:
    """Refuse metadata that is older than a claim of its own cache, by which something is dirty.

    :raises DisagreementError: with what is of which generation.
    """
    if claim is None or claim.uuid != recorded.uuid or claim.clean or is_claim_accepted(claim.generation, recorded):
        return
    what = (
        f"metadata of generation {recorded.generation or 'none'} does not fit the note on the origin, which is of "
        f"generation {claim.generation or 'none'} (metadata {claim})"
    )
    meaning = (
        "one of the two is an older copy; bring the one of the same generation back, or throw away what the cache "
        "holds with --format twice"
    )
    raise DisagreementError(what, meaning, shlex.join(["fusecache", "check", "--metadata", claim.metadata]))


def _change(recorded: Superblock, found: Findings) -> str:
    """Say what shows that the origin has changed without us; nothing if nothing does."""
    claim = found.claim
    if recorded.origin_claimed and claim is None:
        return "the note that fusecache left on it is gone"
    if claim is not None and claim.uuid != recorded.uuid:
        return "another cache was in front of it"
    if claim is not None and not is_claim_accepted(claim.generation, recorded):
        return (
            f"its note is of generation {claim.generation or 'none'}, the metadata of "
            f"{recorded.generation or 'none'}: one of the two is an older copy"
        )
    if found.differing:
        return f"{found.differing} of {found.compared} clean blocks that were compared are not what it has"
    if recorded.clean_shutdown and found.now.has_changed_since(recorded.origin):
        return "it was written after the last mount"
    return ""


def _has_only_grown(recorded: Superblock, found: Findings) -> bool:
    """Tell whether growing it explains every difference."""
    claim, before = found.claim, recorded.origin
    claim_agrees = not recorded.origin_claimed or (
        claim is not None and claim.uuid == recorded.uuid and is_claim_accepted(claim.generation, recorded)
    )
    marks_agree = not before.marks or not found.now.marks or before.marks == found.now.marks
    return found.now.has_grown_since(before) and claim_agrees and marks_agree and not found.differing
