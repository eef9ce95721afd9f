"""F07: a store to which nothing is written."""

from __future__ import annotations

import pytest

from fusecache.errors import StoreError
from fusecache.stores import ReadOnlyStore
from tests.unit.worlds import MemoryStore, virtual


@virtual
async def test_f07_it_reads_and_refuses_every_change() -> None:
    inner = MemoryStore(10, b"x")
    store = ReadOnlyStore(inner, "the tape is locked")
    into = bytearray(3)
    assert store.read_nowait(0, into) == inner.at_once
    await store.read(0, into)
    assert into == b"xxx"
    assert not store.write_nowait(0, b"y")
    for change in (store.write(0, b"y"), store.discard(0, 5)):
        with pytest.raises(StoreError, match="nothing is written to the origin: the tape is locked"):
            await change
    await store.forget(0, 5)
    assert inner.data == b"x" * 10


@virtual
async def test_f07_what_a_killed_process_left_is_flushed_and_its_failure_is_nobodys_loss() -> None:
    inner = MemoryStore(10)
    store = ReadOnlyStore(inner, "")
    await store.flush()
    assert not store.unflushed

    async def fail(*_: object) -> None:
        msg = "read-only file system"
        raise StoreError(msg)

    broken = MemoryStore(10)
    broken.before = fail
    store = ReadOnlyStore(broken, "")
    await store.flush()
    assert store.unflushed
