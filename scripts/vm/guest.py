"""What runs inside the virtual machine: Debian's kernel, an initramfs to find the root, and a root of one busybox.

The root's init does one task, named on the kernel's command line, says so on the console, and powers off:

``write``
    writes files of random bytes, each with an fsync, and a list of their checksums.
``verify``
    checks the files against the list, then replaces some of them, so that the next ``verify`` sees younger data.
``start``
    reads files that came with the image, in an order of their own, as a system does that starts its programs, says how
    many bytes there were, and writes a little.
"""

from __future__ import annotations

import os
import platform
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KERNEL_PACKAGE: Final = "linux-image-cloud-amd64"
"""Debian's name for the newest kernel for virtual machines; it only depends on the real package."""

MODULES: Final = ("virtio_pci", "virtio_blk", "ext4")
BUSYBOX: Final = Path("/bin/busybox")
FILES: Final = 40
_TOGETHER: Final = 8
"""Programs that one process of the guest reads: processes take their time as well."""

ALIVE: Final = "guest: alive"
WRITTEN: Final = f"guest: wrote {FILES} files"
VERIFIED: Final = f"guest: verified {FILES} files"

INITRAMFS_INIT: Final = f"""#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod /modules/$module
done
echo "{ALIVE}"
/bin/busybox grep -q task=probe /proc/cmdline && /bin/busybox poweroff -f
/bin/busybox mount -t ext4 /dev/vda /root && exec /bin/busybox switch_root /root /sbin/init
echo "guest: no root on /dev/vda"
/bin/busybox poweroff -f
"""

ROOT_INIT: Final = f"""#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev

write_file() {{  # NUMBER: 64 KiB to 2 MiB, durable when this returns
    dd if=/dev/urandom of=/data/file$1 bs=64k count=$(($1 * 7 % 32 + 1)) conv=fsync 2>/dev/null
}}

list_checksums() {{
    (cd /data && sha256sum file*) >/checksums.new
    sync
    mv /checksums.new /checksums
    sync
}}

case $(cat /proc/cmdline) in
    *task=write*)
        mkdir -p /data
        for i in $(seq {FILES}); do write_file $i; done
        list_checksums
        echo "guest: wrote $(wc -l </checksums) files"
        ;;
    *task=start*)
        echo "guest: read $(while read programs; do cat $programs; done </programs/order | wc -c) bytes"
        echo started >>/starts
        sync
        ;;
    *task=verify*)
        if (cd /data && sha256sum -c /checksums >/tmp/report 2>&1); then
            echo "guest: verified $(wc -l </checksums) files"
            for i in $(seq 1 3 {FILES}); do write_file $i; done
            list_checksums
        else
            grep -v ': OK$' /tmp/report
            echo "guest: FAILED"
        fi
        ;;
esac
mount -o remount,ro /
poweroff -f
"""


class GuestError(Exception):
    """The guest could not be made; one line that says why."""


def run(*command: str | Path, cwd: str | Path | None = None) -> str:
    """Run a command and return its output; raises GuestError with what it said."""
    result = subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
    )
    if result.returncode:
        message = (result.stderr or result.stdout).strip().splitlines()
        msg = f"{Path(command[0]).name}: {message[-1] if message else f'exit {result.returncode}'}"
        raise GuestError(msg)
    return result.stdout


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel package, unpacked."""

    directory: Path

    @property
    def image(self) -> Path:
        """What to boot."""
        return next((self.directory / "boot").glob("vmlinuz-*"))

    def modules(self, *names: str) -> list[Path]:
        """List the files of these modules and of all that they need, those needed first; built-in ones have none."""
        files = {_module_name(path): path for path in (self.directory / "lib" / "modules").rglob("*.ko")}
        ordered: dict[str, Path] = {}

        def add(name: str) -> None:
            if name in files and name not in ordered:
                for needed in _needed_modules(files[name]):
                    add(needed)
                ordered[name] = files[name]

        for name in names:
            add(name)
        return list(ordered.values())


def _module_name(path: Path) -> str:
    return path.name.removesuffix(".ko").replace("-", "_")


def _needed_modules(module: Path) -> Iterator[str]:
    """Read the field ``depends`` of a module's ``.modinfo`` section."""
    found = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    for name in found[1].decode().split(",") if found else ():
        yield name.replace("-", "_")


def fetch_kernel() -> Kernel:
    """Return Debian's kernel: from our own cache directory, or downloaded and unpacked there; never installed."""
    if platform.machine() != "x86_64":
        msg = f"the guest is an x86-64 one, this machine is {platform.machine()}"
        raise GuestError(msg)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusecache-vm"
    unpacked = sorted(home.glob("linux-image-*/boot/vmlinuz-*"))
    if unpacked:
        return Kernel(unpacked[-1].parent.parent)
    home.mkdir(parents=True, exist_ok=True)
    try:
        return _download_kernel(home)
    except GuestError:
        run(*_as_root("apt-get", "-qq", "update"))  # lists are missing, or name a version that is no longer there
        return _download_kernel(home)


def _download_kernel(home: Path) -> Kernel:
    package = _real_package(KERNEL_PACKAGE)
    with tempfile.TemporaryDirectory(dir=home, prefix="download-") as scratch:
        run("apt-get", "-qq", "-o", "APT::Sandbox::User=", "download", package, cwd=scratch)
        (archive,) = Path(scratch).glob("*.deb")
        contents = Path(scratch) / "contents"
        run("dpkg-deb", "-x", archive, contents)
        # Renamed into place: so the directory is there as a whole or not at all.
        return Kernel(contents.rename(home / package))


def _real_package(package: str) -> str:
    """Follow a package that only depends on the newest kernel to that kernel."""
    description = run("apt-cache", "show", "--no-all-versions", package)
    found = re.search(r"^Depends:.*?\b(linux-image-[0-9][\w.+-]*)", description, re.MULTILINE)
    if not found:
        msg = f"apt-cache show {package} names no kernel package"
        raise GuestError(msg)
    return found[1]


def _as_root(*command: str) -> list[str]:
    return list(command) if os.geteuid() == 0 else ["sudo", "-n", *command]


def make_initramfs(kernel: Kernel, target: Path) -> None:
    """Write an initramfs that loads what is needed to mount an ext4 root from a virtio disk."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        tree = Path(scratch)
        for directory in ("bin", "dev", "modules", "proc", "root"):
            (tree / directory).mkdir()
        shutil.copy(BUSYBOX, tree / "bin")
        modules = kernel.modules(*MODULES)
        for module in modules:
            shutil.copy(module, tree / "modules")
        (tree / "modules" / "order").write_text("".join(f"{module.name}\n" for module in modules))
        _write_script(tree / "init", INITRAMFS_INIT)
        names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        run("sh", "-c", f'echo "$1" | cpio --quiet -o -H newc --owner 0:0 >{target}', "cpio", names, cwd=tree)


def said_when_read(size: int) -> str:
    """Return what the task ``start`` says when its programs have so many bytes."""
    return f"guest: read {size} bytes"


def make_image(target: Path, size: int, *, programs: int = 0) -> int:
    """Write a raw image of ``size`` bytes: one ext4 file system with busybox and an init; needs no root.

    :param programs: how many files there are for the task ``start``.
    :returns: how many bytes these have.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        tree = Path(scratch)
        for directory in ("bin", "dev", "proc", "sbin", "tmp"):
            (tree / directory).mkdir()
        shutil.copy(BUSYBOX, tree / "bin")
        for applet in run(BUSYBOX, "--list").split():
            if applet != "busybox":
                (tree / "bin" / applet).symlink_to("busybox")
        _write_script(tree / "sbin" / "init", ROOT_INIT)
        total = _write_programs(tree / "programs", programs)
        with target.open("wb") as image:
            image.truncate(size)
        run("mkfs.ext4", "-q", "-F", "-E", "root_owner=0:0", "-d", tree, target)
    return total


def _write_programs(directory: Path, count: int) -> int:
    """Write files of 4 to 128 KiB, and the order in which they are to be read; return how many bytes they have."""
    directory.mkdir()
    rng = random.Random(count)
    sizes = [rng.randrange(4, 129) * 1024 for _ in range(count)]
    for number, size in enumerate(sizes):
        (directory / f"{number}").write_bytes(rng.randbytes(size))
    order = rng.sample(range(count), count)
    lines = (order[first : first + _TOGETHER] for first in range(0, count, _TOGETHER))
    (directory / "order").write_text(
        "".join(" ".join(f"/programs/{number}" for number in line) + "\n" for line in lines)
    )
    return sum(sizes)


def _write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
