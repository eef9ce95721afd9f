"""Boot a virtual machine from a disk image that fusecache serves, and see whether what it writes is still there.

For each way in which QEMU can open the image (O_DIRECT with native AIO, and through the host's page cache): the guest
boots, writes files and a list of their checksums, powers off; fusecache is unmounted and mounted again; the guest boots
again, verifies the files and replaces some.  In the end fusecache is decommissioned, and the origin alone must be a
clean file system that holds the files as the guest last wrote them.

With --disk: how long boots take, see scripts/vm/timing.py.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from scripts.vm.guest import (
    ALIVE,
    VERIFIED,
    WRITTEN,
    GuestError,
    Kernel,
    fetch_kernel,
    make_image,
    make_initramfs,
    run,
)

MIB: Final = 1024 * 1024
IMAGE_SIZE: Final = 128 * MIB
FUSECACHE: Final = Path(sys.executable).parent / "fusecache"
DRIVE_OPTIONS: Final = ("cache=none,aio=native", "cache=writeback")
"""Past the host's page cache; and QEMU's default, through it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """QEMU with one virtio disk.

    :ivar show: is given each line of the console.
    """

    kernel: Kernel
    initramfs: Path
    accelerator: str
    timeout: float
    show: Callable[[str], None]

    def boot(self, task: str, image: Path | None = None, drive_options: str = "") -> str:
        """Boot, with the console on stdout, until the guest powers off; return what it said.

        :raises GuestError: it did not power off in time.
        """
        command = [
            "qemu-system-x86_64", "-accel", self.accelerator, "-m", "256M", "-nodefaults", "-display", "none",
            "-serial", "stdio", "-no-reboot", "-kernel", str(self.kernel.image), "-initrd", str(self.initramfs),
            "-append", f"console=ttyS0 quiet panic=-1 task={task}",
        ]  # fmt: skip
        if image is not None:
            command += ["-drive", f"file={image},format=raw,if=virtio,{drive_options}"]
        console = []
        qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace")
        timer = threading.Timer(self.timeout, qemu.kill)
        timer.start()
        try:
            for line in qemu.stdout or ():
                console.append(line)
                self.show(line.rstrip())
            code = qemu.wait()
        finally:
            timer.cancel()
            qemu.kill()
            qemu.wait()
        if code:
            reason = f"did not power off within {self.timeout:g} s" if code == -signal.SIGKILL else f"exit {code}"
            msg = f"qemu ({self.accelerator}, task {task}): {reason}"
            raise GuestError(msg)
        return "".join(console)

    def works(self) -> bool:
        """Tell whether a guest comes up at all; it needs no disk for that."""
        try:
            return ALIVE in self.boot("probe")
        except GuestError:
            return False


def show_line(line: str) -> None:
    """Show a line of the console."""
    print(f"    {line}", flush=True)


def make_machine(
    directory: Path, accelerator: str | None, timeout: float, show: Callable[[str], None] = show_line
) -> Machine:
    """Prepare kernel and initramfs, and choose KVM where it really works: the device alone promises nothing."""
    kernel = fetch_kernel()
    initramfs = directory / "initramfs"
    make_initramfs(kernel, initramfs)
    if accelerator is None:
        probe = Machine(kernel=kernel, initramfs=initramfs, accelerator="kvm", timeout=10, show=show)
        accelerator = "kvm" if probe.works() else "tcg"
        say(f"acceleration: {accelerator}")
    return Machine(kernel=kernel, initramfs=initramfs, accelerator=accelerator, timeout=timeout, show=show)


class Served:
    """The image as fusecache serves it; :meth:`reopen` unmounts and mounts again."""

    def __init__(self, directory: Path, origin: Path, cache_size: str = "24MiB", *options: str) -> None:
        self._mountpoint = directory / "mnt"
        self._mountpoint.mkdir()
        self._mount_command: list[str | Path] = [
            FUSECACHE, "mount", origin, self._mountpoint, "--cache", directory / "cache", "--cache-size", cache_size,
            "--metadata", directory / "metadata", "--block-size", "64KiB", *options,
        ]  # fmt: skip
        self.image = self._mountpoint / "image"

    def open(self) -> None:
        """Mount."""
        run(*self._mount_command)

    def reopen(self) -> None:
        """Unmount the proper way, so that the next boot reads what really is in the files, and mount again."""
        say("fusecache: unmount, mount again")
        self.close()
        self.open()

    def close(self) -> None:
        """Unmount."""
        run(FUSECACHE, "unmount", self._mountpoint)

    def decommission(self) -> None:
        """Write all data back to the origin, and unmount."""
        say("fusecache: decommission, unmount")
        run(FUSECACHE, "decommission", self._mountpoint)
        self.close()

    def abandon(self) -> None:
        """After a failure: leave no mount behind, however ill it is."""
        if any(line.split()[1] == str(self._mountpoint) for line in Path("/proc/self/mounts").read_text().splitlines()):
            run("fusermount3", "-uz", self._mountpoint)


class Plain:
    """The same without fusecache, to tell a fault of the guest from one of the cache."""

    def __init__(self, origin: Path) -> None:
        self.image = origin

    def open(self) -> None:
        """Do nothing: there is nothing to mount."""

    def reopen(self) -> None:
        """Do nothing: there is nothing to unmount."""

    def decommission(self) -> None:
        """Do nothing: the origin has all data."""

    def abandon(self) -> None:
        """Nothing to leave behind."""


def boots(machine: Machine, medium: Served | Plain, drives: Sequence[str]) -> None:
    """Write and verify, once for each of these ways to open the image; raises GuestError."""
    for drive_options in drives:
        for task, expected in (("write", WRITTEN), ("verify", VERIFIED)):
            say(f"boot: {drive_options}, {task}")
            began = time.monotonic()
            if expected not in machine.boot(task, medium.image, drive_options):
                msg = f"the guest did not say '{expected}' ({drive_options}, task {task})"
                raise GuestError(msg)
            say(f"powered off after {time.monotonic() - began:.1f} s")
            medium.reopen()


def inspect(image: Path, directory: Path) -> None:
    """Check an image that nothing serves: the file system, and its files against the guest's list."""
    run("e2fsck", "-fn", image)
    found = directory / "found"
    found.mkdir()
    run("debugfs", "-R", f"rdump /data /checksums {found}", image)
    lines = (line.split() for line in (found / "checksums").read_text().splitlines())
    expected = {name: checksum for checksum, name in lines}
    actual = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (found / "data").iterdir()}
    if actual != expected:
        names = sorted(name for name in actual.keys() | expected.keys() if actual.get(name) != expected.get(name))
        msg = f"the origin does not hold what the guest wrote: {' '.join(names)}"
        raise GuestError(msg)
    say(f"origin alone: clean file system, {len(actual)} files as the guest wrote them")


def scenario(arguments: argparse.Namespace, directory: Path) -> None:
    """Do all of it; raises GuestError."""
    machine = make_machine(directory, arguments.accel, arguments.timeout)
    if arguments.disk:
        from scripts.vm.timing import timed_boots  # noqa: PLC0415 - it is made of this module's parts

        say(f"{arguments.disk}: {timed_boots(machine, directory, arguments.disk, arguments.options.split())}")
        return
    drives = arguments.drive or DRIVE_OPTIONS
    if arguments.image:
        boots(machine, Plain(arguments.image), drives)
        return
    origin = directory / "origin"
    make_image(origin, IMAGE_SIZE)
    medium = Plain(origin) if arguments.plain else Served(directory, origin)
    with abandoned_on_failure(medium):
        medium.open()
        boots(machine, medium, drives)
        medium.decommission()
    inspect(origin, directory)


@contextmanager
def abandoned_on_failure(medium: Served | Plain) -> Iterator[None]:
    """Leave no mount behind when the body fails."""
    try:
        yield
    except BaseException:
        medium.abandon()
        raise


def say(message: str) -> None:
    """Tell what goes on."""
    print(f"boot-vm: {message}", flush=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    summary, _, description = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="boot-vm", description=summary, epilog=description)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--plain", action="store_true", help="without fusecache, to try the guest itself")
    which.add_argument(
        "--image", type=Path, metavar="PATH", help="boot this image as it is, for example the image of a mount of yours"
    )
    which.add_argument("--make-image", type=Path, metavar="PATH", help="only write an image that boots, and end")
    which.add_argument(
        "--disk", choices=("hdd", "net"), help="measure: boot from a simulated slow disk, without and with fusecache"
    )
    parser.add_argument(
        "--options", default="", metavar="WORDS", help='with --disk, for fusecache mount: --options="--policy mq"'
    )
    parser.add_argument("--accel", choices=("kvm", "tcg"), help="else kvm where it works")
    parser.add_argument(
        "--drive", action="append", choices=DRIVE_OPTIONS, help="how QEMU opens the image, else both ways"
    )
    parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="for each boot (default 120)")
    return parser.parse_args(arguments)


def main() -> None:
    """Run what the command line asks for; exit 0 if all is well."""
    arguments = parse(sys.argv[1:])

    def stop(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)  # so that everything is cleaned up on the way out

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stop)
    try:
        if arguments.make_image:
            make_image(arguments.make_image, IMAGE_SIZE)
        else:
            with tempfile.TemporaryDirectory(prefix="boot-vm-") as directory:
                scenario(arguments, Path(directory))
    except (GuestError, OSError, subprocess.TimeoutExpired) as exc:
        sys.exit(f"boot-vm: {exc}")
    say("ok")


if __name__ == "__main__":
    main()
