from __future__ import annotations

from fusecache.migration.backoff import FIRST_SECONDS, LAST_SECONDS, Backoff


def test_pauses_get_longer_up_to_a_bound_and_begin_anew_after_a_success() -> None:
    backoff = Backoff()
    now, pauses = 100.0, list[float]()
    assert backoff.is_over(now)
    for _ in range(10):
        backoff.failed(now)
        backoff.failed(now)  # what was under way as well: it counts once
        low, high = 0.0, 2 * LAST_SECONDS
        while high - low > 0.001:
            middle = (low + high) / 2
            low, high = (low, middle) if backoff.is_over(now + middle) else (middle, high)
        pauses.append(round(high, 1))
        now += high
    assert pauses == [FIRST_SECONDS, 1, 2, 4, 8, 16, *[LAST_SECONDS] * 4]
    backoff.succeeded()
    backoff.failed(now)
    assert not backoff.is_over(now)
    assert backoff.is_over(now + FIRST_SECONDS)
