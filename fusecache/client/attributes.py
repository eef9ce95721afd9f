"""The extended attributes of a mount's image, as its commands see them."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from fusecache.linux import Mounted, mounted_at

if TYPE_CHECKING:
    from pathlib import Path

_KIND: Final = "fuse.fusecache"
"""What the kernel says of mounts of ours."""
_IMAGE: Final = "image"


def own_mount_at(path: Path) -> Mounted | None:
    """Return the mount of ours that is right at a path; None if there is none."""
    mounted = mounted_at(path)
    return mounted if mounted is not None and mounted.kind == _KIND else None


def mountpoint_of(path: Path) -> Path:
    """Return the mountpoint that a user means, who may have named the image in it."""
    if own_mount_at(path) is not None:
        return path
    target = path.absolute()
    if path.name != _IMAGE:  # a link to it, perhaps; the image itself is not looked at, its file system may be dead
        with suppress(OSError):
            target = target.parent / path.readlink()
    return target.parent if target.name == _IMAGE and own_mount_at(target.parent) is not None else path


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
        self._image = mountpoint / _IMAGE

    def get(self, name: str) -> str:
        """Read one."""
        self._require_mount()
        return os.fsdecode(os.getxattr(self._image, f"user.fusecache.{name}"))

    def set(self, name: str, value: str) -> None:
        """Set one."""
        self._require_mount()
        os.setxattr(self._image, f"user.fusecache.{name}", os.fsencode(value))

    def _require_mount(self) -> None:
        if own_mount_at(self._mountpoint) is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
