"""A caller of policies in small: keeps the books that a cache would keep, and holds the policy to its contract."""

from __future__ import annotations

from collections.abc import Iterator

from policies import MISS, MISS_QUEUED, Op, Policy, PolicyError, Work, create_policy

BLOCK = 65536


class Driver:
    """One policy and what must be true of it.

    :ivar cached: oblock to cblock of all that is mapped.
    :ivar dirty: cblocks that are dirty.
    :ivar outstanding: work handed out and not completed.
    """

    def __init__(self, name: str, cache_blocks: int, origin_blocks: int) -> None:
        self.policy: Policy = create_policy(
            name, cache_blocks=cache_blocks, origin_blocks=origin_blocks, block_size=BLOCK, now_ms=0
        )
        self.cache_blocks = cache_blocks
        self.cached: dict[int, int] = {}
        self.dirty: set[int] = set()
        self.outstanding: list[Work] = []
        self.now_ms = 0

    def load(self, oblock: int, cblock: int, dirty: bool, hint: int | None) -> None:
        if oblock in self.cached or cblock in self.cached.values():
            try:
                self.policy.load_mapping(oblock, cblock, dirty, hint)
            except PolicyError:
                return
            msg = "a second mapping was accepted"
            raise AssertionError(msg)
        self.policy.load_mapping(oblock, cblock, dirty, hint)
        self.cached[oblock] = cblock
        if dirty:
            self.dirty.add(cblock)

    def load_all(self, known: list[tuple[int, int, bool, int | None]]) -> None:
        """Load blocks at once; they must fit."""
        self.policy.load_mappings(iter(known))
        self.cached.update((oblock, cblock) for oblock, cblock, _, _ in known)
        self.dirty.update(cblock for _, cblock, dirty, _ in known if dirty)

    def bio(
        self, oblock: int, write: bool, *, fast_copy: bool = False, discarded: bool = False, length: int = 4096
    ) -> int:
        """Refer a bio at the start of a block; a write hit makes the block dirty.  Return the policy's answer."""
        self.policy.observe_bio(oblock * BLOCK, length, discarded, self.now_ms)
        if fast_copy:
            found, work = self.policy.lookup_with_work(oblock, write, True)
            if work is not None:
                assert (work.op, work.oblock) == (Op.PROMOTE, oblock)
                self._take(work)
        else:
            found = self.policy.lookup(oblock, write, False)
        assert found == self.cached.get(oblock, found)
        assert found in {MISS, MISS_QUEUED} or oblock in self.cached
        if found >= 0 and write and found not in self.dirty:
            self.dirty.add(found)
            self.policy.set_dirty(found)
        return found

    def ask(self, *, idle: bool) -> Work | None:
        work = self.policy.get_background_work(idle)
        if work is not None:
            self._take(work)
        return work

    def _take(self, work: Work) -> None:
        assert all(work.oblock != other.oblock for other in self.outstanding)
        if work.op is Op.PROMOTE:
            assert work.oblock not in self.cached
            assert work.cblock not in self.cached.values()
            assert all(work.cblock != other.cblock for other in self.outstanding)
        else:
            assert self.cached[work.oblock] == work.cblock
        self.outstanding.append(work)

    def complete(self, work: Work, *, success: bool, dirty: bool = False) -> None:
        """Finish an item; ``dirty``: a promotion was done by a write of the whole block."""
        self.outstanding.remove(work)
        self.policy.complete_background_work(work, success)
        if not success:
            return
        if work.op is Op.PROMOTE:
            self.cached[work.oblock] = work.cblock
            self._set(work.cblock, dirty)
        elif work.op is Op.DEMOTE:
            del self.cached[work.oblock]
            self.dirty.discard(work.cblock)
        else:
            self._set(work.cblock, dirty=False)

    def _set(self, cblock: int, dirty: bool) -> None:
        if dirty:
            self.dirty.add(cblock)
            self.policy.set_dirty(cblock)
        else:
            self.dirty.discard(cblock)
            self.policy.clear_dirty(cblock)

    def toggle(self, cblock: int) -> None:
        """Let a block become dirty or clean for reasons of the cache's own; work may be outstanding for it."""
        if cblock in self.cached.values():
            self._set(cblock, dirty=cblock not in self.dirty)

    def invalidate(self, cblock: int) -> None:
        oblock = next((oblock for oblock, other in self.cached.items() if other == cblock), None)
        busy = cblock in {work.cblock for work in self.policy._tracker.check().values()}  # type: ignore[attr-defined]
        try:
            done = self.policy.invalidate_mapping(cblock)
        except PolicyError:
            assert busy
            return
        assert not busy
        assert done == (oblock is not None)
        if oblock is not None:
            del self.cached[oblock]
            self.dirty.discard(cblock)

    def tick(self, milliseconds: int) -> None:
        self.now_ms += milliseconds
        self.policy.tick(self.now_ms)

    def drain(self, *, idle: bool) -> Iterator[Work]:
        """Ask for work and do it until there is none."""
        while (work := self.ask(idle=idle)) is not None:
            self.complete(work, success=True)
            yield work

    def check(self) -> None:
        """Assert that the policy's books are sound, and that they are ours."""
        self.policy.check()
        reserved = self.policy.residency() - len(self.cached)
        assert reserved >= sum(work.op is Op.PROMOTE for work in self.outstanding)
        in_use = set(self.cached.values())
        assert self.dirty <= in_use
        for cblock in range(self.cache_blocks):
            assert cblock in in_use or self.policy.get_hint(cblock) == 0
        outstanding = self.policy._tracker.check().values()  # type: ignore[attr-defined]
        assert all(work in outstanding for work in self.outstanding)
