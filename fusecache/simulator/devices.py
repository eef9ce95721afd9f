"""The devices that a trace is of: which of them are wanted, and how they lie side by side on one simulated disk.

Theory of operation
-------------------
Each device counts its bytes from 0, so the same place on two of them is not the same block.  They lie one after another
on the simulated disk, in the order in which the trace first names them, each at a multiple of the largest cache block:
no block is shared by two.  A device that is alone lies at 0, so its offsets stay as they are.
"""

from __future__ import annotations

from array import array
from itertools import compress
from typing import TYPE_CHECKING, Final

from fusecache.config import MAX_BLOCK_SIZE
from fusecache.simulator.columns import MAX_NUMBER, LineError

if TYPE_CHECKING:
    from fusecache.simulator.columns import Columns

_MOST: Final = 1 << 16
_MOST_NAMED: Final = 8
_LEFT_OUT: Final = -1


class Devices:
    """The devices of a trace while it is read, and its requests, each with the device that it goes to.

    :ivar what: what the format calls a device.
    """

    def __init__(self, columns: Columns, what: str = "device") -> None:
        self.what = what
        self._columns = columns
        self._numbers: dict[bytes, int] = {}
        self._ends: list[int] = []
        self._device_of = array("I")
        self._forgotten: set[int] = set()

    def meet(self, line: int, name: bytes) -> int:
        """Return the number of a device, a new one if it has none; -1 if nobody wants it."""
        number = self._numbers.get(name)
        if number is None:
            if len(self._numbers) == _MOST:
                raise LineError(line, f"more than {_MOST} {self.what}s")
            number = _LEFT_OUT
            if not self._columns.chosen or name in self._columns.chosen:
                number = len(self._ends)
                self._ends.append(0)
            self._numbers[name] = number
        return number

    def append(self, line: int, name: bytes, ticks: int, write: bool, offset: int, length: int) -> None:
        """Add one request of a device, if that is wanted; raises as :meth:`Columns.append`."""
        number = self._numbers.get(name)
        if number is None:
            number = self.meet(line, name)
        if number == _LEFT_OUT:
            return
        self._columns.append(line, ticks, write, offset, length)
        self._device_of.append(number)
        self._ends[number] = max(self._ends[number], offset + length)

    def restart(self, line: int, name: bytes) -> None:
        """Forget the requests of a device so far."""
        number = self.meet(line, name)
        if number != _LEFT_OUT:
            self._forgotten.add(number)
            self._numbers[name] = len(self._ends)
            self._ends[number] = 0
            self._ends.append(0)

    def asked(self) -> list[bytes]:
        """Name the devices that have requests, in the order of their places."""
        return [name for name, number in self._numbers.items() if number != _LEFT_OUT and self._ends[number]]

    def finish(self) -> None:
        """Give every device its place.

        :raises LineError: a device that was chosen is not in the trace, or the devices are too large together.
        """
        missing = self._columns.chosen - self._numbers.keys()
        if missing:
            raise LineError(None, f"no {self.what} {_list(sorted(missing))} in it, but {_list(list(self._numbers))}")
        if self._forgotten:
            kept = [device not in self._forgotten for device in self._device_of]
            self._device_of = array("I", compress(self._device_of, kept))
            self._columns.keep(kept)
        starts = [0]
        for end in self._ends:
            starts.append(starts[-1] + -(-end // MAX_BLOCK_SIZE) * MAX_BLOCK_SIZE)
        asked = self.asked()
        if len(asked) < 2:  # noqa: PLR2004 - alone
            return
        if starts[-1] > MAX_NUMBER:
            raise LineError(None, f"the {self.what}s end beyond {MAX_NUMBER} when laid one after another")
        columns = self._columns
        places = zip(columns.offsets, self._device_of, strict=True)
        columns.offsets = array("q", (offset + starts[device] for offset, device in places))
        columns.notes.append(f"{len(asked)} {self.what}s side by side: {_list(asked)} (--device chooses)")


def _list(names: list[bytes]) -> str:
    texts = [name.decode("utf-8", "backslashreplace") for name in names[:_MOST_NAMED]]
    return ", ".join(texts) + (", ..." if len(names) > _MOST_NAMED else "") or "nothing"
