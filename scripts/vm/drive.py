"""Print how QEMU uses the image of a mount best (``-drive``): requests side by side, and nothing cached twice.

Where the host's page cache is to hold the image (``--page-cache image``), QEMU goes through it (``cache=writeback``;
the guest's flushes are passed on), else past it (``cache=none``).  ``aio`` is io_uring, else Linux's native AIO: with
threads, writes would wait for each other.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from fusecache.linux import mounted_at

STATS: Final = "user.fusecache.stats"


def drive(image: Path) -> str:
    """Return the option for the image of a mount; raises OSError if it is none."""
    page_cache = json.loads(os.getxattr(image, STATS))["page_cache"]
    cache = "writeback" if page_cache == "image" else "none"
    file = str(image.absolute()).replace(",", ",,")
    return f"file={file},format=raw,if=virtio,cache={cache},aio={_aio(image, cache)}"


def _aio(image: Path, cache: str) -> str:
    """Choose what this QEMU and this kernel can do."""
    fallbacks = {"none": ["native"], "writeback": []}
    for aio in ["io_uring", *fallbacks[cache]]:
        probe = ["qemu-io", "-r", "-f", "raw", "-t", cache, "-i", aio, "-c", "read 0 512", str(image)]
        result = subprocess.run(probe, capture_output=True, text=True, check=False)
        if not result.returncode and "failed" not in result.stdout + result.stderr:
            return aio
    return "threads"


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(prog="qemu-drive", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("place", metavar="MOUNTPOINT|IMAGE", type=Path)
    place = parser.parse_args().place
    try:
        print(drive(place / "image" if place.is_dir() else place))
    except OSError as exc:
        mounted = mounted_at(place) or mounted_at(place.parent)
        if exc.errno == errno.EACCES and mounted is not None and mounted.user != os.geteuid():
            sys.exit(
                f"qemu-drive: {place} was mounted by user {mounted.user}, and nobody else may look into it, root "
                "included: ask as that user, or mount it with -o allow_root or allow_other"
            )
        sys.exit(f"qemu-drive: {place} is not the image of a mount ({exc.strerror})")


if __name__ == "__main__":
    main()
