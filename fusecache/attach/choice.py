"""Which kind of origin an address means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusecache.attach.file_origin import FileLocation
from fusecache.paths import scheme_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusecache.attach.origin import Location

KINDS: Final[dict[str, Callable[[str], Location]]] = {}
"""By the scheme of a URL (:data:`fusecache.paths.SCHEMES`), what makes a location of it."""


def locate(address: str) -> Location:
    """Return the location of an origin that the user named; nothing was looked at but links in a path.

    :raises OSError: a path that leads nowhere.
    :raises RuntimeError: a symbolic link to itself.
    """
    return KINDS.get(scheme_of(address), FileLocation.of)(address)
