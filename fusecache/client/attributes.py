"""The extended attributes of a mount's image, as its commands see them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, Protocol

from fusecache.linux import mounted_at

if TYPE_CHECKING:
    from pathlib import Path

_KIND: Final = "fuse.fusecache"
"""What the kernel says of mounts of ours."""


class Attributes(Protocol):
    """The extended attributes of a mount's image, without their prefix; both raise OSError."""

    def get(self, name: str) -> str:
        """Read one."""

    def set(self, name: str, value: str) -> None:
        """Set one; returns when the daemon has done what that means."""


class ImageAttributes:
    """Those of a real image; any other file may have such attributes, too, and they say nothing."""

    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint
        self._image = mountpoint / "image"

    def get(self, name: str) -> str:
        """Read one."""
        self._require_mount()
        return os.fsdecode(os.getxattr(self._image, f"user.fusecache.{name}"))

    def set(self, name: str, value: str) -> None:
        """Set one."""
        self._require_mount()
        os.setxattr(self._image, f"user.fusecache.{name}", os.fsencode(value))

    def _require_mount(self) -> None:
        mounted = mounted_at(self._mountpoint)
        if mounted is None or mounted.kind != _KIND:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
