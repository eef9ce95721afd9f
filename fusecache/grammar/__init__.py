"""dm-cache's text, and ours: words, tables, messages, policies with their tunables.  Pure."""

from fusecache.grammar.messages import (
    Decommission,
    Flush,
    InvalidateCblocks,
    Message,
    SetValue,
    parse_message,
    parse_range,
)
from fusecache.grammar.policies import check_policy_name, parse_policy
from fusecache.grammar.table import parse_table, table_features, table_line
from fusecache.grammar.words import join_words, parse_decimal, split_words

__all__ = [
    "Decommission",
    "Flush",
    "InvalidateCblocks",
    "Message",
    "SetValue",
    "check_policy_name",
    "join_words",
    "parse_decimal",
    "parse_message",
    "parse_policy",
    "parse_range",
    "parse_table",
    "split_words",
    "table_features",
    "table_line",
]
