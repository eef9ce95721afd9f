"""What the commands do with a running mount, through the extended attributes of its image.

Theory of operation
-------------------
Whatever a mount tells or is told is an attribute of ``MOUNTPOINT/image``; the kernel passes it to the daemon and gives
back an errno and nothing else, which :class:`Client` turns into a line.  Setting returns at once, so a command asks by
a *request* with a ticket of its own, and then asks again and again what became of it: another client may ask for the
same at the same time, and has another ticket.

Unmounting has to see the daemon end: the kernel lets go of a mount long before its daemon has made everything safe.
So the daemon is held by a pidfd from before the unmounting, and what it left behind is read from the metadata.

What only some commands need, or only on a terminal, is imported there: ``status --json`` is what monitors ask for.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, TextIO

from fusecache.client.attributes import ImageAttributes, mountpoint_of, own_mount_at
from fusecache.client.unmounting import detach, dirty_after_clean_end, hold_process, unmount_command, wait_for_daemon
from fusecache.errors import BusyError, FusecacheError, RefusedError
from fusecache.grammar import join_words, write_changes
from fusecache.lines import printable, say
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
    "restart": str,
    "origin": str,
    "cache": str,
    "metadata": str,
    "mode": str,
}
"""What the commands need of the statistics."""


class Client:
    """The commands, on one mount; all raise FusecacheError with what to tell the user.

    :param mountpoint: or the image in it.
    :param poll_seconds: time between two looks at long work.
    """

    def __init__(
        self, mountpoint: Path, attributes: Attributes | None = None, *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._mountpoint = mountpoint_of(mountpoint)
        self._attributes = attributes or ImageAttributes(self._mountpoint)
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
        """Set one value, and wait until that is done."""
        self._carry_out(key, value, f"{key} {value}")

    def send_message(self, words: Sequence[str]) -> None:
        """Send a message, and wait until what it asks for is done."""
        text = join_words(words)
        self._carry_out("message", text, text)

    def flush(self) -> None:
        """Write back everything that is dirty now."""
        origin = self.stats()["origin"]
        self.send_message(["flush"])
        say(f"{origin} is complete up to now")

    def decommission(self) -> None:
        """Write back everything and empty the cache, so that it can be thrown away."""
        self.send_message(["decommission"])
        stats = self.stats()
        if not stats["decommissioned"]:
            msg = (
                f"nothing was cached any more, but somebody has set the mode to {stats['mode']} since: it caches again"
            )
            raise FusecacheError(msg)
        say(f"{stats['origin']} is complete, and nothing is cached any more")
        command = shlex.join(["fusecache", "unmount", "--", str(self._mountpoint)])
        say(f"after `{command}` these can be deleted:")
        for name in ("cache", "metadata"):
            say(f"  {stats[name]}")

    def restart(self, changes: dict[str, str]) -> None:
        """Have a new process go on, with other options, and wait until it does.

        :param changes: options of ``mount``, by their names with ``_``, as users write them.
        """
        was = self.stats()
        self._ask("restart", write_changes(changes), "restart")
        with _waiting("a new process takes over"):
            while (now := self.stats())["restart"] == "under way":
                time.sleep(self._poll_seconds)
        if now["restart"] != "done":
            why = now["restart"].removeprefix("failed: ") or "the daemon died meanwhile"
            msg = f"restart: {why}; {_log_of(now)}"
            raise RefusedError(msg)
        say(f"pid {now['pid']} goes on in the place of pid {was['pid']}")

    def unmount(self) -> None:
        """Unmount, wait for the daemon's end, and make sure that it was a clean one."""
        stats = self.stats()
        self._require_origin(stats)
        with hold_process(stats["pid"], self._mountpoint) as pidfd:
            log = _log_of(stats)
            mounted = own_mount_at(self._mountpoint)
            detach(self._mountpoint)
            with _waiting("unmounted; the daemon makes everything safe"):
                wait_for_daemon(pidfd, self._mountpoint, "" if mounted is None else mounted.device)
        dirty = dirty_after_clean_end(Path(stats["metadata"]))
        if dirty is None:
            msg = (
                f"{self._mountpoint} is unmounted, but the daemon did not end cleanly (the next mount recovers): {log}"
            )
            raise FusecacheError(msg)
        if not dirty:
            return
        size = format_size(dirty * stats["block_bytes"])
        if not Path(stats["cache"]).exists():
            msg = f"{stats['origin']} lacks {dirty} dirty blocks ({size}), and {stats['cache']} is not there: {log}"
            raise FusecacheError(msg)
        say(f"{stats['origin']} lacks {dirty} dirty blocks ({size}), which are safe in {stats['cache']}")

    def _require_origin(self, stats: dict[str, Any]) -> None:
        """Refuse to let go of an origin that has no name any more."""
        if "origin" in stats.get("gone", "").split():
            command = shlex.join(unmount_command(self._mountpoint))
            msg = (
                f"{stats['origin']} was removed or replaced, and its content ends with this mount: copy "
                f"{self._mountpoint}/image first; if it is not needed, `{command}` unmounts"
            )
            raise RefusedError(msg)

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
            case errno.ENOTCONN | errno.ECONNABORTED | errno.ECONNREFUSED:
                command = shlex.join(unmount_command(mountpoint))
                text = f"the daemon of {mountpoint} has died: type `{command}`, then mount again to recover"
            case errno.ENODATA | errno.ENOTSUP | errno.ENOENT | errno.ENOTDIR:
                text = f"{mountpoint} is not a fusecache mount"
            case errno.EACCES if (mounted := own_mount_at(mountpoint)) is not None and mounted.user != os.geteuid():
                text = (
                    f"{mountpoint} was mounted by user {mounted.user}, and nobody else may look into it, root "
                    "included: ask as that user, or mount it with -o allow_root or allow_other"
                )
            case _:
                text = f"{mountpoint}: {exc.strerror}"
        return RefusedError(text)

    def _carry_out(self, key: str, value: str, what: str) -> None:
        """Ask for a value to be set, and follow that to its end; ``what`` says in short what is asked for."""
        stats = self.stats()  # says what is wrong if this is no mount of ours
        ticket = self._ask(key, value, what)
        try:
            self._follow(stats, ticket, what)
        except KeyboardInterrupt as exc:
            command = f"fusecache status {self._mountpoint}"
            msg = f"no longer waited for, but it goes on: {what}; `{command}` shows how far it is"
            raise FusecacheError(msg) from exc

    def _ask(self, key: str, value: str, what: str) -> str:
        """Ask for a value to be set; returns the ticket by which to ask what becomes of it."""
        ticket = token_hex(8)
        try:
            self._attributes.set("request", f"{ticket} {key} {value}")
        except OSError as exc:
            raise self._refusal(exc, ticket, what) from exc
        return ticket

    def _refusal(self, exc: OSError, ticket: str, what: str) -> FusecacheError:
        """Say why something was not set: in the daemon's words, if it refused."""
        match exc.errno:
            case errno.ENOTCONN | errno.ECONNABORTED:
                return self._unreachable(exc)
            case errno.EINVAL | errno.EPERM | errno.EBUSY | errno.EIO:
                kind = BusyError if exc.errno == errno.EBUSY else RefusedError
                return kind(self._words_of(ticket) or f"{what}: {exc.strerror}")
            case _:
                return FusecacheError(f"{what}: {exc.strerror}")

    def _words_of(self, ticket: str) -> str:
        try:
            return _Report(self._attributes.get(f"request.{ticket}")).words
        except OSError:
            return ""

    def _report(self, ticket: str, what: str) -> _Report:
        """Ask what became of a request."""
        try:
            return _Report(self._attributes.get(f"request.{ticket}"))
        except OSError as exc:
            if exc.errno in {errno.ENODATA, errno.ENOTSUP, errno.ENOENT, errno.ENOTDIR}:
                msg = f"{self._mountpoint} was unmounted before this was done: {what}"
                raise FusecacheError(msg) from exc
            raise self._unreachable(exc) from exc

    def _follow(self, stats: dict[str, Any], ticket: str, what: str) -> None:
        """Show how far a request is, until it has ended; raises FusecacheError if it has failed."""
        report = self._report(ticket, what)
        if report.goes_on and not _is_terminal(sys.stderr):
            if report.state == "waiting":
                say(f"waiting for what was asked before: {self.stats()['job']}")
            elif report.total and stats["dirty_blocks"]:
                say(f"writing back {report.total} blocks ({format_size(report.total * stats['block_bytes'])})")
        if report.goes_on:
            with _counting(what, report.total) as show:
                while report.goes_on:
                    time.sleep(self._poll_seconds)
                    report = self._report(ticket, what)
                    show(report.done, report.total)
        if report.state == "failed":
            msg = f"{what}: {report.words}; {_log_of(stats)}"
            raise RefusedError(msg)


class _Report:
    """What a mount says of a request: a state, blocks done, blocks in all, words."""

    def __init__(self, text: str) -> None:
        self.state, done, total, self.words = text.split(" ", 3)
        self.done, self.total = int(done), int(total)

    @property
    def goes_on(self) -> bool:
        """Whether it has not ended yet."""
        return self.state in {"waiting", "running"}


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
        "log": stats["log"] or "stderr of the daemon",
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
        "read ahead": f"{stats['read_ahead_blocks']} blocks by {stats['read_aheads']} reads, "
        f"{stats['read_ahead_used']} used, {stats['read_ahead_wasted']} wasted"
        if stats["read_ahead"] or stats["read_aheads"]
        else "off",
        "origin writes": f"{stats['origin_writes']}, {format_size(stats['origin_write_bytes'])}",
        "errors": f"{stats['origin_errors']} of the origin, {stats['cache_errors']} of the cache",
        "job": stats["job"] or "none",
        "flush": f"{stats['flush_pending']} blocks to go, {stats['flush_failed']} failed",
        "survival": _survival(stats),
        "up": f"{hours}:{seconds // 60:02}:{seconds % 60:02}, pid {stats['pid']}, fusecache {stats['version']}",
    }


def _survival(stats: dict[str, Any]) -> str:
    """Say what becomes of the mount when its daemon dies, and what has become of it."""
    text = f"held by pid {stats['holder']}" if stats["holder"] else f"ends with its daemon: {stats['unheld']}"
    if stats["crashes"] or stats["restarts"]:
        text += f"; {stats['crashes']} crashes, {stats['restarts']} restarts"
    return text


def _log_of(stats: dict[str, Any]) -> str:
    """Say where the daemon writes its log."""
    return f"its log is {stats['log']}" if stats.get("log") else f"see the log of pid {stats['pid']}"
