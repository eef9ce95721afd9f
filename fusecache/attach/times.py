"""With which times the image begins, when it is mounted.

What must hold: the image never looks older than what is in it, or whoever saves it keeps a stale copy and hears nothing
of it.  What is wanted besides: it does not look newer than its last write, or everything is copied again.

*After a clean end* the times are recorded.  They hold if the origin is as it was left: since then nobody but us has
written to it, and a writeback changes no byte of the image.

*After any other end* nobody knows when the image was written last.  So it has the time of this mount.

*Of an origin that others have changed* its own times tell.  If newer blocks wait in the cache, the later times count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusecache.metadata import ImageTimes

if TYPE_CHECKING:
    from fusecache.metadata import Superblock


def times_at_mount(
    recorded: Superblock | None, own: ImageTimes | None, *, unchanged: bool, newer: bool, now_ns: int
) -> ImageTimes:
    """Choose the times of an image that is about to be mounted.

    :param recorded: what the metadata says; None if there is none yet.
    :param own: the origin's; None if it has none that mean anything.
    :param unchanged: whether the origin is as it was left.
    :param newer: whether the cache has what the origin lacks, or may have it.
    :param now_ns: the time now, in nanoseconds since 1970.
    """
    now = ImageTimes(now_ns, now_ns)
    origins = own or now
    if recorded is None:
        return origins
    if not recorded.clean_shutdown:
        return now
    if not recorded.image_times:  # an older version of fusecache recorded none
        return now if newer else origins
    last = ImageTimes.unpack(recorded.image_times, recorded.generation)
    if last is None:
        return now
    if unchanged:
        return last
    return origins.later(last) if newer else origins
