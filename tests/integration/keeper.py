"""A keeper of files that remembers, outside their file system, what it was promised.

A :class:`Keeper` replaces files again and again, the way careful programs do: write a new one, fsync it, rename it
over the old one, fsync the directory.  A file's content tells its name and version, with a checksum.  After a crash
each file must be there in a version from the last one acknowledged to the last one issued.  In between, the keeper
makes and removes other files that it never syncs.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import zlib
from pathlib import Path

from tests.integration.mounts import wait_until

_HEADER = 40


class Keeper:
    """Replaces files in a directory until its disk fails, and remembers what it was promised."""

    def __init__(self, directory: Path, files: int, *, seed: int) -> None:
        self.issued = [0] * files
        self.acknowledged = [0] * files
        self.syncs = 0
        self._directory = directory
        self._random = random.Random(seed)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to work."""
        self._stopped.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """End after the next file, with nothing open."""
        self._stopped.set()
        self.join()

    def join(self) -> None:
        """Wait until it was stopped, or met the end of its disk."""
        assert self._thread is not None
        self._thread.join(60)
        assert not self._thread.is_alive(), "a request to a dead disk hangs"

    def wait_for_syncs(self, count: int) -> None:
        """Wait until so many more files were acknowledged."""
        goal = self.syncs + count
        wait_until(lambda: self.syncs >= goal, f"{count} more files are written")

    def judge(self) -> None:
        """Hold what is found against the promises; then take it for what was acknowledged."""
        for number in range(len(self.issued)):
            low, high = self.acknowledged[number], self.issued[number]
            found = self._version(number)
            assert low <= found <= high, f"file {number}: version {found}, promised {low}..{high}"
            self.acknowledged[number] = found

    def _version(self, number: int) -> int:
        try:
            data = self._path(number).read_bytes()
        except FileNotFoundError:
            return 0
        version = int(data[11:21] or b"0")
        assert data == self._content(number, version), f"file {number} is damaged (says it is version {version})"
        return version

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # that is how it ends: the disk is gone
            while not self._stopped.is_set():
                self._make_noise()
                self._replace(self._random.randrange(len(self.issued)))

    def _replace(self, number: int) -> None:
        version = self.issued[number] = self.issued[number] + 1
        draft = self._directory / f"{number}.new"
        with draft.open("wb") as file:
            file.write(self._content(number, version))
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self._path(number))
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self.acknowledged[number] = version
        self.syncs += 1

    def _make_noise(self) -> None:
        noise = self._directory / f"noise-{self._random.randrange(20)}"
        if self._random.random() < 0.5:
            noise.write_bytes(bytes(self._random.randrange(60_000)))
        else:
            noise.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._directory / f"file-{number}"

    @staticmethod
    def _content(number: int, version: int) -> bytes:
        rng = random.Random(f"{number} {version}")
        body = rng.randbytes(rng.randrange(1, 30_000))
        return (b"%010d %010d %010d" % (number, version, zlib.crc32(body))).ljust(_HEADER) + body
