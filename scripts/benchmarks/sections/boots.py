"""How long a virtual machine takes to boot from a slow disk, with a cache in front of it."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from scripts.benchmarks.rig import RigError
from scripts.benchmarks.suite.measuring import Context, Figure, compared, in_turn
from scripts.benchmarks.suite.systems import FUSECACHE, NONE, SYSTEMS
from scripts.vm.boot_vm import make_machine
from scripts.vm.guest import GuestError
from scripts.vm.timing import timed_boots

FAST: Final = "a fast disk"
SECOND_MOST: Final = (1.2, 1.05)
_BOOT_SECONDS: Final = 150


def boots(context: Context) -> Iterator[Figure]:
    """Measure how long a virtual machine takes to boot from an image on a slow disk (``scripts/boot-vm --disk hdd``).

    The first boot finds an empty cache, the second one what the first has left.  Ratios are to a fast disk.  Without
    KVM, the guest's processor takes so long that the disk hardly counts.
    """
    if not shutil.which("qemu-system-x86_64"):
        msg = "there is no qemu-system-x86_64: scripts/setup vm"
        raise RigError(msg)
    names = [name for name in context.systems if name.startswith(FUSECACHE)]
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    reached: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        with context.scratch() as directory:
            machine = make_machine(directory, None, _BOOT_SECONDS, show=lambda _: None)
            for number in range(rounds := min(context.rounds, context.pick(full=3, quick=1, smoke=1))):
                for name in in_turn(names, number):
                    context.say(f"round {number + 1} of {rounds}: booting, {name}")
                    with context.scratch() as own:
                        times = timed_boots(machine, own, "hdd", SYSTEMS[name].options)
                    for which, boot in (("first", times.first), ("second", times.second)):
                        seconds[which][name].append(boot.seconds)
                        reached[which][name].append(boot.operations)
                        if name == names[0]:
                            seconds[which][FAST].append(times.fast)
                            seconds[which][NONE].append(times.slow.seconds)
                            reached[which][NONE].append(times.slow.operations)
    except GuestError as exc:
        raise RigError(str(exc)) from exc
    must, aim = SECOND_MOST
    yield from compared("hdd, first boot", seconds["first"], unit="s", baseline=FAST)
    yield from compared("hdd, second boot", seconds["second"], unit="s", baseline=FAST, at_most=must, aim=aim)
    for which, counts in reached.items():
        yield from compared(f"hdd, {which} boot: operations of the disk", counts, unit="")
