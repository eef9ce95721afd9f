"""The image as a file: requests of the kernel, answered through FUSE."""

from fusecache.frontends.fuse.attributes import Attributes
from fusecache.frontends.fuse.connection import raise_request_limit
from fusecache.frontends.fuse.kernel_pages import KernelPages
from fusecache.frontends.fuse.loop import serve_requests
from fusecache.frontends.fuse.operations import Operations

__all__ = [
    "Attributes",
    "KernelPages",
    "Operations",
    "raise_request_limit",
    "serve_requests",
]
