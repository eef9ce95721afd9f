"""``fusecache`` that tells how large requests are: ``python -m tests.integration.listener FILE mount ...``.

FILE has two numbers: bytes of the largest read and of the largest write so far.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fusecache.cli import main
from fusecache.frontends.fuse.operations import Operations


def listen(file: Path) -> None:
    """Note the size of each request before it is served."""
    largest = {"read": 0, "write": 0}
    read, write = Operations.read, Operations.write

    def note(kind: str, size: int) -> None:
        if size > largest[kind]:
            largest[kind] = size
            file.write_text(f"{largest['read']} {largest['write']}")

    async def noted_read(self: Operations, fh: Any, off: int, size: int) -> Any:
        note("read", size)
        return await read(self, fh, off, size)

    async def noted_write(self: Operations, fh: Any, off: int, buf: bytes) -> int:
        note("write", len(buf))
        return await write(self, fh, off, buf)

    Operations.read = noted_read  # type: ignore[method-assign]
    Operations.write = noted_write  # type: ignore[method-assign]


if __name__ == "__main__":
    listen(Path(sys.argv.pop(1)).absolute())
    main()
