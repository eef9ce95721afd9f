"""Commands that talk to a running mount."""

from fusecache.client.client import Client

__all__ = [
    "Client",
]
