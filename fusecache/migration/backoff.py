"""How long to leave a store alone that has failed."""

from __future__ import annotations

from typing import Final

FIRST_SECONDS: Final = 0.5
LAST_SECONDS: Final = 30.0


class Backoff:
    """A pause that gets longer each time that a store fails anew.

    Times are seconds of any clock that never goes back.
    """

    __slots__ = ("_resume_at", "_seconds")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._resume_at = 0.0

    def is_over(self, now: float) -> bool:
        """Tell whether to try again."""
        return now >= self._resume_at

    def failed(self, now: float) -> None:
        """Try nothing for a while; what was under way already when the pause began makes it no longer."""
        if self.is_over(now):
            self._seconds = min(max(2 * self._seconds, FIRST_SECONDS), LAST_SECONDS)
            self._resume_at = now + self._seconds

    def succeeded(self) -> None:
        """Begin with a short pause the next time."""
        self._seconds = 0.0
