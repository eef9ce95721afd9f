"""One cached disk: what the data path, the migrations and the jobs share."""

from fusecache.volume.activity import Activity
from fusecache.volume.origin_io import OriginIO
from fusecache.volume.policies import new_policy
from fusecache.volume.volume import Volume, now_ms

__all__ = [
    "Activity",
    "OriginIO",
    "Volume",
    "new_policy",
    "now_ms",
]
