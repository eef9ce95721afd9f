"""Several systems at once, each with an image of its own whose beginning lies in its cache."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from mmap import mmap
from pathlib import Path
from typing import Final

from scripts.benchmarks.rig import RigError
from scripts.benchmarks.suite.context import Context
from scripts.benchmarks.suite.systems import SYSTEMS, Exposed, Sizes

PIECE: Final = 2**20
MOST_PASSES: Final = 12
FEWEST_PASSES: Final = 2


@contextmanager
def warm_systems(
    context: Context, names: Sequence[str], scratch: Path, image_bytes: int, sizes: Sizes, warm_bytes: int
) -> Iterator[dict[str, Exposed]]:
    """Mount systems over images of random bytes below ``scratch/NAME``, and warm them; those that fail are left out."""
    with ExitStack() as stack:
        opened: dict[str, Exposed] = {}
        for name in names:
            context.say(f"mounting and warming {name}")
            directory = scratch / name
            (directory / "origin").mkdir(parents=True)
            (directory / "system").mkdir()
            origin = directory / "origin" / "disk"
            make_image(origin, image_bytes)
            try:
                exposed = stack.enter_context(SYSTEMS[name].open(origin, directory / "system", sizes))
                warm(exposed, warm_bytes)
            except (RigError, OSError) as exc:
                context.say(f"{name} is left out: {exc}")
                continue
            opened[name] = exposed
        yield opened


def make_image(path: Path, size: int) -> None:
    """Write random bytes into a file whose space is taken first, as that of a cache file is.

    Where the space of a file is taken by writing it in one go, the kernel may keep it in larger pieces of memory, and
    large reads of it are up to a quarter faster: whoever serves the image itself would seem so.
    """
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
        file.write(os.urandom(size))


def warm(exposed: Exposed, size: int) -> None:
    """Read the beginning of an image until it is in the cache, then write it, so that it may be dirty there."""
    with mmap(-1, PIECE) as buffer:
        fd = os.open(exposed.image, os.O_RDWR | os.O_DIRECT)
        try:
            for number in range(MOST_PASSES):
                if number >= FEWEST_PASSES and (not exposed.cached_bytes or exposed.cached_bytes() >= size):
                    break
                for offset in range(0, size, PIECE):
                    os.preadv(fd, [buffer], offset)
            for offset in range(0, size, PIECE):
                os.preadv(fd, [buffer], offset)
                os.pwrite(fd, buffer, offset)
        finally:
            os.close(fd)
