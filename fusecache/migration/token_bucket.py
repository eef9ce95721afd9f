"""A token bucket: so many bytes a second, and a little at once."""

from __future__ import annotations


class TokenBucket:
    """Bytes flow in at a rate, and are taken out; times are seconds of any clock that never goes back.

    In every window, at most ``rate * window + burst`` bytes are granted, as long as the rate stays.

    :ivar rate: bytes a second; 0 for no limit.
    :ivar burst: bytes that may be granted at once, after a while without any; nobody can ask for more at a time.
    """

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: int, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self._level = float(burst)
        self._at = 0.0

    def take(self, amount: int, now: float) -> float:
        """Take ``amount`` bytes if they are there; returns 0, or how many seconds to wait before asking again."""
        assert 0 <= amount <= self.burst
        if not self.rate:
            return 0.0
        self._fill(now)
        if self._level >= amount:
            self._level -= amount
            return 0.0
        # Rounding must not make the pause so short that asking again would spin.
        return max((amount - self._level) / self.rate, 1e-6)

    def set_rate(self, rate: int, now: float) -> None:
        """Change the rate from now on; if there was no limit before, the bucket is empty at first."""
        self._fill(now)
        if not self.rate:
            self._level = 0.0
        self.rate = rate

    def _fill(self, now: float) -> None:
        self._level = min(self._level + (now - self._at) * self.rate, float(self.burst))
        self._at = now

    def check(self) -> None:
        """Assert that the bucket is neither overfull nor in debt."""
        assert 0 <= self._level <= self.burst
        assert self.rate >= 0
