"""dm-cache's text, and ours: words, tables, messages, policies with their tunables.  Pure."""

from fusecache.grammar.config_text import changed_config, read_config, write_changes, write_config
from fusecache.grammar.dirtiness import parse_dirty_age, parse_dirty_limit
from fusecache.grammar.fuse_options import FuseOptions, parse_fuse_options
from fusecache.grammar.messages import (
    Decommission,
    Discard,
    Flush,
    InvalidateCblocks,
    Message,
    SetThreshold,
    SetTunable,
    parse_bytes,
    parse_message,
    parse_range,
)
from fusecache.grammar.ownership import take_ownership
from fusecache.grammar.policies import MIGRATION_THRESHOLD, parse_policy, parse_threshold
from fusecache.grammar.table import parse_table, table_features, table_line
from fusecache.grammar.words import join_words, parse_read_ahead, split_words

__all__ = [
    "MIGRATION_THRESHOLD",
    "Decommission",
    "Discard",
    "Flush",
    "FuseOptions",
    "InvalidateCblocks",
    "Message",
    "SetThreshold",
    "SetTunable",
    "changed_config",
    "join_words",
    "parse_bytes",
    "parse_dirty_age",
    "parse_dirty_limit",
    "parse_fuse_options",
    "parse_message",
    "parse_policy",
    "parse_range",
    "parse_read_ahead",
    "parse_table",
    "parse_threshold",
    "read_config",
    "split_words",
    "table_features",
    "table_line",
    "take_ownership",
    "write_changes",
    "write_config",
]
