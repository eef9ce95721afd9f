"""The image as a file: requests of the kernel, answered through FUSE."""

from fusecache.frontends.fuse.attributes import Attributes
from fusecache.frontends.fuse.kernel_pages import KernelPages
from fusecache.frontends.fuse.operations import Operations
from fusecache.frontends.fuse.session import Kept, Session

__all__ = [
    "Attributes",
    "Kept",
    "KernelPages",
    "Operations",
    "Session",
]
