from __future__ import annotations

import pytest

from scripts.demonstration.transcript import README, block_of, shape, with_block

TEXT = """\
Title
=====

What ``scripts/demo`` printed here::

    bare: 9.9 s

      pass    hits
     ──────────────
      cold     64%

That is reading.
"""
PRINTED = """
bare: 10.25 s
$ setfattr -n name -v mq /tmp/fusecache-demo-x/mnt/image
  pass     hits\x20\x20
 ───────────────
  cold     100%
picture: /home/u/fusecache/build/demo.png
"""


def test_g09_the_block_is_found_and_replaced() -> None:
    assert block_of(TEXT) == "bare: 9.9 s\n\n  pass    hits\n ──────────────\n  cold     64%\n"
    after = with_block(TEXT, PRINTED)
    assert block_of(after).startswith("bare: 10.25 s\n$ setfattr -n name -v mq .../mnt/image\n  pass     hits\n ───")
    assert block_of(after).endswith("\npicture: build/demo.png\n")
    assert after.startswith("Title\n")
    assert after.endswith("build/demo.png\n\nThat is reading.\n")
    assert with_block(after, PRINTED) == after


def test_g09_figures_and_widths_have_no_shape() -> None:
    assert shape("  bare   9.9  s\n ─────\n  cold 64%") == shape("  bare 10.25 s\n ───\n  cold      100%")
    assert shape("bare: 9 s\n") != shape("cold: 9 s\n")
    assert shape(with_block(TEXT, PRINTED).partition("::\n\n")[2].partition("\n\nThat")[0]) == shape(PRINTED)


def test_g09_a_readme_without_a_block_is_left_alone() -> None:
    with pytest.raises(ValueError, match="no block"):
        with_block("nothing here\n", PRINTED)


def test_g09_the_readme_has_the_demos_passes() -> None:
    told = shape(block_of(README.read_text(encoding="utf-8"))).splitlines()
    assert {"bare: N s", "cold (smq): N s", "warm (adaptive): N s", "picture: build/demo.png"} <= set(told)
