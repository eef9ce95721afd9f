"""Install a package as far as ``importlib.metadata`` can tell: no pip, no network, nothing to remove."""

from __future__ import annotations

import tomllib
from pathlib import Path

EXAMPLE = Path(__file__).parents[3] / "docs" / "example-policy"


def installed(project: Path, site: Path) -> list[str]:
    """Write what an installation would leave in ``site``; return what has to be on the path to find it and the code."""
    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    info = site / f"{metadata['name'].replace('-', '_')}-{metadata['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {metadata['name']}\nVersion: {metadata['version']}\n")
    groups = {
        group: "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in metadata["entry-points"].items()
    }
    (info / "entry_points.txt").write_text("".join(f"[{group}]\n{lines}\n" for group, lines in groups.items()))
    return [str(site), str(project)]
