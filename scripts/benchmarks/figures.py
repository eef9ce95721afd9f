"""Draw the figures of docs/policies.rst: what promises.py measures, as pictures that come out the same every time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from scripts.benchmarks.promises import (
    MINUTE_MS,
    levels_under_hits,
    moved_hot_set,
    promotions_along,
    stream,
)

FIGURES: Final = Path(__file__).parents[2] / "docs" / "figures"
COLOURS: Final = {"smq": "tab:blue", "mq": "tab:orange"}
_STREAM_BLOCKS: Final = 256
_MINUTES: Final = 10


def draw_bypass(target: Path) -> None:
    """Draw how many blocks a sequential stream gets into the cache, by threshold."""
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    offsets = stream(_STREAM_BLOCKS)
    for threshold, style in ((0, "-"), (2048, "-."), (512, "--")):
        label = f"sequential_threshold {threshold}" + (" (default)" if threshold == 512 else "")
        axes.plot(promotions_along(offsets, sequential_threshold=threshold), style, color=COLOURS["mq"], label=label)
    axes.set_xlabel("reads of 4 KiB, one after the other")
    axes.set_ylabel("blocks promoted")
    axes.set_title("mq: a sequential stream is let pass, unless the threshold is 0", fontsize=11)
    _finish(figure, axes, target)


def draw_adaptation(target: Path) -> None:
    """Draw the hit ratio of both policies before and after the hot set moves."""
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for name, colour in COLOURS.items():
        points = list(moved_hot_set(name, minutes_before=_MINUTES, minutes_after=_MINUTES))
        minutes = [now_ms / MINUTE_MS for now_ms, _ in points]
        axes.plot(minutes, [ratio for _, ratio in points], color=colour, label=name)
    axes.axvline(_MINUTES, color="0.6", linestyle=":", linewidth=1)
    axes.text(_MINUTES - 0.1, 0.02, "the hot set moves", ha="right", color="0.4")
    axes.set_ylim(0, 1)
    axes.set_xlabel("minutes")
    axes.set_ylabel("hit ratio")
    axes.set_title("90 % of the reads go to a hot set that fits into the cache, and moves once", fontsize=11)
    _finish(figure, axes, target)


def draw_levels(target: Path) -> None:
    """Draw how many blocks each level has, after the same hits."""
    figure, both = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained", width_ratios=(3, 2))
    for axes, (name, colour) in zip(both, COLOURS.items(), strict=True):
        *_, populations = levels_under_hits(name, minutes=_MINUTES)
        axes.bar(range(len(populations)), populations, color=colour, label=name)
        axes.set_xlabel("level, coldest first")
        axes.set_ylabel("blocks")
        axes.set_title(f"{name}: {len(populations)} levels", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    both[0].set_ylim(0, 64)
    _write_stretch(figure, target)


def _finish(figure: mpl.figure.Figure, axes: Axes, target: Path) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _write_stretch(figure, target)


def _write_stretch(figure: mpl.figure.Figure, target: Path) -> None:
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def main() -> int:
    """Draw all of them into docs/figures, or where asked."""
    parser = argparse.ArgumentParser(prog="figures", description=(__doc__ or "").strip())
    parser.add_argument("directory", type=Path, nargs="?", default=FIGURES, help="default: %(default)s")
    directory: Path = parser.parse_args().directory
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "fusecache"
    directory.mkdir(parents=True, exist_ok=True)
    for name, draw in (("bypass", draw_bypass), ("adaptation", draw_adaptation), ("levels", draw_levels)):
        target = directory / f"{name}.svg"
        draw(target)
        print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
