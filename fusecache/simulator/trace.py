"""Traces: what was asked of a disk, and when; read from files of several formats."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fusecache.errors import FusecacheError, UsageError
from fusecache.simulator.columns import MAX_LENGTH, MOST_REQUESTS, Columns, LineError
from fusecache.simulator.formats import read_requests
from fusecache.simulator.unpacking import STANDARD_INPUT, UnpackError, unpacked

_SUFFIXES: Final = (
    *(".gz", ".xz", ".bz2", ".zst"),
    *(".csv", ".txt", ".log", ".iolog", ".blkparse", ".spc", ".vscsi"),
)


class TraceError(FusecacheError):
    """A trace that cannot be read; the message names the file, and the line where there is one."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order in which they were made: at least one, a column for each of their properties."""

    name: str
    """What users call it: see :func:`trace_names`."""
    file: str
    """Where it was read from."""
    format: str
    """Of which format it is."""
    notes: tuple[str, ...]
    """What users should know of how it was read, a line each."""
    times_us: array[int]
    """Microseconds since the first request; never falls."""
    writes: bytearray
    """1 where the request writes, 0 where it reads."""
    offsets: array[int]
    """Bytes."""
    lengths: array[int]
    """Bytes, from 1 to 1 GiB; no request ends beyond 2**63 - 1."""
    timed: bool
    """Whether the times are real; if not, they are the numbers of the requests, from 0."""

    def __len__(self) -> int:
        return len(self.writes)

    def check(self) -> None:
        """Assert what the fields promise."""
        count = len(self.writes)
        assert count > 0
        assert len(self.times_us) == len(self.offsets) == len(self.lengths) == count
        assert all(earlier <= later for earlier, later in zip(self.times_us, self.times_us[1:], strict=False))
        assert self.times_us[0] == 0
        assert set(self.writes) <= {0, 1}
        assert min(self.offsets) >= 0
        assert min(self.lengths) > 0
        assert max(self.lengths) <= MAX_LENGTH
        assert max(map(int.__add__, self.offsets, self.lengths)) < 2**63
        assert self.timed or list(self.times_us) == list(range(count))


def read_trace(
    path: Path,
    most_requests: int = MOST_REQUESTS,
    *,
    name: str | None = None,
    form: str | None = None,
    devices: Iterable[str] = (),
) -> Trace:
    """Read a trace, plain or packed; it is read as a stream, and only its requests are kept.

    :param path: a file, or ``-`` for the standard input.
    :param name: what to call it; None to name it after the file.
    :param form: its format, one of ``FORMATS``; None to recognise it.
    :param devices: those whose requests are wanted; if none, all.
    :raises TraceError: the file cannot be read, is of no known format, is malformed, or holds no request or too
        many.
    """
    columns = Columns(most_requests, frozenset(device.encode("utf-8", "surrogateescape") for device in devices))
    try:
        with unpacked(path) as file:
            form = read_requests(file, columns, form, str(path))
    except LineError as exc:
        msg = f"{path}: {exc}" if exc.line is None else f"{path}:{exc.line}: {exc}"
        raise TraceError(msg) from None
    except UnpackError as exc:
        msg = f"{path}: {exc}"
        raise TraceError(msg) from None
    if not len(columns):
        msg = f"{path}: no request in it"
        raise TraceError(msg)
    return Trace(
        name=name or _name(path),
        file=str(path),
        format=form,
        notes=tuple(columns.notes),
        times_us=columns.times_us,
        writes=columns.writes,
        offsets=columns.offsets,
        lengths=columns.lengths,
        timed=columns.timed,
    )


def trace_names(paths: Sequence[Path]) -> list[str]:
    """Name traces, each differently: after the file, by the path where that is not enough, then by a number.

    :raises UsageError: the standard input is to be more than one of them.
    """
    if sum(str(path) == STANDARD_INPUT for path in paths) > 1:
        msg = "the standard input is one trace: - can stand once"
        raise UsageError(msg)
    names = [_name(path) for path in paths]
    alike = Counter(names)
    names = [str(path) if alike[name] > 1 else name for path, name in zip(paths, names, strict=True)]
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[index] = f"{name} ({seen[name]})"
    return names


def _name(path: Path) -> str:
    """Name a trace after its file, without its suffixes."""
    if str(path) == STANDARD_INPUT:
        return "stdin"
    name = path.name
    while (stem := name.removesuffix(Path(name).suffix)) and Path(name).suffix in _SUFFIXES:
        name = stem
    return name
