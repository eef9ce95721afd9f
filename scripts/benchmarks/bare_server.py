"""Expose a file by the least that pyfuse3 can do, which is what every server written with it costs at least.

``python -m scripts.benchmarks.bare_server BACKING MOUNTPOINT`` serves BACKING as MOUNTPOINT/image: stock pyfuse3 with
its default options and number of workers, ``direct_io``, and nothing but one system call on the backing file for each
request.  Runs in the foreground, prints ``ready`` once mounted, ends on SIGTERM, SIGINT or unmount.
"""

from __future__ import annotations

import os
import sys

import pyfuse3

from scripts.benchmarks.one_file import OneFile, serve


class BareServer(OneFile):
    """One system call for each request."""

    def __init__(self, backing: int) -> None:
        super().__init__(b"image", backing)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Read."""
        return os.pread(self._backing, size, off)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Write."""
        return os.pwrite(self._backing, buf, off)

    async def fsync(self, fh: int, datasync: bool) -> None:
        """Make durable."""
        os.fdatasync(self._backing)


def main(arguments: list[str]) -> None:
    """Mount, serve and unmount."""
    if len(arguments) != 2:
        sys.exit("usage: bare_server.py BACKING MOUNTPOINT")
    serve(BareServer, *arguments, options=pyfuse3.default_options)


if __name__ == "__main__":
    main(sys.argv[1:])
