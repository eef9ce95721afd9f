"""Writing to a store that has holes: F15."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from fusecache.config import KIB, PageCache
from fusecache.errors import StoreError
from fusecache.stores import Store, open_file_store, write_sparsely
from tests.unit.worlds import MemoryStore

PAGE = 4096
SIZE = 40 * PAGE


@contextmanager
def opened(path: Path, page_cache: PageCache) -> Iterator[Store]:
    with ExitStack() as resources:
        fd = os.open(path, os.O_RDWR)
        resources.callback(os.close, fd)
        store, _ = open_file_store(fd, name="file", size=SIZE, page_cache=page_cache, resources=resources)
        yield store


def pages_of(*contents: str) -> bytes:
    """Make pages: ``0`` is one of zeros, anything else is one of that."""
    return b"".join((bytes(1) if one == "0" else one.encode()) * PAGE for text in contents for one in text)


def writes(
    holes: list[tuple[int, int]], data: bytes, offset: int = 0, before: bytes = bytes(SIZE)
) -> list[tuple[int, int]]:
    """Write data to a store in memory, check what it has then, and return what was written, in pages."""
    store = MemoryStore(SIZE)
    store.data[:] = before
    store.hole_ranges = [(begin * PAGE, end * PAGE) for begin, end in holes]
    store.unflushed = False
    trio.run(write_sparsely, store, offset, memoryview(data))
    wanted = bytearray(before)
    wanted[offset : offset + len(data)] = data
    assert store.data == wanted
    assert store.unflushed
    return [(begin // PAGE, (begin + length) // PAGE) for name, begin, length in store.calls if name == "write"]


EVERYWHERE = [(0, 40)]


@pytest.mark.parametrize(
    ("holes", "data", "written"),
    [
        ([], pages_of("000x000"), [(0, 7)]),
        (EVERYWHERE, pages_of("xxxx"), [(0, 4)]),
        (EVERYWHERE, pages_of("000x000"), [(3, 4)]),
        (EVERYWHERE, pages_of("0000000"), []),
        (EVERYWHERE, pages_of("x000x"), [(0, 5)]),
        (EVERYWHERE, pages_of("x0000x"), [(0, 1), (5, 6)]),
        (EVERYWHERE, pages_of("0x00000000x0"), [(1, 2), (10, 11)]),
        ([(0, 2), (5, 6)], pages_of("000000"), [(2, 5)]),
        ([(1, 5)], pages_of("x00000x"), [(0, 1), (5, 7)]),
    ],
)
def test_zeros_stay_out_of_holes(holes: list[tuple[int, int]], data: bytes, written: list[tuple[int, int]]) -> None:
    assert writes(holes, data) == written


def test_a_hole_that_is_none_gets_its_zeros() -> None:
    """A file system may call a hole what is on its way to the disk."""
    assert writes(EVERYWHERE, pages_of("000000"), before=b"o" * SIZE) == [(0, 6)]
    before = pages_of("0" * 20, "o", "0" * 19)
    assert writes(EVERYWHERE, pages_of("0" * 40), before=before) == [(0, 40)]


def test_what_cannot_be_read_gets_its_zeros() -> None:
    store = MemoryStore(SIZE)
    store.hole_ranges = [(0, SIZE)]
    store.errors["read"] = StoreError("read failed")
    trio.run(write_sparsely, store, 0, memoryview(bytes(SIZE)))
    assert store.calls[-1] == ("write", 0, SIZE)


def test_a_write_that_fails_is_told() -> None:
    store = MemoryStore(SIZE)
    store.hole_ranges = [(0, SIZE)]
    store.errors["write"] = StoreError("write failed")
    with pytest.raises(StoreError, match="write failed"):
        trio.run(write_sparsely, store, 0, memoryview(pages_of("000x")))


@pytest.mark.parametrize("page_cache", list(PageCache))
def test_f15_a_sparse_file_grows_by_its_data_alone(tmp_path: Path, page_cache: PageCache) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(SIZE)
    with opened(path, page_cache) as store:

        async def main() -> None:
            for block in range(5):
                data = pages_of("0000x000")
                await write_sparsely(store, block * len(data), memoryview(bytearray(data)))
            await store.flush()

        trio.run(main)
    assert path.read_bytes() == pages_of("0000x000" * 5)
    assert path.stat().st_blocks * 512 <= 5 * PAGE + 16 * KIB


def test_f15_of_a_full_file_no_holes_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"o" * SIZE)
    with opened(path, PageCache.STORES) as store:
        monkeypatch.setattr(os, "lseek", lambda *_: pytest.fail("asked"))
        trio.run(write_sparsely, store, 0, memoryview(bytearray(SIZE)))
    assert path.read_bytes() == bytes(SIZE)


ranges = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda pair: (min(pair), max(pair)))
coarse = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: (min(pair) * PAGE, max(pair) * PAGE))


@given(
    page_cache=st.sampled_from(PageCache),
    before=st.lists(st.one_of(ranges, coarse), max_size=4),
    steps=st.lists(
        st.tuples(st.one_of(ranges, coarse), st.lists(st.one_of(ranges, coarse), max_size=3)), min_size=1, max_size=5
    ),
)
def test_f15_a_file_with_holes_is_an_array_of_bytes(
    page_cache: PageCache,
    before: list[tuple[int, int]],
    steps: list[tuple[tuple[int, int], list[tuple[int, int]]]],
) -> None:
    model = bytearray(SIZE)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "image"
        with path.open("wb") as file:
            file.truncate(SIZE)
            for begin, end in before:
                file.seek(begin)
                file.write(b"o" * (end - begin))
                model[begin:end] = b"o" * (end - begin)
        with opened(path, page_cache) as store:

            async def main() -> None:
                for (begin, end), filled in steps:
                    data = bytearray(SIZE)
                    for start, stop in filled:
                        data[start:stop] = b"x" * (stop - start)
                    await write_sparsely(store, begin, memoryview(data)[begin:end])
                    model[begin:end] = data[begin:end]
                await store.flush()

            trio.run(main)
        assert path.read_bytes() == model
