"""A user without any rights, and root beside him, each with a script.

Theory of operation
-------------------
Run as root, the tests become nobody, in namespaces of their own, so that the machine stays as it is: there,
``/dev/fuse`` is replaced by one that everybody may open, as it is on most systems, and Python appears in a place that
everybody can read.  One shell script is one user's session; what it prints is judged.  Mounts and processes that it
leaves behind end with the namespaces.
"""

from __future__ import annotations

import os
import shlex
import site
import sys
from pathlib import Path
from typing import Final

from tests.integration.judges import MIB
from tests.integration.mounts import run

NOBODY: Final = 65534
REPOSITORY: Final = Path(__file__).parents[2]

# Only root comes here.  $ROOM is the user's directory, $1 the user's script, $2 what root does afterwards.
PREPARE: Final = f"""
set -eu
mkdir -p "$ROOM/python"
mount --make-rprivate /
mount --bind {shlex.quote(sys.base_prefix)} "$ROOM/python"
mknod --mode=666 "$ROOM/fuse" c 10 229
mount --bind "$ROOM/fuse" /dev/fuse
mount --bind "$ROOM/fuse.conf" /etc/fuse.conf
cd "$ROOM"
setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups sh -eu "$1"
sh -eu "$2"
"""


class Session:
    """What an unprivileged user does, with a home, an origin and a mountpoint."""

    def __init__(self, room: Path) -> None:
        self.room = room
        self.home = room / "home"
        self.origin = self.home / "disk.img"
        (self.home / "mnt").mkdir(parents=True)
        self.origin.write_bytes(bytes(4 * MIB))
        for path in (self.home, self.home / "mnt", self.origin):
            os.chown(path, NOBODY, NOBODY)

    def run(self, script: str, root: str = "", *, fuse_conf: str = "") -> str:
        """Run a script in which ``fusecache`` is at hand; returns what it printed.

        :param root: what root does afterwards, in the user's home.
        :param fuse_conf: what ``/etc/fuse.conf`` has in it.
        """
        (self.room / "fuse.conf").write_text(fuse_conf)
        files = [self._script("session.sh", script), self._script("root.sh", root)]
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return run("env", f"ROOM={self.room}", *apart, "sh", "-c", PREPARE, "sh", *files).stdout

    def _script(self, name: str, script: str) -> Path:
        packages = [str(REPOSITORY), *site.getsitepackages()]
        python = self.room / "python" / "bin" / Path(sys._base_executable).name  # type: ignore[attr-defined]
        settings = (
            f"PYTHONHOME={self.room / 'python'} PYTHONPATH={':'.join(packages)} "
            f"LD_LIBRARY_PATH={self.room / 'python' / 'lib'}"
        )
        file = self.room / name
        file.write_text(
            f"export HOME={self.home}\n"
            "unset XDG_CACHE_HOME XDG_STATE_HOME\n"
            f'python() {{ env {settings} {python} "$@"; }}\n'
            "fusecache() { python -c 'from fusecache.cli import main; main()' \"$@\"; }\n"
            f"cd {self.home}\n{script}"
        )
        return file
