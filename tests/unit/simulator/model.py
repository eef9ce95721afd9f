"""What a mount does at its origin, told as plainly as can be: sets of sectors, lists of operations, and no speed."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count, dropwhile, pairwise, takewhile

from fusecache.simulator import read_ahead
from fusecache.simulator.rules import DataPath, Rules
from fusecache.streams import Streams, Thrift
from policies import Op, Policy, Work
from tests.unit.simulator.making import Request

SECTOR = 512


@dataclass
class Piece:
    index: int
    time: int
    write: bool
    oblock: int
    start: int
    end: int
    """Bytes of the image."""


@dataclass
class Operation:
    write: bool
    start: int
    end: int
    goes_on: bool = False
    """It begins at the end of the block that the one before it began in: no seek."""


@dataclass
class Step:
    """Blocks that were read ahead together; those that are still there, and who wants them."""

    size: int
    kept: set[int]
    unwanted: set[int]
    unread: set[int]


@dataclass
class Model:
    """The origin's side of a mount; ``merged`` is how many bytes neighbours in one operation have at most."""

    block_size: int
    data_path: DataPath
    rules: Rules
    merged: int
    per_look: int
    origin_blocks: int
    operations: list[Operation] = field(default_factory=list)
    tally: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            (
                *("hits", "promotions", "demotions", "writebacks", "overwrite_promotions", "absorbed", "fills"),
                *("written", "read_ahead", "read_ahead_used"),
            ),
            0,
        )
    )
    cached: dict[int, set[int]] = field(default_factory=dict)
    """Valid sectors of each cached block, counted from the start of the image."""
    dirty: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Since which request, and which time."""
    moved_besides: int = 0
    run: list[Piece] = field(default_factory=list)
    streams: Streams = field(init=False)
    thrift: Thrift = field(default_factory=Thrift)
    steps: list[Step] = field(default_factory=list)
    just_read: range = range(0)

    def __post_init__(self) -> None:
        most = self.rules.read_ahead
        self.streams = Streams(min(2 * max(1, read_ahead._UNIT // self.block_size), most), most)

    def figures(self) -> dict[str, int]:
        starts = [-1, *(operation.end for operation in self.operations)]
        return {
            **self.tally,
            "reads": sum(not operation.write for operation in self.operations),
            "writes": sum(operation.write for operation in self.operations),
            "seeks": sum(
                operation.start != at and not operation.goes_on
                for operation, at in zip(self.operations, starts, strict=False)
            ),
            "moved": sum(operation.end - operation.start for operation in self.operations) + self.moved_besides,
        }

    def pieces(self, requests: list[Request], times: list[int]) -> list[list[Piece]]:
        """Cut requests into pieces, one list for each request."""
        numbers = count()
        cut = []
        for (op, offset, length), time in zip(requests, times, strict=True):
            ends = [end for end in range(offset + 1, offset + length) if end % self.block_size == 0]
            cut.append(
                [
                    Piece(next(numbers), time, op == "w", start // self.block_size, start, end)
                    for start, end in pairwise([offset, *ends, offset + length])
                ]
            )
        return cut

    def sectors(self, oblock: int) -> set[int]:
        per_block = self.block_size // SECTOR
        return set(range(oblock * per_block, (oblock + 1) * per_block))

    def is_whole(self, piece: Piece) -> bool:
        return piece.end - piece.start == self.block_size

    def comes_with_promotion(self, piece: Piece) -> bool:
        return piece.write and (self.data_path is DataPath.ABSORB or self.is_whole(piece))

    # What happens to a piece

    def look(self, piece: Piece) -> list[int]:
        """Write back what is too old; return what has turned clean."""
        cleaned = []
        if piece.index % self.per_look == 0:
            for oblock, (index, time) in list(self.dirty.items()):
                too_old = piece.index - index > self.rules.dirty_requests or piece.time - time > self.rules.dirty_us
                if too_old and oblock in self.dirty:
                    cleaned += self.write_back(oblock)
        return cleaned

    def hit(self, piece: Piece) -> bool:
        """Serve a hit; tell whether it made the block dirty."""
        self.end_run()
        self.tally["hits"] += 1
        valid = self.cached[piece.oblock]
        if piece.write:
            self.tally["written"] += piece.end - piece.start
            return self.write(piece)
        wanted = set(range(piece.start // SECTOR, (piece.end - 1) // SECTOR + 1))
        if not wanted <= valid:
            self.make_whole(piece.oblock)
        return False

    def write(self, piece: Piece) -> bool:
        valid = self.cached[piece.oblock]
        touched = range(piece.start // SECTOR, (piece.end - 1) // SECTOR + 1)
        for sector in touched:
            is_covered = piece.start <= sector * SECTOR and (sector + 1) * SECTOR <= piece.end
            if not is_covered and sector not in valid:
                self.operations.append(Operation(False, sector * SECTOR, (sector + 1) * SECTOR))
        valid.update(touched)
        turned = piece.oblock not in self.dirty
        self.dirty.setdefault(piece.oblock, (piece.index, piece.time))
        return turned

    def make_whole(self, oblock: int) -> None:
        missing = self.sectors(oblock) - self.cached[oblock]
        self.operations.append(Operation(False, min(missing) * SECTOR, (max(missing) + 1) * SECTOR))
        self.tally["written"] += (max(missing) + 1 - min(missing)) * SECTOR
        self.cached[oblock] = self.sectors(oblock)

    def absorb(self, piece: Piece) -> None:
        self.end_run()
        self.leave_buffer(piece.oblock)
        self.tally["promotions"] += 1
        self.tally["fills"] += 1
        self.cached[piece.oblock] = set()
        if self.is_whole(piece):
            self.tally["overwrite_promotions"] += 1
        else:
            self.tally["absorbed"] += 1
            self.tally["written"] += piece.end - piece.start
        self.write(piece)

    def miss(self, piece: Piece, *, is_last: bool) -> None:
        if piece.write:
            self.leave_buffer(piece.oblock)
        elif steps := [step for step in self.steps if piece.oblock in step.kept]:
            if piece.oblock in steps[0].unwanted:
                steps[0].unwanted.remove(piece.oblock)
                self.tally["read_ahead_used"] += 1
                self.thrift.judge(wanted=True)
            if piece.end % self.block_size == 0:
                steps[0].unread.discard(piece.oblock)
            self.end_run()
            self.look_ahead(piece.oblock, piece.oblock, was_read=False)
            self.just_read = range(piece.oblock * self.block_size, (piece.oblock + 1) * self.block_size)
            return
        if self.run and piece.end - self.run[0].start > self.merged:
            self.issue()
        self.run.append(piece)
        self.just_read = range(self.run[0].start, piece.end)
        if is_last:
            self.end_run()

    def end_run(self) -> None:
        if self.run:
            first, last = self.run[0], self.run[-1]
            self.issue()
            if not last.write:
                self.look_ahead(first.oblock, last.oblock, was_read=True)

    def issue(self) -> None:
        first, last = self.run[0], self.run[-1]
        self.operations.append(Operation(first.write, first.start, last.end))
        self.run = []

    def look_ahead(self, first: int, last: int, *, was_read: bool) -> None:
        if not self.rules.read_ahead:
            return
        stream = self.streams.missed(first, last + 1)
        wanted = [oblock for oblock in stream.step(self.rules.read_ahead) if oblock < self.origin_blocks]
        if not wanted or not self.thrift.allows():
            return
        here = {oblock for step in self.steps for oblock in step.kept} | set(self.cached)
        free = list(takewhile(lambda oblock: oblock not in here, dropwhile(here.__contains__, wanted)))
        stream.stepped((free or wanted)[-1] + 1)
        if not free:
            return
        room = max(read_ahead.ROOM, 4 * self.rules.read_ahead)
        for step in sorted(self.steps, key=lambda step: not step.unread.isdisjoint(step.kept)):
            if sum(each.size for each in self.steps) + len(free) > room:
                for oblock in list(step.kept):
                    self.leave_buffer(oblock)
        self.steps.append(Step(len(free), set(free), set(free), set(free)))
        self.tally["read_ahead"] += len(free)
        start, end = free[0] * self.block_size, (free[-1] + 1) * self.block_size
        self.operations.append(Operation(False, start, end, goes_on=was_read and free[0] == last + 1))

    def leave_buffer(self, oblock: int) -> None:
        for step in [step for step in self.steps if oblock in step.kept]:
            step.kept.remove(oblock)
            if oblock in step.unwanted:
                step.unwanted.remove(oblock)
                self.thrift.judge(wanted=False)
            if not step.kept:
                self.steps.remove(step)

    def promote(self, oblock: int, missed: Piece | None) -> None:
        """Cache a block; ``missed`` is the piece that came just before, if it is a read of the block that missed."""
        start, end = oblock * self.block_size, (oblock + 1) * self.block_size
        self.tally["promotions"] += 1
        if missed is None:
            self.operations.append(Operation(False, start, end))
        else:
            self.tally["fills"] += 1
            self.moved_besides += (
                sum(byte not in self.just_read for byte in range(start, end, SECTOR // 8)) * SECTOR // 8
            )
            if not self.run and self.operations and start < self.operations[-1].end < end:
                self.moved_besides -= end - self.operations[-1].end  # it is counted with the operation
                self.operations[-1].end = end
        self.leave_buffer(oblock)
        self.cached[oblock] = self.sectors(oblock)

    def demote(self, oblock: int) -> list[int]:
        self.tally["demotions"] += 1
        cleaned = self.write_back(oblock)
        del self.cached[oblock]
        return cleaned

    def write_back(self, oblock: int) -> list[int]:
        """Write back a block with its neighbours; return all that has turned clean."""
        if oblock not in self.dirty:
            return []
        stretch = [oblock]
        while True:
            before = list(stretch)
            for neighbour, place in ((stretch[0] - 1, 0), (stretch[-1] + 1, len(stretch))):
                at = place if place == 0 else len(stretch)
                if neighbour in self.dirty and len(stretch) < max(self.merged // self.block_size, 1):
                    stretch.insert(at, neighbour)
            if stretch == before:
                break
        for each in stretch:
            if len(runs_of(self.cached[each])) > 2:
                self.make_whole(each)
        for run in runs_of(set().union(*(self.cached[each] for each in stretch))):
            self.operations.append(Operation(True, run[0] * SECTOR, (run[-1] + 1) * SECTOR))
        for each in stretch:
            del self.dirty[each]
            self.tally["writebacks"] += 1
        return stretch


def runs_of(sectors: set[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for sector in sorted(sectors):
        if runs and runs[-1][-1] == sector - 1:
            runs[-1].append(sector)
        else:
            runs.append([sector])
    return runs


def play_policy(model: Model, policy: Policy, requests: list[Request], times: list[int]) -> None:
    """Let a policy decide; without ticks, and without gaps."""
    cblocks: dict[int, int] = {}

    def clean(oblocks: list[int]) -> None:
        for oblock in oblocks:
            policy.clear_dirty(cblocks[oblock])

    def carry_out(work: Work, missed: Piece | None) -> None:
        if work.op is Op.PROMOTE:
            model.promote(work.oblock, missed if missed is not None and missed.oblock == work.oblock else None)
            cblocks[work.oblock] = work.cblock
            policy.complete_background_work(work, True)
            policy.clear_dirty(work.cblock)
        else:
            clean((model.demote if work.op is Op.DEMOTE else model.write_back)(work.oblock))
            policy.complete_background_work(work, True)

    for request in model.pieces(requests, times):
        for piece in request:
            clean(model.look(piece))
            missed: Piece | None = None
            promotion: Work | None = None
            if model.comes_with_promotion(piece):
                cblock, promotion = policy.lookup_with_work(piece.oblock, True, True)
            else:
                cblock = policy.lookup(piece.oblock, piece.write, False)
            if promotion is not None:
                cblocks[piece.oblock] = promotion.cblock
                policy.complete_background_work(promotion, True)
                policy.set_dirty(promotion.cblock)
                model.absorb(piece)
            elif cblock >= 0:
                if model.hit(piece):
                    policy.set_dirty(cblock)
            else:
                model.miss(piece, is_last=piece is request[-1])
                missed = None if piece.write else piece
            for _ in range(8):
                work = policy.get_background_work(False)
                if work is None:
                    break
                carry_out(work, missed)


def play_lru(model: Model, cache_blocks: int, requests: list[Request], times: list[int]) -> None:
    """Let exact LRU decide."""
    recent: list[int] = []
    for request in model.pieces(requests, times):
        for piece in request:
            model.look(piece)
            if piece.oblock in recent:
                recent.remove(piece.oblock)
                model.hit(piece)
            else:
                if not model.comes_with_promotion(piece):
                    model.miss(piece, is_last=piece is request[-1])
                else:
                    model.end_run()
                if len(recent) == cache_blocks:
                    model.demote(recent.pop(0))
                if model.comes_with_promotion(piece):
                    model.absorb(piece)
                else:
                    model.promote(piece.oblock, None if piece.write else piece)
            recent.append(piece.oblock)
