"""By which rules a replay is made: what the user chooses besides the policy and the sizes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final, TypeVar

from fusecache.config import MIB
from fusecache.errors import UsageError
from fusecache.simulator.slow_disk import Disk

DIRTY_REQUESTS: Final = 10_000
"""Block requests after which a dirty block is written back, unless told."""
MERGED_BYTES: Final = MIB
"""The most that neighbours in one operation have, if they are more than one."""
MOST_READ_AHEAD: Final = 64
"""Blocks that can be read ahead at once: a mount takes no more than 8, or 64 if they are small."""

_Choice = TypeVar("_Choice", bound=Enum)

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_SECOND_US: Final = 1_000_000


class DataPath(Enum):
    """What becomes of a miss."""

    COPY = "copy"
    """The origin serves it; a promotion reads the block by itself, as dm-cache does it."""
    FILL = "fill"
    """A read that misses fills its block."""
    ABSORB = "absorb"
    """Also, a write that misses goes to a cache block of its own, of which only that part is valid then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a replay plays."""

    data_path: DataPath | None = None
    """None for what mounts do: absorb if the policy does, else fill."""
    dirty_requests: float = DIRTY_REQUESTS
    """Block requests after which a dirty block is written back; :attr:`DataPath.COPY` does not know it."""
    dirty_us: float = inf
    """Microseconds of real time after which it is; likewise."""
    read_ahead: int = 0
    """Blocks that reads in order read ahead at once, at most; likewise."""
    disk: Disk = Disk.HDD
    """The disk that ``modelled_seconds`` tells of."""

    @classmethod
    def parse(cls, data_path: str | None, dirty_age: str | None, read_ahead: str | None, disk: str) -> Rules:
        """Read what the user chose, None where nothing was said; raises UsageError."""
        told = {"--dirty-age": dirty_age, "--read-ahead": read_ahead}
        path = None if data_path is None else _parse_choice(DataPath, "--data-path", data_path)
        for option, value in told.items():
            if path is DataPath.COPY and value is not None:
                msg = f"{option} and --data-path copy do not go together: dm-cache has no such thing"
                raise UsageError(msg)
        dirty_requests, dirty_us = (DIRTY_REQUESTS, inf) if dirty_age is None else _parse_age(dirty_age)
        return cls(
            data_path=path,
            dirty_requests=dirty_requests,
            dirty_us=dirty_us,
            read_ahead=0 if read_ahead is None else _parse_read_ahead(read_ahead),
            disk=_parse_choice(Disk, "--disk", disk),
        )


def _parse_choice(kind: type[_Choice], option: str, text: str) -> _Choice:
    try:
        return kind(text)
    except ValueError:
        *most, last = (choice.value for choice in kind)
        msg = f"{option} {text!r}: must be {', '.join(most)} or {last}"
        raise UsageError(msg) from None


def _parse_age(text: str) -> tuple[float, float]:
    """Read ``REQUESTS``, ``SECONDSs`` or both; return requests and microseconds."""
    requests = microseconds = inf
    for word in text.split(","):
        number = word.removesuffix("s")
        if _NUMBER.fullmatch(number) is None or not int(number):
            msg = f"--dirty-age {text!r}: must be a number of requests, of seconds (30s), or both (10000,30s)"
            raise UsageError(msg)
        if word == number:
            requests = int(number)
        else:
            microseconds = int(number) * _SECOND_US
    return requests, microseconds


def _parse_read_ahead(text: str) -> int:
    if _NUMBER.fullmatch(text) is None or int(text) > MOST_READ_AHEAD:
        msg = f"--read-ahead {text!r}: must be a number of blocks from 0 to {MOST_READ_AHEAD}"
        raise UsageError(msg)
    return int(text)
