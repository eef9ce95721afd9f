"""Draw the figures that have a ratio: bars for each system, a panel for each section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scripts.benchmarks.suite.figure import Figure

_ROW_INCHES: Final = 0.17
_PANEL_INCHES: Final = 0.9


def draw(figures: Sequence[Figure], titles: Mapping[str, str], target: Path) -> bool:
    """Draw into a file, of the kind that its name says; return whether there was anything to draw."""
    panels = {
        section: rated for section in titles if (rated := [f for f in figures if f.section == section and f.ratio])
    }
    if not panels:
        return False
    mpl.use("Agg")
    heights = [_PANEL_INCHES + _ROW_INCHES * len(rated) for rated in panels.values()]
    size = (9, sum(heights))
    figure, all_axes = plt.subplots(
        len(panels), figsize=size, layout="constrained", squeeze=False, height_ratios=heights
    )
    systems = list(dict.fromkeys(item.system for rated in panels.values() for item in rated))
    colours = {system: f"C{number}" for number, system in enumerate(systems)}
    for axes, (section, rated) in zip(all_axes[:, 0], panels.items(), strict=True):
        _draw_panel(axes, rated, colours)
        axes.set_title(f"{section}: {titles[section]}", fontsize=10, loc="left")
    figure.savefig(target, dpi=110)
    plt.close(figure)
    return True


def _draw_panel(axes: Axes, rated: Sequence[Figure], colours: Mapping[str, str]) -> None:
    """Draw a bar for each figure, those of one thing measured next to each other."""
    place = 0.0
    ticks: list[float] = []
    names = list(dict.fromkeys(item.name for item in rated))
    for name in names:
        group = [item for item in rated if item.name == name]
        ticks.append(place + (len(group) - 1) / 2)
        for item in group:
            ratio = item.ratio or 0.0
            axes.barh(place, ratio, color=colours[item.system], height=0.9, label=item.system)
            axes.annotate(f" {ratio:.2f}", (ratio, place), va="center", fontsize=7)
            place += 1
        place += 0.8
    axes.set_yticks(ticks, names, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="0.4", linestyle="--", linewidth=1)
    ratios = [item.ratio for item in rated if item.ratio]
    if max(ratios) > 10 * min(ratios):
        axes.set_xscale("log")
    axes.margins(x=0.08)
    axes.spines[["top", "right"]].set_visible(False)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), frameon=False, fontsize=7, loc="best")
