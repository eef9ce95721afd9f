"""Where bytes live: one small asynchronous interface, and the stores behind it."""

from fusecache.stores.base import Data, Store
from fusecache.stores.buffers import Buffers
from fusecache.stores.choice import is_read_ahead, make_engine, open_file_store
from fusecache.stores.engine import Engine, ThreadEngine
from fusecache.stores.file import open_for_store, open_to_read
from fusecache.stores.read_only import ReadOnlyStore
from fusecache.stores.sparse import ZEROS, write_sparsely, write_zeros

__all__ = [
    "ZEROS",
    "Buffers",
    "Data",
    "Engine",
    "ReadOnlyStore",
    "Store",
    "ThreadEngine",
    "is_read_ahead",
    "make_engine",
    "open_file_store",
    "open_for_store",
    "open_to_read",
    "write_sparsely",
    "write_zeros",
]
