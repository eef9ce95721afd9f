"""The sections there are, in the order in which they run."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol, cast

from scripts.benchmarks.suite.context import Context
from scripts.benchmarks.suite.figure import Figure

SECTIONS: Final = (
    "verify",
    "hits",
    "fsync",
    "profile",
    "interference",
    "slow",
    "ext4",
    "pages",
    "startup",
    "scale",
    "endurance",
)
"""Each is the module of that name in ``scripts/benchmarks/sections``."""


class Module(Protocol):
    """What such a module has."""

    def run(self, context: Context) -> Iterator[Figure]:
        """Measure."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section that can run."""

    name: str
    title: str
    module: Module

    def run(self, context: Context) -> Iterator[Figure]:
        """Measure, and put the section's name on each figure."""
        for figure in self.module.run(context):
            yield replace(figure, section=self.name)


def load(name: str) -> Section:
    """Import a section, only when it is wanted: a section may need what others do not."""
    module = importlib.import_module(f"scripts.benchmarks.sections.{name}")
    title = (module.__doc__ or name).partition("\n")[0].rstrip(".")
    return Section(name, title, cast("Module", module))
