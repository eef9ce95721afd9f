"""What is to be compared: policies, and sizes of the cache; all of it is checked before anything is simulated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from fusecache.errors import InvalidError, UsageError
from fusecache.grammar import parse_policy
from fusecache.simulator.limits import LIMITS
from fusecache.simulator.requests import count_requests, count_unique
from fusecache.units import parse_size
from policies import PolicyError, create_policy
from policies.sizes import check_sizes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusecache.config import PolicyChoice
    from fusecache.simulator.trace import Trace

_PERCENT: Final = re.compile(r"([0-9]{1,99}(?:\.[0-9]{1,99})?)%")
_BLOCKS: Final = re.compile(r"([0-9]{1,19}) ?blocks?")
_TRIAL_BLOCKS: Final = 64


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy with its tunables."""

    text: str
    """As the user wrote it; results have this name."""
    choice: PolicyChoice

    @classmethod
    def parse(cls, text: str, block_size: int) -> Contender:
        """Read ``NAME[,KEY=VALUE...]``, and try whether there is such a policy with such tunables.

        :raises UsageError: the grammar is broken.
        :raises InvalidError: no such policy or tunable, or a bad value.
        """
        contender = cls(text, parse_policy(text))
        contender._try(block_size)
        return contender

    def _try(self, block_size: int) -> None:
        choice = self.choice
        if choice.migration_threshold is not None:
            msg = "a simulation has no migration_threshold: its migrations take no time"
            raise InvalidError(msg)
        if choice.name in LIMITS:
            if choice.tunables:
                msg = f"{choice.name} has no tunables"
                raise InvalidError(msg)
            return
        try:
            policy = create_policy(
                choice.name, cache_blocks=_TRIAL_BLOCKS, origin_blocks=_TRIAL_BLOCKS, block_size=block_size
            )
            for key, value in choice.tunables:
                policy.set_config_value(key, value)
        except PolicyError as exc:
            raise InvalidError(str(exc)) from exc


def parse_contenders(texts: Iterable[str], block_size: int) -> tuple[Contender, ...]:
    """Read the policies asked for, each once, and put the limits behind them; raises as :meth:`Contender.parse`."""
    return tuple(Contender.parse(text, block_size) for text in dict.fromkeys([*texts, *LIMITS]))


@dataclass(frozen=True, slots=True)
class CacheSize:
    """How large a cache is to be: a number of blocks, or a share of the blocks that a trace touches."""

    blocks: int = 0
    share: Fraction | None = None

    @classmethod
    def parse(cls, text: str, block_size: int) -> CacheSize:
        """Read ``SIZE``, ``N%`` or ``Nblocks``.

        :raises UsageError: it is none of them, or less than one block.
        """
        if match := _PERCENT.fullmatch(text):
            size = cls(share=Fraction(match[1]) / 100)
        elif match := _BLOCKS.fullmatch(text):
            size = cls(int(match[1]))
        else:
            size = cls(parse_size(text) // block_size)
        if not (size.blocks or size.share):
            msg = f"cache size {text!r} is less than one block"
            raise UsageError(msg)
        return size


def require_replayable(trace: Trace, block_size: int, most_requests: int) -> None:
    """Refuse a trace that becomes more block requests than are to be kept: a long request becomes many.

    :raises InvalidError: it does.
    """
    if (count := count_requests(trace, block_size)) > most_requests:
        msg = (
            f"{trace.name}: {count} requests when cut into blocks of {block_size} bytes, more than {most_requests} "
            "(--most-requests allows more, if memory does)"
        )
        raise InvalidError(msg)


def resolve_sizes(sizes: Iterable[CacheSize], trace: Trace, block_size: int) -> list[int]:
    """Count the blocks of each cache size for a trace, each count once, in the order given; a share is at least one.

    :raises InvalidError: more blocks than a policy can have.
    """
    unique: int | None = None
    resolved: dict[int, None] = {}
    for size in sizes:
        blocks = size.blocks
        if size.share is not None:
            if unique is None:
                unique = count_unique(trace, block_size)
            blocks = max(1, round(unique * size.share))
        try:
            check_sizes(blocks, blocks, block_size)
        except PolicyError as exc:
            raise InvalidError(str(exc)) from exc
        resolved[blocks] = None
    return list(resolved)
