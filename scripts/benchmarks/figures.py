"""Draw the figures of docs/policies.rst: what its tests measure, as pictures that come out the same every time."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.unit.policies.promises import MINUTE_MS, levels_under_hits, moved_hot_set, promotions_along, stream

FIGURES: Final = Path(__file__).parents[2] / "docs" / "figures"
COLOURS: Final = {"smq": "tab:blue", "mq": "tab:orange"}
STREAM_BLOCKS: Final = 256
MINUTES: Final = 10


def bypass(axes: Axes) -> None:
    """Draw how many blocks a sequential stream gets into the cache, by threshold."""
    for threshold, style in ((0, "-"), (2048, "-."), (512, "--")):
        label = f"sequential_threshold {threshold}" + (" (default)" if threshold == 512 else "")
        promotions = promotions_along(stream(STREAM_BLOCKS), sequential_threshold=threshold)
        axes.plot(promotions, style, color=COLOURS["mq"], label=label)
    axes.set(xlabel="reads of 4 KiB, one after the other", ylabel="blocks promoted")
    axes.set_title("mq: a sequential stream is let pass, unless the threshold is 0", fontsize=11)
    axes.legend(frameon=False)


def adaptation(axes: Axes) -> None:
    """Draw the hit ratio of both policies before and after the hot set moves."""
    for name, colour in COLOURS.items():
        times, ratios = zip(*moved_hot_set(name, minutes_before=MINUTES, minutes_after=MINUTES), strict=True)
        axes.plot([now_ms / MINUTE_MS for now_ms in times], ratios, color=colour, label=name)
    axes.axvline(MINUTES, color="0.6", linestyle=":", linewidth=1)
    axes.text(MINUTES - 0.1, 0.02, "the hot set moves", ha="right", color="0.4")
    axes.set(ylim=(0, 1), xlabel="minutes", ylabel="hit ratio")
    axes.set_title("90 % of the reads go to a hot set that fits into the cache, and moves once", fontsize=11)
    axes.legend(frameon=False)


def levels(of_smq: Axes, of_mq: Axes) -> None:
    """Draw how many blocks each level has, after the same hits."""
    for axes, (name, colour) in zip((of_smq, of_mq), COLOURS.items(), strict=True):
        *_, populations = levels_under_hits(name, minutes=MINUTES)
        axes.bar(range(len(populations)), populations, color=colour, label=name)
        axes.set(xlabel="level, coldest first", ylabel="blocks")
        axes.set_title(f"{name}: {len(populations)} levels", fontsize=11)
    of_smq.set_ylim(0, 64)


def main() -> None:
    """Draw all of them into docs/figures, or where asked."""
    parser = argparse.ArgumentParser(description="Draw the figures of docs/policies.rst.")
    parser.add_argument("directory", type=Path, nargs="?", default=FIGURES, help="where to put them")
    directory = parser.parse_args().directory
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "fusecache"
    directory.mkdir(parents=True, exist_ok=True)
    for draw, widths in ((bypass, (1,)), (adaptation, (1,)), (levels, (3, 2))):
        figure, parts = plt.subplots(
            1, len(widths), figsize=(7, 3.2), layout="constrained", width_ratios=widths, squeeze=False
        )
        draw(*parts[0])
        for axes in parts[0]:
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(directory / f"{draw.__name__}.svg", metadata={"Date": None})
        print(directory / f"{draw.__name__}.svg")


if __name__ == "__main__":
    main()
