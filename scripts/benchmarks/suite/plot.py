"""Draw how many times as fast as the baseline each system is: a panel for each section, a bar for each system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from scripts.benchmarks.suite.measuring import Figure

_BAR_INCHES: Final = 0.16
_PANEL_INCHES: Final = 1.0
_GAP: Final = 0.8
"""Between groups of bars, in bars."""


def draw(sections: Mapping[str, Sequence[Figure]], target: Path) -> bool:
    """Draw the speeds that have a ratio into a file, of the kind that its name says; return whether there are any."""
    speeds = {name: [item for item in items if item.unit.endswith("/s")] for name, items in sections.items()}
    panels = {name: items for name, items in speeds.items() if any(item.ratio for item in items)}
    if not panels:
        return False
    mpl.use("Agg")
    heights = [_PANEL_INCHES + _BAR_INCHES * sum(bool(item.ratio) for item in panel) for panel in panels.values()]
    picture, all_axes = plt.subplots(
        len(panels), figsize=(9, sum(heights)), layout="constrained", squeeze=False, height_ratios=heights
    )
    systems = dict.fromkeys(item.system for panel in panels.values() for item in panel if item.ratio)
    colours = {system: f"C{number}" for number, system in enumerate(systems)}
    for axes, (section, panel) in zip(all_axes[:, 0], panels.items(), strict=True):
        _draw_panel(axes, panel, colours)
        axes.set_title(section, fontsize=10, loc="left")
    picture.savefig(target, dpi=110)
    plt.close(picture)
    return True


def _draw_panel(axes: Axes, panel: Sequence[Figure], colours: Mapping[str, str]) -> None:
    """Draw bars that begin at 1, on a logarithmic scale: twice and half are as long."""
    rated = [item for item in panel if item.ratio]
    baselines = dict.fromkeys(item.system for item in panel if not item.ratio and not item.note)
    ticks: dict[str, float] = {}
    place = 0.0
    for name in dict.fromkeys(item.name for item in rated):
        group = [item for item in rated if item.name == name]
        ticks[name] = place + (len(group) - 1) / 2
        for item in group:
            ratio = item.ratio or 1.0
            axes.barh(place, ratio - 1, left=1, color=colours[item.system], height=0.9, label=item.system)
            axes.annotate(
                f" {ratio:.2f} ", (ratio, place), ha="left" if ratio >= 1 else "right", va="center", fontsize=7
            )
            place += 1
        place += _GAP
    axes.set_yticks(list(ticks.values()), list(ticks), fontsize=8)
    axes.set_ylim(max(place, 3), -1)  # downwards
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"times as fast as {', '.join(baselines)}", fontsize=8)
    axes.axvline(1, color="0.3", linewidth=1)
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(list(handles.values()), list(handles), frameon=False, fontsize=7, loc="best")
