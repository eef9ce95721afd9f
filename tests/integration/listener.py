"""``fusecache`` that tells how large requests are: ``python -m tests.integration.listener FILE mount ...``.

FILE has two numbers: bytes of the largest read and of the largest write so far.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fusecache.cli import main
from fusecache.datapath.reading import Reader
from fusecache.datapath.writing import Writer


def listen(file: Path) -> None:
    """Note the size of each request before it is served."""
    largest = {"read": 0, "write": 0}
    read, write = Reader.read, Writer.write

    def note(kind: str, size: int) -> None:
        if size > largest[kind]:
            largest[kind] = size
            file.write_text(f"{largest['read']} {largest['write']}")

    async def noted_read(self: Reader, offset: int, length: int) -> Any:
        note("read", length)
        return await read(self, offset, length)

    async def noted_write(self: Writer, offset: int, data: Any) -> int:
        note("write", len(data))
        return await write(self, offset, data)

    Reader.read = noted_read  # type: ignore[method-assign]
    Writer.write = noted_write  # type: ignore[method-assign]


if __name__ == "__main__":
    listen(Path(sys.argv.pop(1)).absolute())
    main()
