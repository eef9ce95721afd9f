"""The traces of public archives that are text: a row a request, a layout each.

Theory of operation
-------------------
The layouts differ in which column is where and in which unit, so each is a regular expression with named groups and a
few numbers; one loop reads them all.

======================  =============================================================================================
MSR Cambridge           Timestamp,Hostname,DiskNumber,Type,Offset,Size,ResponseTime; Windows filetime (100 ns since
                        1601), ``Read`` or ``Write``, bytes
Alibaba block traces    device_id,opcode,offset,length,timestamp; ``R`` or ``W``, bytes, microseconds
Tencent CBS             Timestamp,Offset,Size,IOType,VolumeID; seconds, sectors of 512 bytes, 0 reads and 1 writes
SPC (UMass)             ASU,LBA,Size,Opcode,Timestamp and whatever follows; blocks of 512 bytes, bytes, seconds with
                        decimals; ``R`` or ``W`` in either case, perhaps blanks after a comma
SYSTOR '17              Timestamp,Response,IOType,LUN,Offset,Size; seconds with decimals, ``R``, ``W`` or nothing where
                        no answer was seen, bytes
CloudPhysics, as CSV    version,time,op,size,lbn; seconds, the SCSI command in hexadecimal, bytes, sectors
======================  =============================================================================================

Rows were written when requests had ended, some of which took minutes, but have the time at which they began: so they
may be out of order by more than those of a recorder of Linux.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fusecache.simulator.columns import Columns, LineError, lines, shown
from fusecache.simulator.devices import Devices
from fusecache.simulator.vscsi import SCSI_WRITES
from fusecache.units import SECTOR

if TYPE_CHECKING:
    from typing import BinaryIO

_DISORDER_US: Final = 600_000_000
_DECIMALS: Final = 9
_ALONE: Final = b"0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a row says what was asked."""

    title: str
    columns: str
    """As the archive's description names them; perhaps the first line of a file."""
    row: re.Pattern[bytes]
    """With the groups ``time op offset length``, and ``device`` if there is one."""
    is_known_by_row: bool = True
    """Whether nothing else looks like such a row."""
    writes: Mapping[bytes, bool | None]
    """What is in ``op``, in capitals: whether it writes, None if that is not known.  Others move no data."""
    ticks_per_us: int = 1
    ticks: int = 1
    """Ticks of one unit of ``time``: a billion if it has decimals, of which nine count."""
    offset_unit: int = 1
    """Bytes."""
    length_unit: int = 1

    def recognises(self, start: bytes) -> bool:
        """Tell whether a file that begins like this has this layout."""
        return self.is_header(start.partition(b"\n")[0]) or (self.is_known_by_row and self.row.match(start) is not None)

    def is_header(self, text: bytes) -> bool:
        """Tell whether a line names the columns."""
        return text.strip().lower() == self.columns.lower().encode()

    def read(self, file: BinaryIO, columns: Columns) -> None:
        """Read a trace into ``columns``; raises LineError if a line is no row."""
        columns.ticks_per_us, columns.disorder_us = self.ticks_per_us, _DISORDER_US
        devices = Devices(columns)
        has_devices = "device" in self.row.groupindex
        unknown = 0
        for line, text in lines(file, 1):
            row = self.row.match(text)
            if row is None:
                if text.isspace() or (line == 1 and self.is_header(text)):
                    continue
                raise LineError(line, f"not a row of {self.title} ({self.columns}): {shown(text.rstrip())}")
            offset, length = int(row["offset"]) * self.offset_unit, int(row["length"]) * self.length_unit
            op = row["op"].upper()
            if op not in self.writes or not length:
                continue
            write = self.writes[op]
            if write is None:
                unknown += 1
                continue
            whole, _, decimals = row["time"].partition(b".")
            ticks = int(whole) * self.ticks + int(decimals[:_DECIMALS].ljust(_DECIMALS, b"0"))
            device = row["device"].replace(b",", b"_") if has_devices else _ALONE
            devices.append(line, device, ticks, write, offset, length)
        devices.finish()
        if unknown:
            columns.notes.append(f"requests left out, of which nobody knows whether they read or write: {unknown}")


def _row(*, rest: bytes = b"", **columns: bytes) -> re.Pattern[bytes]:
    """Make the expression of a row of columns, each given by its name and what is in it; ``rest`` may follow."""
    groups = (b"(?P<%s>%s)" % (name.encode(), pattern) for name, pattern in columns.items())
    return re.compile(rb",[ \t]*".join(groups) + rest + rb"[ \t]*\r?(?:\n|$)")


_NUMBER: Final = rb"[0-9]{1,19}"
_DECIMAL: Final = rb"[0-9]{1,19}\.[0-9]+"
_READ_WRITE: Final = {b"R": False, b"W": True}
_PER_SECOND: Final = 10**_DECIMALS
_PER_US: Final = 1000

LAYOUTS: Final = {
    "msr": Layout(
        title="MSR Cambridge",
        columns="Timestamp,Hostname,DiskNumber,Type,Offset,Size,ResponseTime",
        row=_row(
            time=_NUMBER,
            device=rb"[^,\n]+,[0-9]+",
            op=rb"(?i:read|write)",
            offset=_NUMBER,
            length=_NUMBER,
            response=rb"[0-9]+",
        ),
        writes={b"READ": False, b"WRITE": True},
        ticks_per_us=10,
    ),
    "alibaba": Layout(
        title="Alibaba's block traces",
        columns="device_id,opcode,offset,length,timestamp",
        row=_row(device=rb"[0-9]+", op=rb"[RWrw]", offset=_NUMBER, length=_NUMBER, time=_NUMBER),
        writes=_READ_WRITE,
    ),
    "tencent": Layout(
        title="Tencent's block traces",
        columns="Timestamp,Offset,Size,IOType,VolumeID",
        row=_row(time=rb"[0-9]{10}", offset=_NUMBER, length=_NUMBER, op=rb"[01]", device=rb"[0-9]+"),
        writes={b"0": False, b"1": True},
        ticks_per_us=_PER_US,
        ticks=_PER_SECOND,
        offset_unit=SECTOR,
        length_unit=SECTOR,
    ),
    "spc": Layout(
        title="the SPC's format",
        columns="ASU,LBA,Size,Opcode,Timestamp",
        row=_row(
            device=rb"[0-9]+",
            offset=_NUMBER,
            length=_NUMBER,
            op=rb"[RWrw]",
            time=_DECIMAL,
            rest=rb"(?:[ \t]*,[^\n]*)?",
        ),
        writes=_READ_WRITE,
        ticks_per_us=_PER_US,
        ticks=_PER_SECOND,
        offset_unit=SECTOR,
    ),
    "systor": Layout(
        title="SYSTOR '17",
        columns="Timestamp,Response,IOType,LUN,Offset,Size",
        row=_row(time=_DECIMAL, response=rb"[0-9.]*", op=rb"[RW]?", device=rb"[0-9]+", offset=_NUMBER, length=_NUMBER),
        writes={**_READ_WRITE, b"": None},
        ticks_per_us=_PER_US,
        ticks=_PER_SECOND,
    ),
    "cloudphysics-csv": Layout(
        title="CloudPhysics' CSV",
        columns="version,time,op,size,lbn",
        row=_row(version=rb"[12]", time=_NUMBER, op=rb"[0-9a-fA-F]{1,2}", length=_NUMBER, offset=_NUMBER),
        writes={b"%02X" % command: write for command, write in SCSI_WRITES.items()},
        ticks_per_us=_PER_US,
        ticks=_PER_SECOND,
        offset_unit=SECTOR,
        is_known_by_row=False,
    ),
}
"""By the names that ``--format`` knows."""
