"""Where bytes live: one small asynchronous interface, and the stores behind it."""

from fusecache.stores.base import Data, Store
from fusecache.stores.choice import make_engine, open_file_store
from fusecache.stores.engine import Engine, ThreadEngine
from fusecache.stores.file import open_for_store, open_to_read

__all__ = [
    "Data",
    "Engine",
    "Store",
    "ThreadEngine",
    "make_engine",
    "open_file_store",
    "open_for_store",
    "open_to_read",
]
