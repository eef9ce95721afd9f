"""fusecache: one disk image, served from a small fast cache in front of a large slow origin."""

from typing import Final

__version__: Final = "0.1.0"
