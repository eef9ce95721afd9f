"""Put what the demo prints into README.rst, so that nobody has to write it there by hand.

``scripts/demo --readme`` runs the demo and writes the block anew.  The figures are those of one run on one machine;
what stays the same from run to run is the *shape*: the lines, with their figures left out, which a test holds against
the README.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

README: Final = Path(__file__).parents[2] / "README.rst"
_HEAD: Final = "What ``scripts/demo`` printed here::\n\n"
_INDENT: Final = "    "
_BLOCK: Final = re.compile(rf"(?<={re.escape(_HEAD)})(?:{_INDENT}.*\n|\n(?={_INDENT}))+")


def block_of(readme: str) -> str:
    """Return what the README says that the demo prints; raises ValueError if it says nothing."""
    found = _BLOCK.search(readme)
    if found is None:
        msg = "the README has no block for what the demo prints"
        raise ValueError(msg)
    return "".join(line.removeprefix(_INDENT) for line in found[0].splitlines(keepends=True))


def with_block(readme: str, printed: str) -> str:
    """Return the README with another block."""
    block_of(readme)
    block = "".join(f"{_INDENT}{line}".rstrip() + "\n" for line in tidy(printed).strip().splitlines())
    return _BLOCK.sub(lambda _: block, readme, count=1)


def tidy(printed: str) -> str:
    """Shorten the paths of this run."""
    printed = re.sub(r"/\S*/mnt/image", ".../mnt/image", printed)
    return re.sub(r"(?m)^picture: .*/", "picture: build/", printed)


def shape(printed: str) -> str:
    """Return the lines with their figures left out, and with one blank where there are several."""
    lines = re.sub(r"[0-9]+(\.[0-9]+)?", "N", tidy(printed)).strip().splitlines()
    return "\n".join(re.sub(r"[ ─]+", " ", line).strip() for line in lines)


def main() -> int:
    """Run the demo and write down what it prints."""
    command = [sys.executable, "-P", "-m", "scripts.demonstration.demo"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    printed = ""
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        printed += line
    if code := process.wait():
        return code
    README.write_text(with_block(README.read_text(encoding="utf-8"), printed), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
