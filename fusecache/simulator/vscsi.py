"""The traces of CloudPhysics as their recorder wrote them: binary records of SCSI commands of virtual disks.

Theory of operation
-------------------
There is no header.  All numbers are little-endian; a record is of one of two versions::

    1 (32 bytes)    serial, length, segments (4 bytes each), command, version (2), first sector, time (8)
    2 (40 bytes)    command, version (2), serial, length, segments (4), first sector, time, response time (8)

The upper byte of ``version`` says which it is.  The length is in bytes, sectors have 512, the time is in microseconds.
Commands that neither read nor write data are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Final

from fusecache.simulator.columns import Columns, LineError
from fusecache.units import SECTOR

if TYPE_CHECKING:
    from typing import BinaryIO

SCSI_WRITES: Final = {
    **dict.fromkeys((0x08, 0x28, 0x88, 0xA8), False),  # READ with 6, 10, 16 and 12 bytes
    **dict.fromkeys((0x0A, 0x2A, 0x8A, 0xAA, 0x2E, 0x8E, 0xAE), True),  # WRITE likewise, and WRITE AND VERIFY
}
"""Whether a command writes, by its first byte."""

_RECORDS: Final = 4096
"""Read at a time."""
_LOOKED_AT: Final = 16
"""Records by which a trace is recognised: it has no mark of its own."""
_MOST_COMMAND: Final = 0xFF


@dataclass(frozen=True, slots=True)
class _Record:
    """Where the fields of a version's records are."""

    struct: Struct
    command: int
    version: int
    length: int
    sector: int
    time: int


_VERSIONS: Final = {
    1: _Record(Struct("<IIIHHQQ"), command=3, version=4, length=1, sector=5, time=6),
    2: _Record(Struct("<HHIIIQQQ"), command=0, version=1, length=3, sector=5, time=6),
}


def _version_of(start: bytes) -> int | None:
    """Tell by the first records which version they are."""
    for version, record in _VERSIONS.items():
        size = record.struct.size
        whole = min(len(start) // size, _LOOKED_AT) * size
        records = list(record.struct.iter_unpack(start[:whole]))
        if records and all(
            fields[record.version] >> 8 == version and fields[record.command] <= _MOST_COMMAND for fields in records
        ):
            return version
    return None


def recognises(start: bytes) -> bool:
    """Tell whether a file that begins like this is such a trace."""
    return b"\0" in start and _version_of(start) is not None


def read_vscsi(file: BinaryIO, columns: Columns) -> None:
    """Read records into ``columns``.

    :raises LineError: a record is of another version than the first, is cut short, or makes no sense; its line is the
        number of the record.
    """
    start = file.read(_LOOKED_AT * max(record.struct.size for record in _VERSIONS.values()))
    version = _version_of(start)
    if version is None:
        raise LineError(1, "not a record of CloudPhysics' traces, of version 1 or 2")
    record = _VERSIONS[version]
    size, rest, number = record.struct.size, start, 1
    while rest:
        whole = len(rest) // size * size
        for fields in record.struct.iter_unpack(rest[:whole]):
            if fields[record.version] >> 8 != version:
                raise LineError(number, f"a record of version {fields[record.version] >> 8} among those of {version}")
            write = SCSI_WRITES.get(fields[record.command])
            if write is not None and fields[record.length]:
                offset = fields[record.sector] * SECTOR
                columns.append(number, fields[record.time], write, offset, fields[record.length])
            number += 1
        rest = rest[whole:]
        more = file.read(_RECORDS * size)
        if not more and rest:
            raise LineError(number, "the record is cut short")
        rest += more
