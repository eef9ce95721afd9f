"""Work that many ask for and that one of them does for all: a flush, a commit, the opening of regions.

Theory of operation
-------------------
The work is done in *rounds*, one at a time.  Whoever asks while no round runs is the *leader* of the next one, and
does it in its own task.  Whoever asks meanwhile is a *follower*, and waits.  A round begins when its leader says so
(``begin``): what its followers want by then is merged with what the leader wants, and the round serves all of them.
When it has ended, the first of those who have asked since then leads the next one.

What must hold:

* Whoever asks is served by a round that begins after the call.
* An error reaches everybody whose wish it concerns, and nobody else: if a part of the work failed
  (:class:`PartError`), those who did not want that part get another round.
* A leader or a follower may be cancelled at any moment, and nobody waits for ever because of that.  A round that loses
  its leader counts for nothing; the next leader does it again.  So work that must not end half way shields itself.

What it costs: whoever asks alone pays for two calls, since no task stands between the asker and the work.  A leader
that waits for something before it begins (a lock, or the others who are about to run) shares its round with more
followers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import trio

from fusecache.errors import FusecacheError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Wish(Protocol):
    """What somebody wants of a round: flags, or a frozen set."""

    def __or__(self, other: Any, /) -> Self: ...

    def __and__(self, other: Any, /) -> Self: ...


W = TypeVar("W", bound=Wish)


class PartError(Exception):
    """A part of what a round was to do failed; those who did not want it get another round.

    :param part: what failed.
    :param error: for those who wanted any of it.
    """

    def __init__(self, part: Wish, error: FusecacheError) -> None:
        super().__init__(str(error))
        self.part = part
        self.error = error


@dataclass(slots=True)
class _Follower(Generic[W]):
    want: W
    woken: trio.Event = field(default_factory=trio.Event)
    error: FusecacheError | None = None
    leads: bool = False
    """Whether it was woken to lead the next round."""
    left: bool = False
    """Whether it was cancelled, and waits no longer."""


class GroupCommit(Generic[W]):
    """The rounds of one kind of work.

    :param work: does one round.  It gets ``begin``, which it has to call once: that begins the round, and returns what
        is wanted of it.  It may raise FusecacheError for all of it, or :class:`PartError`.
    """

    __slots__ = ("_followers", "_leading", "_served", "_want", "_work")

    def __init__(self, work: Callable[[Callable[[], W]], Awaitable[None]]) -> None:
        self._work = work
        self._leading = False
        """Whether somebody leads a round, or has been woken to."""
        self._followers: list[_Follower[W]] = []
        """Those who wait for a round that has not begun."""
        self._served: list[_Follower[W]] = []
        """Those whom the round under way serves, beside its leader."""
        self._want: W | None = None
        """What the leader wants."""

    async def join(self, want: W) -> None:
        """Wait for the end of a round that begins after this call; raises what went wrong with what we want."""
        if self._leading and not await self._follow(want):
            return
        while not await self._lead(want):
            pass

    async def _follow(self, want: W) -> bool:
        """Wait until we are served, or have to lead the next round; returns whether we have to."""
        follower = _Follower(want)
        self._followers.append(follower)
        try:
            await follower.woken.wait()
        except BaseException:
            follower.left = True
            if follower.leads:  # we were cancelled first, and woken then
                self._wake_leader()
            raise
        if follower.error is not None:
            raise follower.error
        return follower.leads

    async def _lead(self, want: W) -> bool:
        """Do a round; returns whether it has done what we want."""
        self._leading = True
        self._want = want
        error: FusecacheError | None = None
        part: Wish | None = None
        try:
            await self._work(self._begin)
        except PartError as exc:
            error, part = exc.error, exc.part
        except FusecacheError as exc:
            error = exc
        except BaseException:
            self._followers[:0] = self._served
            self._served = []
            self._wake_leader()
            raise
        if self._served:
            self._answer(error, part)
        if part is not None and not want & part:
            return False
        self._wake_leader()
        if error is not None:
            raise error
        return True

    def _answer(self, error: FusecacheError | None, part: Wish | None) -> None:
        """Wake the followers whom the round has served; those who did not want the part that failed wait on."""
        served, self._served = self._served, []
        if part is not None:
            self._followers[:0] = [follower for follower in served if not follower.want & part]
            served = [follower for follower in served if follower.want & part]
        for follower in served:
            follower.error = error
            follower.woken.set()

    def _begin(self) -> W:
        """Begin the round: from here on those who ask wait for the next one."""
        want = self._want
        assert want is not None, "a round begins once"
        self._want = None
        if self._followers:
            self._served, self._followers = self._followers, []
            for follower in self._served:
                want |= follower.want
        return want

    def _wake_leader(self) -> None:
        """Let the first who waits lead the next round, if anybody does."""
        self._leading = False
        if self._followers:
            self._followers = [follower for follower in self._followers if not follower.left]
        if self._followers:
            leader = self._followers.pop(0)
            self._leading = leader.leads = True
            leader.woken.set()

    def check(self) -> None:
        """Assert that nobody waits for a leader that there is not."""
        assert self._leading or not (self._followers or self._served)
