"""Several jobs side by side, as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

from fusecache.errors import FusecacheError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

T = TypeVar("T")


async def gather(jobs: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Do all jobs; when every one of them has ended, raise the first FusecacheError among theirs.

    None of them is cancelled for another's sake.  A single one is simply awaited, and none needs nothing.
    """
    if len(jobs) < 2:  # noqa: PLR2004 - one alone
        for job in jobs:
            await job()
        return
    errors: list[FusecacheError] = []

    async def attempt(job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        except FusecacheError as exc:
            errors.append(exc)

    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(attempt, job)
    if errors:
        raise errors[0]


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, side_by_side: int) -> None:
    """Do ``work`` for every item, in order, a bounded number at a time; errors as in :func:`gather`."""
    remaining = iter(items)

    async def take() -> None:
        for item in remaining:
            await work(item)

    await gather([take] * side_by_side)


async def fail(error: Exception) -> None:
    """Be a job that has failed already."""
    raise error
