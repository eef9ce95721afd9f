"""A store past the page cache is a plain array of bytes, whatever is written side by side to neighbouring places.

Requests that run side by side do not overlap, but share units of the disk; the engine takes its time, in an order that
Hypothesis makes up.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trio
from hypothesis import given
from hypothesis import strategies as st

from fusecache.linux import punch_hole
from fusecache.stores.base import Data
from fusecache.stores.direct import DirectStore
from fusecache.stores.file import PAGE, FileStore

SPAN = 4 * PAGE
PLACES = st.builds(sum, st.tuples(st.sampled_from(range(0, SPAN + 1, PAGE)), st.sampled_from([0, 1, 300, 512, 600])))
"""Near each other, so that units are shared; ``min`` keeps them within the store."""


class SlowEngine:
    """Does everything at once, but only after as many turns of the event loop as it is told."""

    name = "slow"
    parallelism = 1

    def __init__(self, delays: list[int]) -> None:
        self._delays = delays
        self._calls = 0

    async def _wait(self) -> None:
        self._calls += 1
        for _ in range(self._delays[self._calls % len(self._delays)]):
            await trio.lowlevel.checkpoint()

    async def read(self, fd: int, into: bytearray | memoryview, position: int) -> None:
        await self._wait()
        assert os.preadv(fd, (into,), position) == len(into)

    async def write(self, fd: int, data: Data, position: int) -> None:
        await self._wait()
        assert os.pwrite(fd, data, position) == len(data)

    async def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    async def discard(self, fd: int, position: int, length: int) -> None:
        await self._wait()
        punch_hole(fd, position, length)

    def close(self) -> None:
        pass


@contextmanager
def opened(start: int, size: int, unit: int, engine: SlowEngine) -> Iterator[tuple[DirectStore, Path]]:
    with ExitStack() as resources:
        path = Path(resources.enter_context(tempfile.TemporaryDirectory())) / "store"
        path.write_bytes(b"#" * start + bytes(size) + b"#" * PAGE)
        fd, direct = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR | os.O_DIRECT)
        resources.callback(os.close, fd)
        resources.callback(os.close, direct)
        file = FileStore(fd, name="store", size=size, start=start, engine=engine)
        yield DirectStore(file, direct, start=start, unit=unit, engine=engine), path


@given(
    start=st.sampled_from([0, PAGE, 512, 700]),
    size=st.one_of(st.sampled_from([SPAN, SPAN - 100, PAGE + 1]), st.integers(1, SPAN)),
    unit=st.sampled_from([512, 4096]),
    rounds=st.lists(st.lists(PLACES, min_size=3, max_size=12), min_size=1, max_size=6),
    kinds=st.lists(st.sampled_from(["write", "read", "discard"]), min_size=1, max_size=7),
    delays=st.lists(st.integers(0, 4), min_size=1, max_size=9),
)
def test_neighbours_side_by_side_do_not_hurt_each_other(
    start: int, size: int, unit: int, rounds: list[list[int]], kinds: list[str], delays: list[int]
) -> None:
    engine = SlowEngine(delays)

    async def play() -> None:
        with opened(start, size, unit, engine) as (store, path):
            expected = bytearray(size)
            for number, cuts in enumerate(rounds):
                borders = sorted({min(cut, size) for cut in cuts})
                reads: list[tuple[int, bytearray]] = []
                before = bytes(expected)
                async with trio.open_nursery() as nursery:
                    for place, (begin, end) in enumerate(itertools.pairwise(borders)):
                        kind = kinds[(number + place) % len(kinds)]
                        if kind == "discard":
                            expected[begin:end] = bytes(end - begin)
                            nursery.start_soon(store.discard, begin, end - begin)
                        elif kind == "write":
                            data = bytes([(16 * number + place) % 255 + 1]) * (end - begin)
                            expected[begin:end] = data
                            nursery.start_soon(store.write, begin, data)
                        else:
                            reads.append((begin, bytearray(end - begin)))
                            nursery.start_soon(store.read, *reads[-1])
                    store.check()
                store.check()
                assert all(into == before[begin : begin + len(into)] for begin, into in reads)
                whole = bytearray(size)
                await store.read(0, whole)
                assert whole == expected
            assert path.read_bytes() == b"#" * start + expected + b"#" * PAGE

    trio.run(play)
