"""Several tasks side by side, as one; and one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, final

import trio

from fusecache.errors import FusecacheError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

T = TypeVar("T")


@final
class QuickLock:
    """A lock that is taken without a pass of the scheduler while nobody has it; a pass costs as much as a small read.

    Whoever takes it again and again has to let others run by himself.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def __aenter__(self) -> None:
        """Take it."""
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        """Let the next one have it."""
        self._lock.release()


async def gather(tasks: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run all tasks; when every one of them has ended, raise the first FusecacheError of theirs.

    No task is cancelled because another one fails.  A single one is simply awaited; without any, nothing happens.
    """
    if len(tasks) < 2:  # noqa: PLR2004 - one alone
        for task in tasks:
            await task()
        return
    errors: list[FusecacheError] = []

    async def attempt(task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except FusecacheError as exc:
            errors.append(exc)

    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(attempt, task)
    if errors:
        raise errors[0]


async def for_each(items: Iterable[T], action: Callable[[T], Awaitable[None]], *, side_by_side: int) -> None:
    """Do ``action`` for every item, in order, a bounded number at a time; errors as in :func:`gather`."""
    remaining = iter(items)

    async def take() -> None:
        for item in remaining:
            await action(item)

    await gather([take] * side_by_side)


async def fail(error: Exception) -> None:
    """Be a task that fails at once."""
    raise error
