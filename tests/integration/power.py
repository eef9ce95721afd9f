"""A power supply with a switch: files on a disk that forgets, at a cut, what was not synced.

Theory of operation
-------------------
:class:`Power` serves the directories of a *medium* through FUSE; the server (:mod:`tests.integration.volatile_server`)
is a process of its own.  Writes stay in that process until their file is synced.  :meth:`Power.cut` leaves on the
medium any subset of those that were not (:mod:`tests.integration.volatile_disk` says which) and takes the whole file
system away; :meth:`Power.on` serves again from what is on the medium, with nothing in the kernel's page cache.

Who used the files has to be killed before the cut: what it did by then is what it did at all, so that is the moment at
which the power failed.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from tests.integration.mounts import discard_mount, is_mounted, run, wait_until

_ROOT = Path(__file__).parents[2]


class Power:
    """A medium, and where it is served while the power is on.

    :param directory: a place of its own; ``medium`` and ``disks`` are made there.
    :param names: the directories on the medium.
    """

    def __init__(self, directory: Path, *names: str) -> None:
        self.medium = directory / "medium"
        self.disks = directory / "disks"
        """Where the medium's directories appear while the power is on."""
        for name in names:
            (self.medium / name).mkdir(parents=True)
        self.disks.mkdir()
        self._server: subprocess.Popen[str] | None = None

    def on(self) -> None:
        """Serve what is on the medium."""
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.volatile_server", self.medium, self.disks],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"

    def cut(self, seed: int) -> None:
        """Lose what was not synced, as this seed will have it."""
        assert self._server is not None
        self._server.communicate(str(seed), timeout=30)
        assert self._server.returncode == 0
        self._server = None
        run("fusermount3", "-uz", self.disks)
        wait_until(lambda: not is_mounted(self.disks), f"{self.disks} is free")

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._server is not None:
            self._server.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.communicate(timeout=10)
        discard_mount(self.disks)
