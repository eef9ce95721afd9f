"""The gate on real mounts: writers side by side, requests that are given up, and mounts that end under load."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB
from tests.integration.mounts import GATE, Mount, fusecache, is_mounted, run, wait_until
from tests.integration.patient_disk import most_under_way, patient_disk, take

SECTOR = 512
BLOCK = 64 * 1024
CONTENT = random.Random(8).randbytes(8 * MIB)
PLACE = 3 * BLOCK - 16 * SECTOR
"""Where writers meet: around the end of a block."""
LENGTH = 32 * SECTOR

RIVAL = """
import mmap, os, random, struct, sys
image, number, place, length, rounds = sys.argv[1], *map(int, sys.argv[2:])
rng = random.Random(number)
fd = os.open(image, os.O_RDWR | os.O_DIRECT)
for turn in range(rounds):
    first = rng.randrange(length // 512)
    count = rng.randint(1, length // 512 - first)
    with mmap.mmap(-1, count * 512) as memory:
        for sector in range(first, first + count):
            begin = (sector - first) * 512
            memory[begin : begin + 512] = struct.pack("<IIII", number, turn, sector, 0) * 32
        assert os.pwritev(fd, [memory], place + first * 512) == len(memory)
"""
"""Writes runs of the sectors between ``place`` and ``place + length``, each sector with its number, turn and place."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with patient_disk(tmp_path / "disk", CONTENT) as disk:
        yield disk


@contextlib.contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program within this block; it is killed in the end if it goes on."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def need_the_gate() -> None:
    if GATE:
        pytest.skip("without the gate the kernel has writers wait for one another")


@pytest.fixture
def fusectl(tmp_path: Path) -> Iterator[Path]:
    """Mount the control file system, for this test alone."""
    if os.geteuid() != 0:
        pytest.skip("fusectl needs root")
    directory = tmp_path / "fusectl"
    directory.mkdir()
    run("mount", "-t", "fusectl", "fusectl", directory)
    yield directory
    run("umount", directory)


def connection(fusectl: Path, mount: Mount) -> Path:
    """The mount's directory in there."""
    return fusectl / str(os.minor(mount.mountpoint.stat().st_dev))


# Writers side by side


def sectors(image: Path) -> list[tuple[int, int, int]]:
    """Read where they meet: which writer's sector lies there, of which turn and place; each must be one of theirs."""
    fd = os.open(image, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, LENGTH) as memory:
            assert os.preadv(fd, [memory], PLACE) == LENGTH
            found = []
            for begin in range(0, LENGTH, SECTOR):
                sector = memory[begin : begin + SECTOR]
                assert sector == sector[:16] * (SECTOR // 16), f"the sector at {begin} is torn"
                number, turn, place = (int.from_bytes(sector[at : at + 4], "little") for at in (0, 4, 8))
                found.append((number, turn, place))
            return found
    finally:
        os.close(fd)


@pytest.mark.parametrize("page_cache", ["stores", "none"])
@pytest.mark.parametrize("mode", ["writeback", "writethrough", "passthrough"])
def test_of_writers_of_the_same_sectors_each_sector_has_one(mounted: Mounted, mode: str, page_cache: str) -> None:
    mount = mounted("--mode", mode, "--page-cache", page_cache, content=bytes(4 * BLOCK), cache_size="1MiB")
    rounds = 150
    words = (str(PLACE), str(LENGTH), str(rounds))
    with contextlib.ExitStack() as rivals:
        processes = [
            rivals.enter_context(running(sys.executable, "-c", RIVAL, mount.image, str(number), *words))
            for number in range(1, 7)
        ]
        while any(process.poll() is None for process in processes):
            assert len(mount.read(PLACE, LENGTH)) == LENGTH
        assert [process.returncode for process in processes] == [0] * 6
    last = sectors(mount.image)
    assert all(number and there == place for place, (number, _, there) in enumerate(last))
    mount.write(0, b"synced", sync=True)
    mount.kill9()
    mount.mount("--page-cache", page_cache)
    assert sectors(mount.image) == last
    fusecache("flush", mount.mountpoint)
    mount.unmount()
    assert sectors(mount.origin) == last, "origin and cache have kept different writes"


def test_synchronous_writers_reach_the_origin_side_by_side(mounted: Mounted, disk: Path) -> None:
    need_the_gate()
    mount = mounted("--policy", "cleaner", origin=disk)
    take(disk, 0.1)

    def write(number: int) -> None:
        fd = os.open(mount.image, os.O_RDWR | os.O_DIRECT)
        with mmap.mmap(-1, 4096) as memory:
            for turn in range(4):
                memory[:] = bytes([16 * number + turn]) * 4096
                os.pwritev(fd, [memory], (number * 10 + turn) * 4096)
        os.close(fd)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert most_under_way(disk) >= 6
    take(disk, 0)
    for number in range(8):
        for turn in range(4):
            assert mount.read((number * 10 + turn) * 4096, 4096) == bytes([16 * number + turn]) * 4096


def test_the_kernel_sends_many_requests_at_a_time(mounted: Mounted, fusectl: Path) -> None:
    mount = mounted()
    limits = connection(fusectl, mount)
    mount.read(0, 4096)
    assert (limits / "max_background").read_text() == "64\n"
    assert (limits / "congestion_threshold").read_text() == "48\n"


# Requests that are given up


def read_by(image: Path, number: int) -> subprocess.Popen[bytes]:
    code = f"import os; os.pread(os.open({str(image)!r}, os.O_RDONLY), 4096, {(100 + number) * 4096})"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def write_by(image: Path, number: int) -> subprocess.Popen[bytes]:
    code = f"import os; os.pwrite(os.open({str(image)!r}, os.O_RDWR), b'w' * 4096, {(100 + number) * 4096})"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("ask", [read_by, write_by])
def test_programs_that_are_interrupted_leave_nothing_behind(
    mounted: Mounted, disk: Path, ask: Callable[[Path, int], subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    mount = mounted("--policy", "cleaner", "--read-ahead", "off", origin=disk)
    descriptors = len(list(Path(f"/proc/{mount.pid}/fd").iterdir()))
    for turn in range(2):
        take(disk, 1.5)
        programs = [ask(mount.image, 10 * turn + client) for client in range(5)]
        wait_until(lambda: most_under_way(disk) >= 1, "they are under way")
        time.sleep(0.1)
        for program in programs:
            program.send_signal(number)
        for program in programs:
            assert program.wait(20), "it was interrupted"
        take(disk, 0)
        assert mount.read(0, 4096) == CONTENT[:4096]
    mount.write(0, b"z" * 4096)
    assert mount.read(0, 4096) == b"z" * 4096
    assert len(list(Path(f"/proc/{mount.pid}/fd").iterdir())) <= descriptors + 2
    mount.unmount()


# The end under load


def hammer(mount: Mount, stop: threading.Event) -> None:
    """Read and write until the image is gone."""
    rng = random.Random()
    with contextlib.suppress(OSError):
        fd = os.open(mount.image, os.O_RDWR)
        try:
            while not stop.is_set():
                offset = rng.randrange(1000) * 4096
                if rng.random() < 0.5:
                    os.pwrite(fd, b"h" * 4096, offset)
                else:
                    os.pread(fd, 4096, offset)
                if rng.random() < 0.05:
                    os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def hammered(mount: Mount, clients: int = 8) -> Iterator[None]:
    """Have requests come all the time; in the end nobody waits for one."""
    stop = threading.Event()
    threads = [threading.Thread(target=hammer, args=(mount, stop), daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a client still waits for an answer"


def ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def require_clean(mount: Mount) -> None:
    mount.mount()
    assert mount.count("suspect_blocks") == 0
    mount.unmount()


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "abort"])
def test_a_daemon_ends_cleanly_under_load(mounted: Mounted, fusectl: Path, way: str) -> None:
    mount = mounted()
    pid = mount.pid
    control = connection(fusectl, mount)
    with hammered(mount):
        if way == "abort":
            (control / "abort").write_text("1")
        else:
            os.kill(pid, signal.Signals[way])
        wait_until(lambda: ended(pid), "the daemon has ended")
    if is_mounted(mount.mountpoint):
        assert way == "abort", "libfuse leaves an aborted mount where it is"
        mount.discard()
    require_clean(mount)


def test_a_mount_that_is_detached_lives_as_long_as_it_is_used(mounted: Mounted) -> None:
    mount = mounted()
    pid = mount.pid
    with hammered(mount):
        subprocess.run(["fusermount3", "-uz", str(mount.mountpoint)], check=True)
        time.sleep(0.3)
        assert not ended(pid)
    wait_until(lambda: ended(pid), "the daemon has ended")
    require_clean(mount)


def test_a_daemon_that_is_killed_leaves_nobody_waiting(mounted: Mounted) -> None:
    mount = mounted()
    with hammered(mount):
        mount.kill9()
    mount.mount()
    mount.unmount()


def test_load_leaves_no_memory_and_no_descriptors_behind(mounted: Mounted) -> None:
    mount = mounted("--page-cache", "none")
    with hammered(mount, 40):
        time.sleep(0.5)
    descriptors = len(list(Path(f"/proc/{mount.pid}/fd").iterdir()))
    memory = resident(mount.pid)
    for _ in range(3):
        with hammered(mount, 40):
            time.sleep(0.5)
    assert len(list(Path(f"/proc/{mount.pid}/fd").iterdir())) <= descriptors
    assert resident(mount.pid) < memory + 8 * MIB


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
