"""Fixtures for tests on real mounts: see :mod:`tests.integration.mounts`.

``mounted(...)`` mounts a fresh origin and returns a :class:`Mount`; ``loops`` attaches loop devices (root only).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from fusecache.paths import ROOT_DIRECTORY
from tests.integration.judges import need
from tests.integration.mounts import LoopDevices, Mount, sweep_aborted_runs
from tests.integration.sessions import REPOSITORY, Session

MIB = 1024 * 1024
TEST_SECONDS = 120


class Mounted(Protocol):
    """What the fixture ``mounted`` gives: call it for a mount, as often as wanted."""

    def __call__(
        self,
        *options: str,
        content: bytes | None = None,
        size: int = 16 * MIB,
        origin: Path | None = None,
        cache_size: str | None = "4MiB",
        block_size: str | None = "64KiB",
    ) -> Mount:
        """Mount an origin: ``origin``, or a new one of ``content``, or of ``size`` random bytes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this directory."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session", autouse=True)
def _fuse(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Need FUSE; leave no mounts of earlier, aborted runs in the way."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")
    run_directory = tmp_path_factory.getbasetemp()
    (run_directory / "owner").write_text(str(os.getpid()))
    is_worker = "PYTEST_XDIST_WORKER" in os.environ  # its directory lies in that of the whole run
    sweep_aborted_runs(run_directory.parent.parent if is_worker else run_directory.parent)


@pytest.fixture(autouse=True)
def _no_claims_left(tmp_path: Path) -> Iterator[None]:
    """Claims on origins that keep none lie in a directory of the system: remove those of this test's mounts."""
    yield
    for claim in (ROOT_DIRECTORY / "claims").glob("*.claim"):
        with contextlib.suppress(OSError):  # others clean up, too
            if os.fsencode(tmp_path) in claim.read_bytes():
                claim.unlink()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    """Mount fusecache; whatever the test does or leaves undone, nothing of it stays."""
    mounts: list[Mount] = []
    numbers = itertools.count()

    def mount(
        *options: str,
        content: bytes | None = None,
        size: int = 16 * MIB,
        origin: Path | None = None,
        cache_size: str | None = "4MiB",
        block_size: str | None = "64KiB",
    ) -> Mount:
        directory = tmp_path / f"mount{next(numbers)}"
        (directory / "mnt").mkdir(parents=True)
        if origin is None:
            origin = directory / "origin"
            origin.write_bytes(random.Random(size).randbytes(size) if content is None else content)
        sizes = [("--cache-size", cache_size), ("--block-size", block_size)]
        result = Mount(
            origin=origin,
            cache=directory / "cache",
            metadata=directory / "metadata",
            mountpoint=directory / "mnt",
            options=[word for name, value in sizes if value for word in (name, value)],
        )
        mounts.append(result)
        result.mount(*options)
        return result

    def discard() -> None:
        for result in mounts:
            result.discard()

    # A request to a daemon that hangs waits whatever signal comes; without its mount it fails, and so does the test.
    watchdog = threading.Timer(TEST_SECONDS, discard)
    watchdog.daemon = True
    watchdog.start()
    yield mount
    watchdog.cancel()
    discard()


@pytest.fixture
def loops(mounted: Mounted) -> Iterator[LoopDevices]:
    """Attach loop devices; they go before the mounts they lie on."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    devices = LoopDevices()
    yield devices
    devices.discard()


@pytest.fixture
def session() -> Iterator[Session]:
    """Begin a session of an unprivileged user, in a directory that everybody can enter."""
    need("setpriv", "unshare", "fusermount3")
    if os.geteuid() != 0:
        pytest.skip("becoming nobody needs root; as a user, all other tests show the same")
    blocked = [path for path in (REPOSITORY, *REPOSITORY.parents) if not path.stat().st_mode & 0o001]
    if blocked:
        pytest.skip(f"nobody cannot enter {blocked[0]}, where the sources are")
    with tempfile.TemporaryDirectory(prefix="fusecache-nonroot-") as name:
        room = Path(name)
        room.chmod(0o711)
        yield Session(room)
