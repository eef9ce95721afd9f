"""The benchmark suite: sections that measure, and what they share.

How to add a section, say ``fsync``:

1. Write ``def fsync(context: Context) -> Iterator[Figure]`` in a module of ``scripts/benchmarks/sections``; the first
   line of its docstring becomes the title of its table.  Yield a :class:`~.measuring.Figure` for each thing measured
   (``compared`` makes those of several systems, measured by turns); work below ``context.scratch()``, choose sizes by
   ``context.pick(full=..., quick=..., smoke=...)``, start things by the context managers of ``rig.py``.
2. Raise :class:`RigError`, with one line that says why, where it fails.
3. Name it in ``suite/__main__.py``.  ``scripts/bench --sections fsync --smoke`` must end within seconds and leave
   nothing mounted, attached or running: ``tests/integration/test_bench.py`` tries that with every section.
"""
