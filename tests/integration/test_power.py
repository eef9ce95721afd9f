"""The disk that forgets: what was synced stays, what was not may go, and neither is left to chance."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.power import Power
from tests.integration.volatile_disk import SECTOR, VolatileDirectory, VolatileFile

SEEDS = range(60)


def outcomes(file: VolatileFile) -> set[bytes]:
    return {file.after_cut(random.Random(seed))[0] for seed in SEEDS}


def test_what_was_synced_stays() -> None:
    file = VolatileFile(bytes(4 * SECTOR), mtime_ns=1)
    file.write(100, b"x" * 1000, now_ns=2)
    file.sync(data_only=True)
    assert outcomes(file) == {bytes(file.data)}


def test_any_subset_of_the_sectors_may_stay() -> None:
    file = VolatileFile(bytes(2 * SECTOR), mtime_ns=1)
    file.write(0, b"x" * 2 * SECTOR, now_ns=2)
    old, new = bytes(SECTOR), b"x" * SECTOR
    assert outcomes(file) == {old + old, old + new, new + old, new + new}


def test_any_content_since_the_last_sync_may_stay() -> None:
    file = VolatileFile(b"a" * SECTOR, mtime_ns=1)
    for letter in (b"b", b"c", b"d"):
        file.write(0, letter * SECTOR, now_ns=2)
    assert {content[:1] for content in outcomes(file)} == {b"a", b"b", b"c", b"d"}


def test_a_file_that_grew_may_have_any_size_since() -> None:
    file = VolatileFile(b"a", mtime_ns=1)
    file.write(1, b"b" * SECTOR, now_ns=2)
    file.write(1 + SECTOR, b"c", now_ns=2)
    assert {len(content) for content in outcomes(file)} == {1, 1 + SECTOR, 2 + SECTOR}
    file.sync(data_only=True)
    assert outcomes(file) == {bytes(file.data)}


def test_what_was_cut_off_may_be_back() -> None:
    file = VolatileFile(b"a" * 700, mtime_ns=1)
    file.truncate(600, now_ns=2)
    file.truncate(650, now_ns=2)
    assert bytes(file.data) == b"a" * 600 + bytes(50)
    assert b"a" * 700 in outcomes(file)
    assert b"a" * 600 in outcomes(file)


def test_only_a_full_sync_keeps_the_time() -> None:
    file = VolatileFile(b"", mtime_ns=1)
    file.write(0, b"x", now_ns=2)
    file.sync(data_only=True)
    assert {file.after_cut(random.Random(seed))[1] for seed in SEEDS} == {1, 2}
    file.sync(data_only=False)
    assert {file.after_cut(random.Random(seed))[1] for seed in SEEDS} == {2}


def test_names_are_lost_from_the_last_one_on() -> None:
    directory = VolatileDirectory({b"a": 1})
    directory.change(put={b"b": 2})
    directory.change(put={b"c": 2}, remove=b"b")
    found = [directory.after_cut(random.Random(seed)) for seed in SEEDS]
    assert all(names in found for names in ({b"a": 1}, {b"a": 1, b"b": 2}, {b"a": 1, b"c": 2}))
    assert all(b"a" in names and not {b"b", b"c"} <= names.keys() for names in found)
    directory.sync()
    assert {frozenset(directory.after_cut(random.Random(seed))) for seed in SEEDS} == {frozenset({b"a", b"c"})}


@pytest.fixture
def power(tmp_path: Path) -> Iterator[Power]:
    supply = Power(tmp_path, "disk")
    (supply.medium / "disk" / "file").write_bytes(bytes(100_000))
    supply.on()
    yield supply
    supply.discard()


def test_a_cut_takes_what_was_written_and_leaves_what_was_synced(power: Power) -> None:
    file = power.disks / "disk" / "file"
    lost = 0
    for seed in range(5):
        synced, written = random.Random(seed).randbytes(50_000), random.Random(seed + 100).randbytes(50_000)
        fd = os.open(file, os.O_RDWR)
        os.pwrite(fd, synced, 0)
        os.fdatasync(fd)
        os.pwrite(fd, written, 50_000)
        assert file.read_bytes() == synced + written
        os.close(fd)
        power.cut(seed)
        power.on()
        found = file.read_bytes()
        assert found[:49_664] == synced[:49_664]  # a multiple of a sector
        lost += found != synced + written
    assert lost >= 2


def test_a_new_file_stays_if_both_it_and_its_name_were_synced(power: Power) -> None:
    directory = power.disks / "disk"
    kept = 0
    for seed in range(5):
        for name in ("kept", "perhaps"):
            (directory / name).write_bytes(b"content")
            fd = os.open(directory / name, os.O_RDWR)
            os.fsync(fd)
            os.close(fd)
            if name == "kept":
                fd = os.open(directory, os.O_RDONLY)
                os.fsync(fd)
                os.close(fd)
        power.cut(seed)
        power.on()
        assert (directory / "kept").read_bytes() == b"content"
        kept += (directory / "perhaps").exists()
        for name in ("kept", "perhaps"):
            (directory / name).unlink(missing_ok=True)
        fd = os.open(directory, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    assert kept < 5
