"""Whose the image is, and who may do what with it.

Theory of operation
-------------------
Two things are kept apart.  *The image* belongs to the user and the group that the mount was told, with the mode that
it was told; its owner can change that, and the kernel sees to it that nobody else does (``default_permissions``).  *The
mount* belongs to whoever runs the daemon, and its controls with it.  So root can mount a disk for a virtual machine
that runs as another user: that user has the data, and neither mode nor policy.

Bits beyond reading, writing and executing are refused: a disk is no program that runs as somebody else.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fusecache.config import Ownership

ROOT_UID: Final = 0
PERMISSIONS: Final = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO
_IMAGE: Final = 0o600
_DIRECTORY: Final = 0o755
_ALL_OF_AN_IMAGE: Final = 0o666


def modes(wanted: Ownership) -> tuple[int, int]:
    """Return the permissions of the image and of its directory."""
    if wanted.umask is not None:
        return _ALL_OF_AN_IMAGE & ~wanted.umask, _DIRECTORY & ~wanted.umask
    return _IMAGE if wanted.mode is None else wanted.mode, _DIRECTORY


def may_control(uid: int, *, daemon: int) -> bool:
    """Tell whether a user may change what the mount does.

    :param daemon: who runs it.
    """
    return uid in {ROOT_UID, daemon}


def is_permitted_mode(mode: int) -> bool:
    """Tell whether a file may get this mode."""
    return not stat.S_IMODE(mode) & ~PERMISSIONS
