"""The tools for a cache that is not mounted.

All of them lock what they look at, so that a mounted cache is refused.  What only looks (check, dump, repair) reads a
copy or opens the metadata such that nothing of it changes; what makes metadata (restore, repair) makes a draft that
appears whole or not at all; writeback records a block as clean only after the origin has it durably.  So each can be
killed at any point and run again.
"""

from fusecache.offline.adopting import adopt, describe_adoption
from fusecache.offline.checking import check, clear_needs_check, describe_check, put_stamp, require_no_problems
from fusecache.offline.dumping import dump, dump_to_file
from fusecache.offline.opening import Files, find_files
from fusecache.offline.repairing import describe_repair, repair
from fusecache.offline.restoring import restore
from fusecache.offline.verifying import verify
from fusecache.offline.writing_back import describe_writeback, require_complete, write_back

__all__ = [
    "Files",
    "adopt",
    "check",
    "clear_needs_check",
    "describe_adoption",
    "describe_check",
    "describe_repair",
    "describe_writeback",
    "dump",
    "dump_to_file",
    "find_files",
    "put_stamp",
    "repair",
    "require_complete",
    "require_no_problems",
    "restore",
    "verify",
    "write_back",
]
