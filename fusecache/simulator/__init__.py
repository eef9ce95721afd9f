"""Recorded block traces, replayed through the same policies that mounts use, to compare policies and sizes."""

from fusecache.simulator.columns import MOST_REQUESTS
from fusecache.simulator.formats import FORMATS, require_format
from fusecache.simulator.plot import plot_results, require_plotting
from fusecache.simulator.report import print_results, progress_bar, results_json
from fusecache.simulator.rules import DataPath, Rules
from fusecache.simulator.runner import Job, run_jobs
from fusecache.simulator.study import CacheSize, parse_contenders, require_replayable, resolve_sizes
from fusecache.simulator.trace import read_trace, trace_names

__all__ = [
    "FORMATS",
    "MOST_REQUESTS",
    "CacheSize",
    "DataPath",
    "Job",
    "Rules",
    "parse_contenders",
    "plot_results",
    "print_results",
    "progress_bar",
    "read_trace",
    "require_format",
    "require_plotting",
    "require_replayable",
    "resolve_sizes",
    "results_json",
    "run_jobs",
    "trace_names",
]
