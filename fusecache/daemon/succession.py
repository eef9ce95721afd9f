"""Who goes on with a mount, and what it is to be then: as it was told to be, but for what was set since."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, final

import trio

from fusecache.config import PolicyChoice
from fusecache.errors import RefusedError
from fusecache.grammar import changed_config, parse_dirty_age, parse_dirty_limit
from fusecache.paths import log_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusecache.config import MountConfig
    from fusecache.control import Status
    from fusecache.daemon.lifeline import Lifeline
    from fusecache.frontends.fuse import Session

_LOOK_SECONDS: Final = 1.0


@final
class Succession:
    """What the holder is told by the daemon of one mount.

    :param config: what the mount was told to be; absolute paths, and no links in that of the mountpoint.
    :param status: reports what it is now.
    """

    def __init__(self, config: MountConfig, lifeline: Lifeline, status: Callable[[], Status]) -> None:
        self._config = config
        self._lifeline = lifeline
        self._status = status
        self._began = status()

    def begin(self, session: Session) -> list[str]:
        """Have the mount held, now that it is ready, if that was wanted and can be; returns lines for the user."""
        lifeline, config = self._lifeline, self._config
        if lifeline.heir is not None:
            lifeline.ready(config)
        elif not config.survive:
            lifeline.do_without("the mount was told so")
        elif config.foreground:
            lifeline.do_without("it is served in the foreground")
        elif not session.is_gated:
            lifeline.do_without("pyfuse3 reads the requests")
        elif (kept := session.kept()) is None:
            lifeline.do_without("the kernel is older than 6.9")
            return ["the mount ends if its daemon dies: to outlive that, it needs Linux 6.9"]
        else:
            lifeline.begin(kept, config, log_for(config, environ=os.environ, is_root=os.geteuid() == 0))
        return []

    async def note_changes(self) -> None:
        """Tell the holder what was set, soon after, until cancelled."""
        while True:
            await trio.sleep(_LOOK_SECONDS)
            self._lifeline.note(self._now())

    def restart(self, changes: str) -> None:
        """Have another process go on, with options that change; returns at once.  Raises FusecacheError."""
        status = self._status()
        if status.gone:
            msg = f"no restart while files are removed or replaced, as they end with this process: {status.gone}"
            raise RefusedError(msg)
        self._lifeline.restart(changed_config(self._now(), changes))

    def _now(self) -> MountConfig:
        return as_it_is(self._config, self._began, self._status())


def as_it_is(config: MountConfig, began: Status, now: Status) -> MountConfig:
    """Return the options of a mount with what was set since.

    :param config: what it was told to be; stays as it is wherever nothing was set, so that *auto* stays *auto*.
    """
    changes: dict[str, Any] = {}
    if now.mode is not began.mode:
        changes["mode"] = now.mode
    for option, field in (("copy_rate", "copy_rate"), ("read_ahead", "read_ahead"), ("scrub", "scrub_rate")):
        if getattr(now, field) != getattr(began, field):
            changes[option] = getattr(now, field)
    if now.dirty_age != began.dirty_age:
        changes["dirty_age"] = parse_dirty_age(now.dirty_age)
    if now.dirty_limit != began.dirty_limit:
        changes["dirty_limit"] = parse_dirty_limit(now.dirty_limit)
    if _policy_of(now) != _policy_of(began):
        changes["policy"] = _policy(config.policy, began, now)
    return replace(config, **changes)


def _policy_of(status: Status) -> tuple[str, dict[str, str], int]:
    return status.policy, status.policy_values, status.migration_threshold


def _policy(told: PolicyChoice, began: Status, now: Status) -> PolicyChoice:
    """Return the policy as it is, with those tunables alone that somebody has set."""
    threshold = now.migration_threshold
    if now.policy != began.policy:
        return PolicyChoice(now.policy, tuple(now.policy_values.items()), threshold)
    was = began.policy_values
    tunables = dict(told.tunables) | {key: value for key, value in now.policy_values.items() if was.get(key) != value}
    return PolicyChoice(told.name, tuple(tunables.items()), threshold)
