"""Options as mount(8) and fstab(5) write them: what is for us, what is for FUSE, and what is for neither.

A line of ``/etc/fstab`` reaches a mount helper with most of its words, also those by which systemd and ``mount -a``
know when to mount it and who may.  FUSE refuses what it does not know; so these words are taken out here, and mean
nothing to a mount that was asked for already.  So do those about times that FUSE has no word for: reading the image
changes no time of it.  Where the cache is has no other place in such a line, so ``cache=``, ``cache_size=`` and
``metadata=`` may stand there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from fusecache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_ACCESS: Final = ("ro", "rw")
_FOR_OTHERS: Final = frozenset(
    "_netdev auto defaults fail group noauto nofail nogroup noowner nouser nousers owner user users".split()  # noqa: SIM905
)
_ABOUT_TIMES: Final = frozenset(
    "diratime iversion lazytime nodiratime noiversion nolazytime norelatime nostrictatime relatime strictatime".split()  # noqa: SIM905
)
_PLACES: Final = ("cache", "cache_size", "metadata")
_PREFIXES: Final = ("x-", "X-", "comment=", "helper=", "uhelper=", "user=")


class FuseOptions(NamedTuple):
    """What ``-o`` said."""

    options: tuple[str, ...]
    """Those for FUSE, in the order given."""
    read_only: bool
    """Whether nothing is to be written to the origin; the last of ``ro`` and ``rw`` counts, as in mount(8)."""
    cache: Path | None = None
    cache_size: str | None = None
    metadata: Path | None = None
    """As the options of these names; the last one counts."""


def parse_fuse_options(texts: Iterable[str]) -> FuseOptions:
    """Read the values of ``-o``, each of which has words with commas between them.

    :raises UsageError: an option by which our own commands would not know the mount any more.
    """
    words = [word for text in texts for part in text.split(",") if (word := part.strip())]
    access = [word for word in words if word in _ACCESS]
    places = {
        name: value for name, is_told, value in (word.partition("=") for word in words) if name in _PLACES and is_told
    }
    fuse = [word for word in words if not (word in _ACCESS or _is_for_others(word) or word.partition("=")[0] in places)]
    for name, value in places.items():
        if not value:
            msg = f"-o {name}= says nothing"
            raise UsageError(msg)
    for word in fuse:
        if word.startswith("subtype="):
            msg = f"-o {word}: fusecache's commands know its mounts by their type, fuse.fusecache, so that has to stay"
            raise UsageError(msg)
    return FuseOptions(
        tuple(fuse),
        access[-1:] == ["ro"],
        cache=Path(places["cache"]) if "cache" in places else None,
        cache_size=places.get("cache_size"),
        metadata=Path(places["metadata"]) if "metadata" in places else None,
    )


def _is_for_others(word: str) -> bool:
    return word in _FOR_OTHERS or word in _ABOUT_TIMES or word.startswith(_PREFIXES)
