"""Block devices by their numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from fusecache.errors import UsageError

DEVICES: Final = Path("/sys/dev/block")
NAMES: Final = Path("/dev")
_NAME: Final = re.compile(r"^DEVNAME=(.+)$", re.MULTILINE)


def device_path(numbers: str) -> str:
    """Return the path of the block device ``MAJOR:MINOR``: of those of the device mapper, by the name that lasts.

    :raises UsageError: there is no such device.
    """
    entry = DEVICES / ":".join(str(int(number)) for number in numbers.split(":"))
    mapped = NAMES / "mapper" / _read(entry / "dm" / "name")
    if _read(entry / "dm" / "name") and mapped.exists():
        return str(mapped)
    if (found := _NAME.search(_read(entry / "uevent"))) is None:
        msg = f"there is no block device {numbers} here: write its path, or a file's"
        raise UsageError(msg)
    return str(NAMES / found[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
