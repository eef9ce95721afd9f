"""How long a virtual machine takes to boot: from a fast disk, from a slow one, and with fusecache in front of that.

The guest reads a few hundred files in an order of their own, as a system does that starts its programs, and writes a
little.  Times are from the start of QEMU until the guest has powered off.  The slow disk is simulated, and counts what
reaches it (see ``scripts/benchmarks/slow_disk.py``).  Between the first and the second boot fusecache is unmounted and
mounted again, so that what the second one finds is what lies in the cache, and nothing is only in memory.

Where there is no KVM the guest's processor is so slow that it hides the disk; what reaches the disk is counted all the
same.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from scripts.benchmarks.rig import RigError, operations, slow_disk
from scripts.vm.boot_vm import DRIVE_OPTIONS, IMAGE_SIZE, Machine, Served, abandoned_on_failure
from scripts.vm.guest import GuestError, make_image, said_when_read

PROGRAMS: Final = 400
"""Files that the guest reads: some 26 MiB."""
CACHE_SIZE: Final = "64MiB"
_DRIVE: Final = DRIVE_OPTIONS[0]


class Boot(NamedTuple):
    """How many seconds it took, and how many reads and writes the slow disk saw."""

    seconds: float
    operations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """What boots took.

    :ivar fast: seconds from a plain file; the mean of one before and one after the others.
    :ivar slow: from the slow disk alone.
    :ivar first: through a cache that is empty.
    :ivar second: once more.
    """

    fast: float
    slow: Boot
    first: Boot
    second: Boot

    def __str__(self) -> str:
        others = {"the slow disk": self.slow, "first boot": self.first, "second boot": self.second}
        words = (
            f"{name} {boot.seconds:.2f} s ({boot.seconds / self.fast:.2f} times, {boot.operations} operations)"
            for name, boot in others.items()
        )
        return f"a fast disk {self.fast:.2f} s; {'; '.join(words)}"


def timed_boots(machine: Machine, directory: Path, profile: str, options: Sequence[str] = ()) -> Times:
    """Boot five times; raises GuestError.

    :param directory: empty, on a fast file system that can be used past the page cache.
    :param profile: the slow disk's.
    :param options: for ``fusecache mount``.
    """
    fast, origin = directory / "fast", directory / "origin"
    size = make_image(fast, IMAGE_SIZE, programs=PROGRAMS)
    shutil.copyfile(fast, origin)

    def seconds_of(image: Path) -> float:
        began = time.monotonic()
        console = machine.boot("start", image, _DRIVE)
        seconds = time.monotonic() - began
        if said_when_read(size) not in console:
            msg = f"the guest did not read its {size} bytes"
            raise GuestError(msg)
        return seconds

    try:
        before = seconds_of(fast)
        with slow_disk(profile, origin, directory / "slow") as disk:

            def boot(image: Path) -> Boot:
                reached = _reached(disk)
                seconds = seconds_of(image)
                return Boot(seconds, _reached(disk) - reached)

            slow = boot(disk)
            served = Served(directory, disk, CACHE_SIZE, *options)
            with abandoned_on_failure(served):
                served.open()
                first = boot(served.image)
                served.reopen()
                second = boot(served.image)
                served.close()
        after = seconds_of(fast)
    except RigError as exc:
        raise GuestError(str(exc)) from exc
    return Times(fast=(before + after) / 2, slow=slow, first=first, second=second)


def _reached(disk: Path) -> int:
    counted = operations(disk)
    return counted["reads"] + counted["writes"]
