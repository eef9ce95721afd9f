"""What the commands do with a running mount, through the extended attributes of its image.

Theory of operation
-------------------
Whatever a mount tells or is told is an attribute of ``MOUNTPOINT/image``; the kernel passes it to the daemon and gives
back an errno and nothing else, which :class:`Client` turns into a line.  Long work is begun by a message, which returns
at once, and followed in the statistics.

Unmounting has to see the daemon end: the kernel lets go of a mount long before its daemon has made everything safe.
So the daemon is held by a pidfd from before the unmounting, and what it left behind is read from the metadata.

What only some commands need, or only on a terminal, is imported there: ``status --json`` is what monitors ask for.
"""

from __future__ import annotations

import errno
import json
import os
import select
import shlex
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from fusecache.client.attributes import ImageAttributes
from fusecache.config import Mode
from fusecache.errors import BusyError, FusecacheError, RefusedError, UntrustedError
from fusecache.grammar import join_words
from fusecache.lines import printable, say
from fusecache.linux import mounted_at
from fusecache.units import SECTOR, format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from fusecache.client.attributes import Attributes

POLL_SECONDS: Final = 0.2
_KINDS: Final = {
    "pid": int,
    "block_bytes": int,
    "dirty_blocks": int,
    "flush_pending": int,
    "flush_failed": int,
    "decommissioned": bool,
    "origin": str,
    "cache": str,
    "metadata": str,
    "mode": str,
}
"""What the commands need of the statistics."""


class Client:
    """The commands, on one mount; all raise FusecacheError with what to tell the user.

    :param poll_seconds: time between two looks at long work.
    """

    def __init__(
        self, mountpoint: Path, attributes: Attributes | None = None, *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._mountpoint = mountpoint
        self._attributes = attributes or ImageAttributes(mountpoint)
        self._poll_seconds = poll_seconds

    def show_status(self, *, as_json: bool) -> None:
        """Print the status: the JSON as it came, or a table."""
        if as_json:
            say(self._read_stats())
        else:
            stats = self.stats()
            with self._understanding():
                rows = _status_rows(stats)
            _show_table({name: printable(value) for name, value in rows.items()})

    def set_value(self, key: str, value: str) -> None:
        """Set one value; what leaving writeback mode takes is shown."""
        stats = self.stats()
        try:
            if key == "mode" and stats["mode"] == Mode.WRITEBACK.value != value and stats["dirty_blocks"]:
                self._set_while_writing_back(key, value)
            else:
                self._attributes.set(key, value)
        except OSError as exc:
            raise self._refusal(exc, f"{key} {value}") from exc

    def send_message(self, words: Sequence[str]) -> None:
        """Send a message; what it begins goes on by itself."""
        self.stats()  # says what is wrong if this is no mount of ours
        text = join_words(words)
        try:
            self._attributes.set("message", text)
        except OSError as exc:
            raise self._refusal(exc, text) from exc

    def flush(self) -> None:
        """Write back everything that is dirty now."""
        self.send_message(["flush"])
        stats = self._follow("writing back", "flush_pending", lambda stats: not stats["flush_pending"])
        self._require_all_written(stats)
        say(f"{stats['origin']} is complete up to now")

    def decommission(self) -> None:
        """Write back everything and empty the cache, so that it can be thrown away."""
        self.send_message(["decommission"])
        stats = self._follow(
            "writing back", "dirty_blocks", lambda stats: stats["decommissioned"] or stats["flush_failed"]
        )
        self._require_all_written(stats)
        say(f"{stats['origin']} is complete, and nothing is cached any more")
        say(f"after `fusecache unmount {self._mountpoint}` these can be deleted:")
        for name in ("cache", "metadata"):
            say(f"  {stats[name]}")

    def unmount(self) -> None:
        """Unmount, wait for the daemon's end, and make sure that it was a clean one."""
        stats = self.stats()
        with _hold_process(stats["pid"], self._mountpoint) as pidfd:
            log = _log_of(stats)
            _detach(self._mountpoint)
            self._wait_for(pidfd)
        dirty = _dirty_after_clean_end(Path(stats["metadata"]))
        if dirty is None:
            msg = (
                f"{self._mountpoint} is unmounted, but the daemon did not end cleanly (the next mount recovers): {log}"
            )
            raise FusecacheError(msg)
        if dirty:
            size = format_size(dirty * stats["block_bytes"])
            say(f"{stats['origin']} lacks {dirty} dirty blocks ({size}), which are safe in {stats['cache']}")

    def stats(self) -> dict[str, Any]:
        """Read the statistics."""
        with self._understanding():
            stats: dict[str, Any] = json.loads(self._read_stats())
            if wrong := [name for name, kind in _KINDS.items() if type(stats[name]) is not kind]:
                raise TypeError(*wrong)
        return stats

    @contextmanager
    def _understanding(self) -> Iterator[None]:
        """Refuse answers that no daemon of ours gives: anybody can mount something that calls itself fusecache."""
        try:
            yield
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as exc:
            msg = f"{self._mountpoint} does not answer as this version of fusecache does"
            raise RefusedError(msg) from exc

    def _read_stats(self) -> str:
        try:
            return self._attributes.get("stats")
        except OSError as exc:
            raise self._unreachable(exc) from exc

    def _unreachable(self, exc: OSError) -> FusecacheError:
        """Say why there is no answer."""
        mountpoint = self._mountpoint
        match exc.errno:
            case errno.ENOTCONN | errno.ECONNABORTED:
                command = shlex.join(_unmount_command(mountpoint))
                text = f"the daemon of {mountpoint} has died: type `{command}`, then mount again to recover"
            case errno.ENODATA | errno.ENOTSUP | errno.ENOENT | errno.ENOTDIR:
                text = f"{mountpoint} is not a fusecache mount"
            case _:
                text = f"{mountpoint}: {exc.strerror}"
        return RefusedError(text)

    def _refusal(self, exc: OSError, what: str) -> FusecacheError:
        """Say why something was not set: in the daemon's words, if it refused."""
        match exc.errno:
            case errno.ENOTCONN | errno.ECONNABORTED:
                return self._unreachable(exc)
            case errno.EINVAL | errno.EPERM | errno.EBUSY | errno.EIO:
                kind = BusyError if exc.errno == errno.EBUSY else RefusedError
                return kind(self._attributes.get("error") or f"{what}: {exc.strerror}")
            case _:
                return FusecacheError(f"{what}: {exc.strerror}")

    def _set_while_writing_back(self, key: str, value: str) -> None:
        """Set the mode, which returns only when nothing is dirty any more, and show how far it is."""
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - see above

        with ThreadPoolExecutor(1) as pool:
            setting = pool.submit(self._attributes.set, key, value)
            self._follow("writing back", "dirty_blocks", lambda _: setting.done())
        setting.result()

    def _follow(self, task: str, name: str, is_done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Show how the count of blocks called ``name`` goes down; return the statistics that were ``is_done``."""
        stats = self.stats()
        if is_done(stats):
            return stats
        total = stats[name]
        if total and stats["dirty_blocks"] and not _is_terminal(sys.stderr):
            say(f"{task} {total} blocks ({format_size(total * stats['block_bytes'])})")
        with _counting(task, total) as show:
            while not is_done(stats):
                time.sleep(self._poll_seconds)
                stats = self.stats()
                total = max(total, stats[name])
                show(total - stats[name], total)
        return stats

    def _wait_for(self, pidfd: int) -> None:
        """Wait for the end of a process."""
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        with _waiting("unmounted; the daemon makes everything safe"):
            poll.poll()

    def _require_all_written(self, stats: dict[str, Any]) -> None:
        if failed := stats["flush_failed"]:
            msg = f"{failed} blocks could not be written back and are still dirty in {stats['cache']}; {_log_of(stats)}"
            raise FusecacheError(msg)


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() or bool(os.environ.get("FORCE_COLOR"))


def _show_table(rows: Mapping[str, str]) -> None:
    if _is_terminal(sys.stdout):
        from fusecache.client.screen import show_table  # noqa: PLC0415 - see above

        show_table(rows)
        return
    width = max(map(len, rows))
    for name, value in rows.items():
        say(f"{name:{width}}  {value}")


@contextmanager
def _counting(task: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Yield what is told ``(done, total)``, and shows it on a terminal."""
    if _is_terminal(sys.stderr):
        from fusecache.client.screen import counting  # noqa: PLC0415 - see above

        with counting(task, total) as show:
            yield show
    else:
        yield lambda _done, _total: None


def _waiting(task: str) -> AbstractContextManager[None]:
    """Show what is waited for on a terminal."""
    if not _is_terminal(sys.stderr):
        return nullcontext()
    from fusecache.client.screen import waiting  # noqa: PLC0415 - see above

    return waiting(task)


def _status_rows(stats: dict[str, Any]) -> dict[str, str]:
    """Put the statistics into words, by name."""

    def blocks(count: int) -> str:
        return f"{count} blocks, {format_size(count * stats['block_bytes'])}"

    def share(part: int, whole: int) -> str:
        return f"{part / whole:.1%}" if whole else "-"

    def hits(kind: str) -> str:
        hit, missed = stats[f"{kind}_hits"], stats[f"{kind}_misses"]
        return f"{share(hit, hit + missed)} ({hit} hits, {missed} misses)"

    tunables = {name: value for name, value in stats.items() if name.startswith("policy.")}
    hours, seconds = divmod(int(stats["uptime_s"]), 3600)
    return {
        "image": f"{stats['mountpoint']}/image, {format_size(stats['origin_bytes'])}",
        "health": stats["health"] + (", needs check" if stats["needs_check"] else ""),
        "origin": stats["origin"],
        "cache": f"{stats['cache']}, {blocks(stats['cache_blocks'])} (block size {format_size(stats['block_bytes'])})",
        "metadata": f"{stats['metadata']}, {format_size(stats['metadata_total_bytes'])}",
        "mode": stats["mode"] + (", metadata read only" if stats["read_only"] else ""),
        "page cache": f"of the {stats['page_cache']}" if stats["page_cache"] != "none" else "none",
        "policy": " ".join([stats["policy"], *(f"{name[7:]}={value}" for name, value in tunables.items())]),
        "used": f"{share(stats['used_blocks'], stats['cache_blocks'])} ({blocks(stats['used_blocks'])})",
        "dirty": f"{share(stats['dirty_blocks'], stats['cache_blocks'])} ({blocks(stats['dirty_blocks'])})"
        + (f", {stats['suspect_blocks']} of them suspect since a crash" if stats["suspect_blocks"] else ""),
        "read hits": hits("read"),
        "write hits": hits("write"),
        "migrations": f"{stats['promotions']} promotions, {stats['demotions']} demotions, "
        f"{stats['writebacks']} writebacks",
        "threshold": format_size(stats["migration_threshold"] * SECTOR),
        "origin reads": f"{stats['origin_reads']}, {format_size(stats['origin_read_bytes'])}",
        "origin writes": f"{stats['origin_writes']}, {format_size(stats['origin_write_bytes'])}",
        "errors": f"{stats['origin_errors']} of the origin, {stats['cache_errors']} of the cache",
        "job": stats["job"] or "none",
        "flush": f"{stats['flush_pending']} blocks to go, {stats['flush_failed']} failed",
        "up": f"{hours}:{seconds // 60:02}:{seconds % 60:02}, pid {stats['pid']}, fusecache {stats['version']}",
    }


@contextmanager
def _hold_process(pid: int, mountpoint: Path) -> Iterator[int]:
    """Yield a pidfd, so that no other process can be taken for this one; it must be of the user who mounted."""
    msg = f"the daemon of {mountpoint} (pid {pid}) cannot be seen from here: unmount where it was mounted"
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, OverflowError) as exc:
        raise RefusedError(msg) from exc
    try:
        mounted = mounted_at(mountpoint)
        if mounted is not None and mounted.user != _user_of(pid):
            raise RefusedError(msg)
        yield pidfd
    finally:
        os.close(pidfd)


def _user_of(pid: int) -> int | None:
    """Return whose process it is; None if it has gone."""
    try:
        return Path("/proc", str(pid)).stat().st_uid
    except OSError:
        return None


def _log_of(stats: dict[str, Any]) -> str:
    """Say where the daemon writes its log: what its stderr is."""
    try:
        return f"its log is {Path('/proc', str(stats['pid']), 'fd/2').readlink()}"
    except OSError:
        return f"see the log of pid {stats['pid']}"


def _unmount_command(mountpoint: Path) -> list[str]:
    return [*(["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]), "--", str(mountpoint)]


def _detach(mountpoint: Path) -> None:
    """Take the mount out of the file tree."""
    command = _unmount_command(mountpoint)
    try:
        done = subprocess.run(command, env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, check=False)  # noqa: S603 - fixed commands
    except OSError as exc:
        msg = f"cannot run {command[0]}: {exc.strerror}"
        raise FusecacheError(msg) from exc
    if done.returncode == 0:
        return
    if "busy" in done.stderr:
        msg = (
            f"{mountpoint} is busy, so it stays mounted: a VM, a loop device or a shell in it still uses it; "
            f"`{shlex.join(['fuser', '-vm', f'{mountpoint}'])}` or "
            f"`{shlex.join(['losetup', '-j', f'{mountpoint}/image'])}` names it"
        )
        raise BusyError(msg)
    reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
    msg = f"{command[0]} could not unmount {mountpoint}: {reason}"
    raise FusecacheError(msg)


def _dirty_after_clean_end(metadata: Path) -> int | None:
    """Count the dirty blocks that a daemon left behind; None if it did not end cleanly."""
    from fusecache.metadata import Database  # noqa: PLC0415 - see above

    try:
        with Database.read_only(metadata) as database:
            return database.count(dirty_only=True) if database.superblock().clean_shutdown else None
    except UntrustedError as exc:
        msg = f"unmounted; whether the daemon ended cleanly, only its user can see: {exc}"
        raise FusecacheError(msg) from exc
    except FusecacheError:
        return None
