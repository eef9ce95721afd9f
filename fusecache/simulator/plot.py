"""Miss-ratio curves: how the share of misses falls as the cache grows; one picture a trace, one line a policy.

matplotlib is needed here and nowhere else, and imported when it is.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from fusecache.errors import RefusedError, UsageError
from fusecache.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from fusecache.simulator.result import Result

SUFFIXES: Final = (".png", ".svg")

_LIMIT_STYLES: Final = {"opt": ("0.2", ":"), "exact-lru": ("0.6", "--")}
_PANEL_INCHES: Final = (6.5, 4.0)


def require_plotting(path: Path) -> None:
    """Refuse early what could not be drawn at the end.

    :raises UsageError: the suffix names no picture that can be drawn.
    :raises RefusedError: matplotlib is not installed, or there is no such directory.
    """
    if path.suffix not in SUFFIXES:
        msg = f"--plot {path}: the name must end in {' or '.join(SUFFIXES)}"
        raise UsageError(msg)
    if find_spec("matplotlib") is None:
        msg = "--plot needs matplotlib: pip install 'fusecache[plots]'"
        raise RefusedError(msg)
    if not path.parent.is_dir():
        msg = f"--plot {path}: {path.parent} is not a directory"
        raise RefusedError(msg)


def plot_results(path: Path, traces: Sequence[Sequence[Result]]) -> None:
    """Draw the results of each trace; raises RefusedError if the picture cannot be written."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - see the module's docstring

    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width, height * len(traces)), layout="constrained")
    panels = figure.subplots(len(traces), squeeze=False)
    for axes, results in zip(panels[:, 0], traces, strict=True):
        _draw(axes, results)
    try:
        figure.savefig(path)
    except OSError as exc:
        msg = f"--plot {path}: {exc.strerror or exc}"
        raise RefusedError(msg) from exc


def _draw(axes: Axes, results: Sequence[Result]) -> None:
    """Draw the curves of one trace."""
    first = results[0]
    for policy in dict.fromkeys(result.policy for result in results):
        points = sorted((r.cache_blocks * r.block_size, 1 - r.hit_ratio) for r in results if r.policy == policy)
        sizes, misses = zip(*points, strict=True)
        colour, style = _LIMIT_STYLES.get(policy, (None, "-"))
        axes.plot(sizes, misses, marker=".", label=policy, color=colour, linestyle=style)
    ticks = sorted({r.cache_blocks * r.block_size for r in results})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [format_size(tick) for tick in ticks], rotation=30)
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.set_xlabel("cache size")
    axes.set_ylabel("misses per block request")
    axes.set_title(f"{first.trace}, blocks of {format_size(first.block_size)}")
    axes.grid(alpha=0.3)
    axes.legend()
