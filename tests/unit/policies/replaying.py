"""scripts/replay-policy as a module, and conversations written down in tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import cast

SCRIPT = Path(__file__).parents[3] / "scripts" / "replay-policy"


def _load_replay() -> Callable[[Iterator[str]], tuple[int, int]]:
    loader = SourceFileLoader("replay_policy", str(SCRIPT))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return cast("Callable[[Iterator[str]], tuple[int, int]]", module.replay)


_replay = _load_replay()


def play(header: str, conversation: str) -> int:
    """Play ``event -> answer`` lines; any other answer raises.  Return how many answers there were."""
    lines = (line.strip().replace(" -> ", "\t") for line in conversation.strip().splitlines())
    return _replay(iter([f"# {header}", *lines]))[1]
