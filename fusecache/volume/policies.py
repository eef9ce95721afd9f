"""A policy, made for one disk as somebody chose it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from fusecache.errors import InvalidError
from fusecache.volume.guard import guarded
from fusecache.volume.volume import now_ms
from policies import PolicyError, create_policy

if TYPE_CHECKING:
    from fusecache.block import Geometry
    from fusecache.config import PolicyChoice
    from policies import Policy

log = structlog.get_logger(__name__)


def new_policy(geometry: Geometry, choice: PolicyChoice) -> Policy:
    """Make a policy that knows of no block yet, with its tunables set; raises InvalidError in the policy's words."""
    try:
        policy = create_policy(
            choice.name,
            cache_blocks=geometry.cache_blocks,
            origin_blocks=max(1, geometry.origin_blocks),
            block_size=geometry.block_size,
            now_ms=now_ms(),
        )
        for key, value in choice.tunables:
            policy.set_config_value(key, value)
    except PolicyError as exc:
        raise InvalidError(str(exc)) from exc
    except Exception as exc:
        log.exception("policy cannot be made", policy=choice.name)
        msg = f"policy {choice.name!r} cannot be made: {type(exc).__name__}: {exc}"
        raise InvalidError(msg) from exc
    return guarded(policy, geometry.origin_blocks)
