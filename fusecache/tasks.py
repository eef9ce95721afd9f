"""Several tasks side by side, as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

from fusecache.errors import FusecacheError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

T = TypeVar("T")


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
