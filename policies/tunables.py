"""What users may set of a policy: numbers and switches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from policies.base import BadTunableError

_MAX: Final = 2**32 - 1


ABSORB: Final = "absorb"
"""The switch that every policy has which may admit blocks: whether writes of parts of them are absorbed."""


def is_switched_on(name: str, text: str) -> bool:
    """Read ``on`` or ``off``, in any case.

    :raises BadTunableError: it is something else.
    """
    switch = text.lower()
    if switch not in {"on", "off"}:
        msg = f"{name} must be on or off, not {text!r}"
        raise BadTunableError(msg)
    return switch == "on"


def switch_text(is_on: bool) -> str:
    """Return what :func:`is_switched_on` reads."""
    return "on" if is_on else "off"


class Tunables:
    """Unsigned numbers of 32 bits, by name, in the order in which the status line shows them."""

    __slots__ = ("_owner", "_values")

    def __init__(self, owner: str, defaults: Mapping[str, int]) -> None:
        """Start with the defaults; ``owner`` is the policy's name, for messages."""
        self._owner = owner
        self._values = dict(defaults)

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def set(self, key: str, text: str) -> None:
        """Set a value from decimal digits; the case of the key does not matter.

        :raises BadTunableError: no such tunable, or a bad value; nothing was changed.
        """
        name = key.lower()
        if name not in self._values:
            msg = f"policy {self._owner} has no tunable {key!r}; it has: {', '.join(self._values)}"
            raise BadTunableError(msg)
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(_MAX)) and int(text) <= _MAX):
            msg = f"{name} must be a whole number from 0 to {_MAX}, not {text!r}"
            raise BadTunableError(msg)
        self._values[name] = int(text)

    def texts(self) -> dict[str, str]:
        """List names and values, as text."""
        return {name: str(value) for name, value in self._values.items()}
