"""The benchmark suite: sections that measure, and what they share.

How to add a section, say ``fsync``:

1. Write ``scripts/benchmarks/sections/fsync.py``.  The first line of its docstring becomes the title of its table.
2. Give it ``def run(context: Context) -> Iterator[Figure]``: yield a :class:`~.figure.Figure` for each thing measured
   (``compared`` makes those of several systems, measured by turns); work below ``context.scratch()``, choose sizes by
   ``context.pick(full=..., quick=..., smoke=...)``, start things by the context managers of ``rig.py``.
3. Raise :class:`~.context.Skipped` with one line that says why, where it cannot run; :class:`RigError` where it fails.
4. Name it in ``SECTIONS`` of ``suite/registry.py``.  ``scripts/bench --sections fsync --smoke`` must end within seconds
   and leave nothing mounted, attached or running: ``tests/integration/test_bench.py`` tries that with every section.
"""
