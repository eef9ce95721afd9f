"""Which errno an error becomes; the one place where that is decided."""

from __future__ import annotations

import errno

import structlog

from fusecache.errors import (
    BusyError,
    FusecacheError,
    InvalidError,
    OutOfRangeError,
    ReadOnlyError,
    ReadOnlyKeyError,
    RefusedError,
    StoreError,
    UsageError,
)

log = structlog.get_logger(__name__)


def errno_for(error: Exception, request: str) -> int:
    """Turn the error of a request into an errno for the kernel, and log it; an unexpected one becomes EIO."""
    if isinstance(error, FusecacheError):
        code = _errno_of(error)
        log.warning("request refused or failed", request=request, errno=errno.errorcode[code], error=str(error))
        return code
    log.error("request failed unexpectedly", request=request, exc_info=error)
    return errno.EIO


def _errno_of(error: FusecacheError) -> int:
    """Choose the errno for an error.  The order matters: subclasses first."""
    for kind, code in (
        (OutOfRangeError, errno.EFBIG),
        (ReadOnlyKeyError, errno.EPERM),
        (UsageError, errno.EINVAL),
        (InvalidError, errno.EINVAL),
        (BusyError, errno.EBUSY),
        (ReadOnlyError, errno.EROFS),
        (RefusedError, errno.EPERM),
        (StoreError, errno.EIO),
    ):
        if isinstance(error, kind):
            return code
    return errno.EIO
