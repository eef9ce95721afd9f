"""Replacement policies for block caches: what to cache, where, and what to replace.

All of it is pure.  :func:`create_policy` makes a policy by its name; :mod:`policies.base` tells what a policy can do.
Other packages offer policies in the entry point group ``fusecache.policies``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

from policies.base import (
    DEMOTE,
    MISS,
    MISS_QUEUED,
    PROMOTE,
    BadTunableError,
    Op,
    Policy,
    PolicyError,
    UnknownPolicyError,
    Work,
)
from policies.sizes import check_sizes

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "DEMOTE",
    "MISS",
    "MISS_QUEUED",
    "PROMOTE",
    "BadTunableError",
    "Op",
    "Policy",
    "PolicyError",
    "UnknownPolicyError",
    "Work",
    "create_policy",
    "policy_names",
]

_BUILT_IN: Final = {
    "adaptive": "policies.adaptive:AdaptivePolicy",
    "arc": "policies.arc:ArcPolicy",
    "cleaner": "policies.cleaner:CleanerPolicy",
    "default": "policies.smq:SmqPolicy",
    "lru": "policies.lru:LruPolicy",
    "mq": "policies.mq:MqPolicy",
    "s3fifo": "policies.s3fifo:S3FifoPolicy",
    "smq": "policies.smq:SmqPolicy",
    "tinylfu": "policies.tinylfu:TinyLfuPolicy",
    "twoq": "policies.twoq:TwoQPolicy",
}
_ENTRY_POINTS: Final = "fusecache.policies"


def policy_names() -> list[str]:
    """List the names that :func:`create_policy` knows, aliases and other packages' policies included, sorted."""
    return sorted({*_BUILT_IN, *_third_party()})


def create_policy(name: str, *, cache_blocks: int, origin_blocks: int, block_size: int, now_ms: int = 0) -> Policy:
    """Make a policy by its name.

    :param cache_blocks: size of the cache, in blocks.
    :param origin_blocks: size of the origin, in whole blocks.
    :param block_size: bytes of a block.
    :param now_ms: the time, on the clock that ticks will show.
    :raises UnknownPolicyError: there is no policy of that name.
    :raises PolicyError: a size is out of range, or another package's policy cannot be used.
    """
    policy_class = _find(name)
    check_sizes(cache_blocks, origin_blocks, block_size)
    return policy_class(cache_blocks=cache_blocks, origin_blocks=origin_blocks, block_size=block_size, now_ms=now_ms)


def _find(name: str) -> Callable[..., Policy]:
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return cast("Callable[..., Policy]", getattr(import_module(module), attribute))
    others = _third_party()
    if name not in others:
        msg = f"unknown policy {name!r}; known are: {', '.join(sorted({*_BUILT_IN, *others}))}"
        raise UnknownPolicyError(msg)
    try:
        loaded = others[name].load()
    except Exception as error:
        msg = f"policy {name!r} cannot be loaded: {error}"
        raise PolicyError(msg) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Policy)):
        msg = f"policy {name!r} is not a subclass of policies.Policy"
        raise PolicyError(msg)
    return loaded


def _third_party() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to import, seldom needed

    return {point.name: point for point in entry_points(group=_ENTRY_POINTS)}
