"""An exerciser of mounted images, in the manner of fsx: random operations from a seed, each held against a model.

Theory of operation
-------------------
A :class:`World` (``drawn_worlds.py``) is drawn from a seed: image, cache, blocks, mode, policy.  An :class:`Exerciser`
opens the image in several ways at once (``ways.py``), draws operations, carries each out on the mount and on the model
(``promised.py``), and compares all that is read.  What it draws does not depend on what happens, so one seed draws the
same operations again; on a failure the seed and the last operations are added to the error.

*Places*: half of all operations go to a fifth of the image, and begin or end at an edge of a sector, a page or a block,
or a few bytes from one.

*Bursts* are reads, writes and fsyncs side by side.  Writes of one overlap nothing else of it; reads may overlap.  None
goes through a map where the image is not what the page cache holds: while a page is mapped the kernel reads others
around it, and keeps them although somebody is just writing there past the page cache (docs/reliability.rst).

*One page at a time by one way*, as an application has to do it: where the image is mapped, what is dirty there is
synced before another way uses these pages, and a burst leaves them alone that it writes another way.

*Crashes* (kill -9) come after an fsync, and everything has to be there; or some operations later, and each sector must
be as promised.  Pages that are mapped and dirty then may be lost.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.integration import ways
from tests.integration.drawn_worlds import World
from tests.integration.lives import mount_as
from tests.integration.mounts import GATE, LoopDevices, Mount, fusecache, wait_until
from tests.integration.promised import PAGE, SECTOR, Promised, sectors

REMEMBERED: Final = 40
"""Operations that are told on a failure."""
BURST: Final = 8
DWELL_BLOCKS, DWELL_TIMES = 6, 40
HOT: Final = 1 / 5
OFF_EDGES: Final = (0, 0, 0, 0, -1, 1, 7, -SECTOR, SECTOR)
LONGEST: Final = 100_000
LONGEST_REST: Final = 1.5
"""Seconds: enough for commits to fall due, and for an idle origin to be written back to."""
SHARES: Final = {
    "read": 60.0,
    "write": 60.0,
    "burst": 25.0,
    "sync": 12.0,
    "discard": 8.0,
    "dwell": 5.0,
    "verify": 1.0,
    "rest": 1.0,
    "policy": 2.0,
    "mode": 2.0,
    "flush": 0.6,
    "remount": 0.4,
    "kill": 0.4,
    "kill after fsync": 0.3,
}
"""How often each happens."""
MODE_SHARES: Final = {"writeback": 6.0, "writethrough": 3.0, "passthrough": 1.0}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a burst: a write of these data, or a read."""

    way: str
    offset: int
    length: int
    data: bytes | None

    def disturbs(self, other: Part, unit: int) -> bool:
        """Tell whether it may not be done beside another: one writes where the other is, in units of so many bytes."""
        is_apart = (
            self.offset + self.length <= other.offset // unit * unit
            or other.offset + other.length <= self.offset // unit * unit
        )
        return not is_apart and not (self.data is None and other.data is None)


class Exerciser:
    """Exercises a mount, which is not mounted before and is not at the end.

    :ivar story: all operations so far, in words.
    """

    def __init__(self, world: World, mount: Mount, loops: LoopDevices | None) -> None:
        self.world = world
        self.story: list[str] = []
        self.model = Promised(world.content())
        self._mount = mount
        self._loops = loops
        self._random = random.Random(f"operations {world.seed}")
        self._mode, self._policy = world.mode, world.policy
        self._hot = self._random.uniform(0, 1 - HOT)
        self._ways: dict[str, ways.Way] = {}

    def run(self, operations: int) -> None:
        """Do so many operations, and hold the image and then the origin against the model; failures say all of it."""
        with self._told(operations), ThreadPoolExecutor(BURST) as threads:
            self.open()
            for _ in range(operations):
                self._operate(threads)
            self.end()

    @contextmanager
    def _told(self, operations: int) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            last = deque(self.story, REMEMBERED)
            exc.add_note("\n".join([str(self.world), *last, f"again: {self.world.replay(operations)}"]))
            raise

    def _tell(self, line: str) -> None:
        self.story.append(f"{len(self.story) + 1:5} {line}")

    # Opening and closing

    def open(self) -> None:
        """Mount, and open the image in all ways."""
        mount_as(self._mount, self._mode, self._policy, self.world.page_cache)
        for name in self.world.ways:
            self._ways[name] = ways.open_way(name, self._mount.image, self._loops)

    def close(self) -> None:
        """Close all that is open."""
        while self._ways:
            self._ways.popitem()[1].close()

    def verify(self) -> None:
        """Read the whole image in one way, and compare."""
        self._verify("buffered")

    def end(self) -> None:
        """Verify, have the cached blocks checked against the origin, and then the origin against the model."""
        self._tell("the end")
        self.verify()
        self.close()
        self._mount.unmount()
        parts = ("--cache", self._mount.cache, "--metadata", self._mount.metadata)
        fusecache("check", "--data", self._mount.origin, *parts)
        mount_as(self._mount, "writeback", "smq", self.world.page_cache)
        self._mount.setxattr("mode", "writethrough")
        self._mount.unmount()
        self._require(self.model.wrong(0, self._mount.origin.read_bytes(), len(self.model)), "the origin")

    # Operations

    def _operate(self, threads: ThreadPoolExecutor) -> None:
        """Draw an operation and carry it out."""
        kind = self._random.choices(list(SHARES), list(SHARES.values()))[0]
        name = self._random.choice(self.world.ways)
        actions: dict[str, Callable[[], None]] = {
            "read": lambda: self._read(name),
            "write": lambda: self._write(name),
            "burst": lambda: self._burst(threads),
            "sync": lambda: self._sync(name),
            "discard": lambda: self._discard(name),
            "dwell": lambda: self._dwell(name),
            "verify": lambda: self._verify(name),
            "rest": self._rest,
            "policy": lambda: self._change("policy", self._drawn_policy()),
            "mode": lambda: self._change("mode", self._drawn_mode()),
            "flush": self._flush,
            "remount": self._remount,
            "kill": self._kill,
            "kill after fsync": self._kill_after_fsync,
        }
        actions[kind]()
        self.model.check()

    def _read(self, name: str) -> None:
        self._read_there(name, *self._place(self._ways[name]))

    def _read_there(self, name: str, offset: int, length: int) -> None:
        self._tell(f"{name}: read {offset} +{length}")
        self._settle_pages(name, offset, length)
        self._require(self.model.wrong(offset, self._ways[name].read(offset, length), length), f"{name}")

    def _write(self, name: str) -> None:
        self._write_there(name, *self._place(self._ways[name]))

    def _write_there(self, name: str, offset: int, length: int) -> None:
        way = self._ways[name]
        data, what = self._data(length)
        self._tell(f"{name}: write {offset} +{length}, {what}")
        self._settle_pages(name, offset, length)
        way.write(offset, data)
        self.model.write((offset, data))
        if way.writes_are_durable:
            self.model.settle(offset, length)

    def _discard(self, name: str) -> None:
        """Have a range read as zeros, where the kernel's requests for that come through."""
        way, punches = self._ways[name], self._chance(0.5)
        offset, length = self._place(way)
        if isinstance(way, ways.Mapped) or GATE:
            return
        self._tell(f"{name}: {'punch' if punches else 'zero'} {offset} +{length}")
        self._settle_pages(name, offset, length)
        way.discard(offset, length, punches=punches)
        self.model.write((offset, bytes(length)))
        if way.writes_are_durable:
            self.model.settle(offset, length)

    def _sync(self, name: str) -> None:
        way, data_only, in_part = self._ways[name], self._chance(0.5), self._chance(0.5)
        offset, length = self._place(way)
        if isinstance(way, ways.Mapped) and in_part:
            self._tell(f"{name}: msync {offset} +{length}")
            way.sync_pages(sectors(offset, length, PAGE))
            self.model.flush(but_pages=way.dirty)
            return
        self._tell(f"{name}: {'fdatasync' if data_only else 'fsync'}")
        way.sync(data_only=data_only)
        self._note_sync()

    def _dwell(self, name: str) -> None:
        """Read and write a few whole blocks again and again: policies that wait for that cache something."""
        way, block = self._ways[name], self.world.block
        first, count = self._random.random(), 1 + int(self._random.random() * DWELL_BLOCKS)
        self._tell(f"{name}: dwell on {count} blocks")
        for _ in range(DWELL_TIMES):
            chosen, is_write = int(count * self._random.random()), self._chance(0.7)
            number = int(first * way.reach / block) + chosen
            offset = min(number * block, way.reach - way.unit) // way.unit * way.unit
            length = min(block, way.reach - offset) // way.unit * way.unit
            if is_write:
                self._write_there(name, offset, length)
            else:
                self._read_there(name, offset, length)

    def _burst(self, threads: ThreadPoolExecutor) -> None:
        """Draw operations, have them done side by side, and judge them when all have ended."""
        wanted = self._drawn_burst()
        has_fsync = self._chance(0.3)
        self._tell(f"these {len(wanted)} side by side" + (", and an fsync" if has_fsync else ""))
        for each in wanted:
            self._settle_pages(each.way, each.offset, each.length)
        fsync = threads.submit(self._ways["buffered"].sync) if has_fsync else None
        found = list(threads.map(self._carry_out, wanted))
        if fsync:
            fsync.result()
            self._note_sync()  # before the writes are noted: it promises nothing of what was under way
        self.model.write(*((each.offset, each.data) for each in wanted if each.data is not None))
        for each, data in zip(wanted, found, strict=True):
            way = self._ways[each.way]
            if each.data is None:
                self._require(self.model.wrong(each.offset, data, each.length), f"{each.way}, side by side")
            elif isinstance(way, ways.Mapped):
                way.dirty.update(sectors(each.offset, each.length, PAGE))
            elif way.writes_are_durable:
                self.model.settle(each.offset, each.length)

    def _drawn_burst(self) -> list[Part]:
        unit = PAGE if "mapped" in self.world.ways else 1
        may_be_mapped = self.world.page_cache == "image"
        names = [name for name in self.world.ways if may_be_mapped or name != "mapped"]
        parts: list[Part] = []
        for _ in range(2 + int(self._random.random() * (BURST - 1))):
            name, is_write = self._random.choice(names), self._chance(0.5)
            offset, length = self._place(self._ways[name])
            data, what = self._data(length)
            part = Part(name, offset, length, data if is_write else None)
            if not any(part.disturbs(other, unit) for other in parts):
                parts.append(part)
                self._tell(
                    f"  {name}: {f'write {offset} +{length}, {what}' if is_write else f'read {offset} +{length}'}"
                )
        return parts

    def _carry_out(self, part: Part) -> bytes:
        way = self._ways[part.way]
        if part.data is None:
            return way.read(part.offset, part.length)
        way.write(part.offset, part.data)
        return b""

    def _verify(self, name: str) -> None:
        way = self._ways[name]
        self._tell(f"{name}: read all")
        self._settle_pages(name, 0, way.reach)
        self._require(self.model.wrong(0, way.read(0, way.reach), way.reach), name)

    # What is done to the mount

    def _rest(self) -> None:
        seconds = LONGEST_REST * self._random.random() ** 3
        self._tell(f"{seconds:.2f} s pass")
        time.sleep(seconds)

    def _change(self, name: str, value: str) -> None:
        waits = self._chance(0.5)
        self._tell(f"{name} {value}" + ("" if waits else ", and go on at once"))
        (self._mount.setxattr if waits else self._mount.begin)(name, value)

    def _flush(self) -> None:
        waits = self._chance(0.5)
        self._tell("flush" + ("" if waits else ", and go on at once"))
        self._mount.message("flush")
        if waits:
            wait_until(lambda: "flush" not in self._mount.getxattr("job"), "the flush is done")

    def _remount(self) -> None:
        self._draw_life()
        self._tell(f"remount: {self._mode}, {self._policy}")
        self.close()
        self._mount.unmount()
        self.model.flush()
        self.open()

    def _kill_after_fsync(self) -> None:
        self._tell("fsync, and at once:")
        self._ways["buffered"].sync()
        self._note_sync()
        self._kill()

    def _kill(self) -> None:
        self._draw_life()
        self._tell(f"kill -9, mount: {self._mode}, {self._policy}")
        self._mount.kill9()
        self.close()
        self.open()
        self._require(self.model.crash(self._mount.image.read_bytes()), "after the kill")

    # What the others stand on

    def _draw_life(self) -> None:
        self._mode, self._policy = self._drawn_mode(), self._drawn_policy()

    def _drawn_mode(self) -> str:
        """Draw a mode, most often one in which much happens."""
        return self._random.choices(list(MODE_SHARES), list(MODE_SHARES.values()))[0]

    def _drawn_policy(self) -> str:
        """Draw a policy, every second time that of this world."""
        other, is_own = self._random.choice(self.world.policies), self._chance(0.5)
        return self.world.policy if is_own else other

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _place(self, way: ways.Way) -> tuple[int, int]:
        """Draw an offset and a length that a way can do.

        However large the image is, so many random numbers are drawn: what follows does not depend on it.
        """
        rng, block = self._random, self.world.block
        offset = int(way.reach * (self._hot + HOT * rng.random() if self._chance(0.5) else rng.random()))
        edge, off_edge, has_edge = rng.choice((SECTOR, PAGE, block)), rng.choice(OFF_EDGES), self._chance(0.6)
        lengths = (1, int(SECTOR * rng.random()), SECTOR, PAGE, block, int(LONGEST * rng.random()), 2 * block)
        length = rng.choice(lengths) + rng.choice(OFF_EDGES)
        ends_at_edge = self._chance(0.3)
        if has_edge:
            offset += off_edge - offset % edge
        if ends_at_edge:
            length += -(offset + length) % edge
        offset = min(max(offset, 0), way.reach - way.unit)
        offset -= offset % way.unit
        length = min(max(length - length % way.unit, way.unit), way.reach - offset)
        return offset, length

    def _data(self, length: int) -> tuple[bytes, str]:
        """Draw what to write, and say what it is."""
        kind, number = self._random.random(), len(self.story)
        if kind < 0.2:
            return bytes(length), "zeros"
        if kind < 0.3:
            return bytes([number % 255 + 1]) * length, "one byte again and again"
        return random.Random(f"{self.world.seed} {number}").randbytes(length), "random bytes"

    def _settle_pages(self, name: str, offset: int, length: int) -> None:
        """Sync what is mapped and dirty there, before another way uses it."""
        mapped, pages = self._ways.get("mapped"), sectors(offset, length, PAGE)
        if isinstance(mapped, ways.Mapped) and name != "mapped" and not mapped.dirty.isdisjoint(pages):
            mapped.sync_pages(pages)
            self.model.flush(but_pages=mapped.dirty)

    def _note_sync(self) -> None:
        """Note that the file was synced as a whole, and its dirty pages with it."""
        if isinstance(mapped := self._ways.get("mapped"), ways.Mapped):
            mapped.dirty.clear()
        self.model.flush()

    @staticmethod
    def _require(wrong: str, what: str) -> None:
        assert not wrong, f"{what}: {wrong}"
