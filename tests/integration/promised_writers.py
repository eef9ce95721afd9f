"""Threads that write past the page cache, and remember what they were promised; a program, so that it can be given up.

Usage: promised_writers.py IMAGE THREADS PLACES STOP.  It writes until the file STOP is there, reads everything back,
and prints one JSON object: places acknowledged, those that read differently, errors, and the longest write in seconds.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import struct
import sys
import threading
import time
from pathlib import Path

SIZE = 4096


class Promised:
    """What one thread was promised; places belong to one thread each."""

    def __init__(self, image: str, number: int, threads: int, places: int, stop: Path) -> None:
        self.acknowledged: dict[int, bytes] = {}
        self.wrong: list[int] = []
        self.errors: list[str] = []
        self.longest = 0.0
        self._fd = os.open(image, os.O_RDWR | os.O_DIRECT)
        self._places = [place * SIZE for place in range(number, places, threads)]
        self._random = random.Random(number)
        self._stop = stop
        self._memory = mmap.mmap(-1, SIZE)

    def run(self) -> None:
        """Write, read back now and then, and in the end all of it."""
        try:
            turn = 0
            while not self._stop.exists():
                turn += 1
                self._write(self._random.choice(self._places), turn)
                if turn % 3 == 0:
                    self._read(self._random.choice(list(self.acknowledged)))
                if turn % 50 == 0:
                    os.fsync(self._fd)
            for place in self.acknowledged:
                self._read(place)
        except OSError as exc:
            self.errors.append(str(exc))

    def _write(self, place: int, turn: int) -> None:
        content = struct.pack("<QQ", place, turn) * (SIZE // 16)
        self._memory[:] = content
        began = time.monotonic()
        if os.pwritev(self._fd, [self._memory], place) != SIZE:
            self.errors.append(f"a short write at {place}")
        self.longest = max(self.longest, time.monotonic() - began)
        self.acknowledged[place] = content

    def _read(self, place: int) -> None:
        if os.preadv(self._fd, [self._memory], place) != SIZE or self._memory[:] != self.acknowledged[place]:
            self.wrong.append(place)


def main() -> None:
    """Do what the module's docstring says."""
    image, threads, places, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    writers = [Promised(image, number, threads, places, stop) for number in range(threads)]
    running = [threading.Thread(target=writer.run) for writer in writers]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    result = {
        "places": sum(len(writer.acknowledged) for writer in writers),
        "wrong": [place for writer in writers for place in writer.wrong],
        "errors": [error for writer in writers for error in writer.errors],
        "longest": max(writer.longest for writer in writers),
    }
    print(json.dumps(result))  # noqa: T201 - a program's result


if __name__ == "__main__":
    main()
