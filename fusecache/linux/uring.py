"""The kernel's io_uring (io_uring(7), Linux 5.15), as much of it as stores need.

Theory of operation
-------------------
Two queues lie in memory that is shared with the kernel.  We write an operation into an entry of the *submission queue*
and move the tail of that queue; then one system call has the kernel take the operation.  When it is done, the kernel
puts its number and result into the *completion queue* and moves the tail of that one; we move its head when we have
seen them.  The descriptor of a ring is readable while there is something to see, so an event loop can wait for it as
for any other.

The kernel takes an operation during the call, so there is always a free entry.  The caller must do two things.  It
keeps no more operations under way than the ring has entries: then completions have room.  And it leaves the memory
whose address an operation names where it is until that operation is complete.

Python knows no memory barriers.  x86-64 needs none between entries and tails, since other processors see writes in the
order in which they were made; other machines are refused.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
from typing import Final, final

from fusecache.linux.syscalls import syscall

FSYNC: Final = 3
FALLOCATE: Final = 17
READ: Final = 22
WRITE: Final = 23
FDATASYNC: Final = 1
"""Flag of :data:`FSYNC`."""
ASYNC: Final = 1 << 4
"""A value of ``how``: a kernel thread does it from the beginning."""

_SETUP: Final = 425
_ENTER: Final = 426
_REGISTER: Final = 427
_IOWQ_MAX_WORKERS: Final = 19
_WORKERS: Final = 512
"""So many kernel threads may wait at a time.  Their default, four for each processor, is meant for near disks: it
would make reads of a distant one wait for one another, though waiting costs no processor."""
_ENTRIES_OFFSET: Final = 0x10000000
_SINGLE_MMAP: Final = 1 << 0
_NODROP: Final = 1 << 1
_PARAMETERS: Final = struct.Struct("10I 10I 10I")  # the ring, the submission queue's offsets, the other's
_ENTRY: Final = struct.Struct("=BBHiQQIIQ24x")  # opcode, how, priority, fd, position, address, length, flags, number
_COMPLETION: Final = struct.Struct("=QiI")  # number, result, flags
_MASK: Final = 0xFFFFFFFF


@final
class Ring:
    """An io_uring of this process, which a fork does not inherit.

    :param entries: how many operations may be under way at a time; a power of two.
    :raises OSError: io_uring cannot be used: an old kernel, a sandbox, ``kernel.io_uring_disabled``.
    """

    __slots__ = (
        "_completions",
        "_done_tail",
        "_entries",
        "_head",
        "_head_mask",
        "_head_place",
        "_rings",
        "_tail",
        "_tail_mask",
        "_tail_place",
        "_words",
        "fd",
    )

    def __init__(self, entries: int) -> None:
        if platform.machine() != "x86_64":
            raise OSError(errno.ENOSYS, f"not used on {platform.machine()}")
        parameters = (ctypes.c_uint * 30)()
        self.fd = syscall(_SETUP, ctypes.c_uint(entries), parameters)
        try:
            self._share(_PARAMETERS.unpack(parameters))
            syscall(_REGISTER, self.fd, _IOWQ_MAX_WORKERS, (ctypes.c_uint * 2)(_WORKERS, _WORKERS), 2)
        except BaseException:
            os.close(self.fd)
            raise

    def _share(self, parameters: tuple[int, ...]) -> None:
        """Map both queues; places are counted in words of 4 bytes, the size of everything that changes in them."""
        entries, completions, _, _, _, features = parameters[:6]
        _, tail, tail_mask, _, _, _, indices = parameters[10:17]
        head, done_tail, head_mask, _, _, self._completions = parameters[20:26]
        if not (features & _SINGLE_MMAP and features & _NODROP):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        length = max(indices + entries * 4, self._completions + completions * _COMPLETION.size)
        self._rings = mmap.mmap(self.fd, length)
        self._entries = mmap.mmap(self.fd, entries * _ENTRY.size, offset=_ENTRIES_OFFSET)
        words = self._words = memoryview(self._rings).cast("I")
        self._tail_place, self._tail_mask, self._tail = tail // 4, words[tail_mask // 4], words[tail // 4]
        self._head_place, self._head_mask, self._head = head // 4, words[head_mask // 4], words[head // 4]
        self._done_tail = done_tail // 4
        for entry in range(entries):
            words[indices // 4 + entry] = entry

    def begin(
        self, number: int, opcode: int, fd: int, address: int, length: int, position: int, flags: int, how: int
    ) -> None:
        """Have the kernel begin an operation, which will complete under ``number`` (64 bits).

        :raises OSError: it was not begun: EAGAIN, EBUSY or ENOMEM if the kernel cannot now.
        """
        tail = self._tail
        place = (tail & self._tail_mask) * _ENTRY.size
        _ENTRY.pack_into(self._entries, place, opcode, how, 0, fd, position, address, length, flags, number)
        self._words[self._tail_place] = self._tail = (tail + 1) & _MASK
        try:
            syscall(_ENTER, self.fd, 1, 0, 0, None, 0)
        except OSError:
            self._words[self._tail_place] = self._tail = tail  # nobody but us reads it outside the call
            raise

    def completed(self) -> list[tuple[int, int]]:
        """Take what was completed: numbers, and results (negative: an errno value)."""
        head = self._head
        tail = self._words[self._done_tail]
        done = []
        while head != tail:
            number, result, _ = _COMPLETION.unpack_from(
                self._rings, self._completions + (head & self._head_mask) * _COMPLETION.size
            )
            done.append((number, result))
            head = (head + 1) & _MASK
        self._words[self._head_place] = self._head = head
        return done

    def close(self) -> None:
        """Give it back; nothing may be under way."""
        self._words.release()
        self._rings.close()
        self._entries.close()
        os.close(self.fd)


def pin(view: memoryview) -> tuple[object, int]:
    """Return an object that keeps writable memory in its place as long as it lives, and the address."""
    memory = ctypes.c_char.from_buffer(view)
    return memory, ctypes.addressof(memory)
