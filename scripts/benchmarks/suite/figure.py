"""What a measurement gives: a figure, beside its target; and how rounds become one figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure.

    :ivar section: which section it is of; the runner fills it in.
    :ivar name: what was measured: a line of the section's table, together with ``unit``.
    :ivar system: on what: a column of the table.
    :ivar rounds: the figures of each round, if there were several; ``value`` is their median.
    :ivar ratio: how many times that of the baseline it is, if there is one.
    :ivar at_least: the target; of the ratio where there is one, else of the value.
    :ivar at_most: likewise.
    :ivar note: what is to be known before believing it, such as "wrong data".
    """

    section: str = ""
    name: str
    system: str = "fusecache"
    value: float
    unit: str = ""
    rounds: tuple[float, ...] = ()
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def spread(self) -> tuple[float, float] | None:
        """The least and the most of the rounds; None if there were not several."""
        return (min(self.rounds), max(self.rounds)) if len(self.rounds) > 1 else None

    @property
    def target(self) -> str:
        """The target in words, empty without one."""
        bounds = (("≥", self.at_least), ("≤", self.at_most))
        of = "x" if self.ratio is not None else ""
        return ", ".join(f"{sign} {of}{bound:g}" for sign, bound in bounds if bound is not None)

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.at_least is None and self.at_most is None:
            return None
        measure = self.value if self.ratio is None else self.ratio
        return (self.at_least is None or measure >= self.at_least) and (self.at_most is None or measure <= self.at_most)


def compared(
    name: str,
    rounds: Mapping[str, Sequence[float]],
    *,
    unit: str,
    baseline: str,
    at_least: Mapping[str, float] | None = None,
    at_most: Mapping[str, float] | None = None,
    notes: Mapping[str, str] | None = None,
) -> Iterator[Figure]:
    """Make the figures of systems that were measured by turns.

    A ratio is the median of the rounds' ratios: what the machine did meanwhile to one round it did to both.  A system
    with a note has none.

    :param rounds: the rounds of each system, the same number for all that are compared.
    :param baseline: the system that the ratios refer to; without rounds of it, there are no ratios.
    :param at_least: targets by system; likewise ``at_most``.
    :param notes: what is wrong with a system.
    """
    base = rounds.get(baseline, ())
    for system, values in rounds.items():
        note = (notes or {}).get(system, "")
        comparable = base and system != baseline and not note
        yield Figure(
            name=name,
            system=system,
            value=median(values),
            unit=unit,
            rounds=tuple(values),
            ratio=median_ratio(values, base) if comparable else None,
            at_least=(at_least or {}).get(system) if comparable else None,
            at_most=(at_most or {}).get(system) if comparable else None,
            note=note,
        )


def median_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Return the median of the ratios, round by round; raises ValueError if the numbers of rounds differ."""
    return median(value / other for value, other in zip(values, base, strict=True))
