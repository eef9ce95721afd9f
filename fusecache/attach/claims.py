"""Where the claim on an origin is kept: on the origin itself, or, where that has no room for notes, beside our files.

A block device has no extended attributes, nor has every file system.  Then the claim lies in a file of its own on this
host, with the signs of the origin beside it.  It is found by these, and so whatever the origin is called by then.
Other hosts, and other users, do not see it.  One that says that all is well is not kept there: whoever throws a cache
away would leave it behind for ever.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from fusecache.attach.bond import Bond
from fusecache.attach.claim import Claim
from fusecache.attach.stamp import write_stamp
from fusecache.errors import UntrustedError
from fusecache.linux import create_trusted, open_trusted, sync_directory
from fusecache.metadata import Identity
from fusecache.paths import claims_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fusecache.attach.origin import Origin
    from fusecache.metadata import Database

log = structlog.get_logger(__name__)

_MOST_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Claims:
    """What is claimed of one origin."""

    origin: Origin
    directory: Path | None
    """Where claims are kept that the origin cannot keep; None if there is no such place."""

    @classmethod
    def of(cls, origin: Origin, environ: Mapping[str, str]) -> Claims:
        """Return what is claimed of an origin, as far as this user can see it."""
        return cls(origin, claims_directory(environ=environ, is_root=os.geteuid() == 0))

    def read(self) -> Claim | None:
        """Return the claim on the origin, if there is one."""
        if (claim := self.origin.claim()) is not None:
            return claim
        if noted := list(self._noted()):
            now = self.origin.identity()
            return next((claim for of, claim, _ in noted if _is_it(now, of)), None)
        return None

    def write(self, claim: Claim) -> str:
        """Put a claim on it, durably, in the place of any other; returns where that is kept, nothing for nowhere."""
        if self.origin.write_claim(claim):
            self._forget()
            return self.origin.address
        if claim.clean:
            return ""  # nothing depends on it, and it would lie there for ever
        if place := self._note(claim):
            self.origin.remove_claim()  # an older one, which would be believed
        return place

    def remove(self) -> None:
        """Take the claim from it, durably, if that can be done."""
        self.origin.remove_claim()
        self._forget()

    def bond(self, database: Database, *, cache_fd: int, keeps_claim: bool = False) -> Bond:
        """Return what ties origin, cache and metadata together.

        :param keeps_claim: whether nothing is written to the origin.
        """
        superblock = database.superblock()
        return Bond(
            uuid=superblock.uuid,
            generation=superblock.generation,
            previous=superblock.previous_generation,
            metadata=str(database.path),
            ledger=database,
            write_stamp=partial(write_stamp, cache_fd),
            claims=self,
            touched=self.origin.touched,
            claim_generation=superblock.claim_generation,
            keeps_claim=keeps_claim,
        )

    def _noted(self) -> Iterator[tuple[Identity, Claim, Path]]:
        if self.directory is None or not self.directory.is_dir():
            return
        for path in sorted(self.directory.glob("*.claim")):
            try:
                with os.fdopen(open_trusted(path, os.O_RDONLY), "rb") as file:
                    noted = json.loads(file.read(_MOST_BYTES))
                claim = Claim.unpack(json.dumps(noted["claim"]).encode())
                identity = Identity.unpack(noted["origin"])
            except (OSError, UntrustedError, ValueError, KeyError, TypeError, RecursionError):
                continue
            if claim is not None:
                yield identity, claim, path

    def _note(self, claim: Claim) -> str:
        if self.directory is None:
            return ""
        now = self.origin.identity()
        known_by = json.dumps(sorted(now.signs.items())) if now.signs else now.address
        path = self.directory / f"{hashlib.sha256(os.fsencode(known_by)).hexdigest()[:16]}.claim"
        draft = path.with_suffix(".draft")
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
            fd = create_trusted(draft, os.O_WRONLY)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                json.dump({"origin": now.pack(), "claim": asdict(claim)}, file)
                file.flush()
                os.fsync(fd)
            draft.replace(path)
            sync_directory(self.directory)
        except (OSError, UntrustedError) as exc:
            log.warning("the claim is kept nowhere", origin=now.address, reason=str(exc))
            return ""
        self._forget(but=path)  # afterwards: a crash may leave two, but never none
        return str(path)

    def _forget(self, but: Path | None = None) -> None:
        """Remove what is noted of this origin, and of no other that was in its place."""
        if self.directory is not None and (noted := list(self._noted())):
            now = self.origin.identity()
            with suppress(OSError):
                for path in [path for of, _, path in noted if path != but and _is_surely(now, of)]:
                    path.unlink(missing_ok=True)
                    sync_directory(self.directory)


def _is_surely(now: Identity, noted: Identity) -> bool:
    return now.is_known_by_signs(noted) or (not now.signs and not noted.signs and now.address == noted.address)


def _is_it(now: Identity, noted: Identity) -> bool:
    """Tell whether this may be the origin of which something is noted."""
    if now.signs.keys() & noted.signs.keys():
        return now.is_known_by_signs(noted)
    return now.is_where_it_was(noted)
