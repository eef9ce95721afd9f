"""The clean end of a mount."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusecache.attach import hint_signature
from fusecache.metadata import Transaction, packed

if TYPE_CHECKING:
    from fusecache.attach import Binding
    from fusecache.volume import Volume


async def end_cleanly(volume: Volume, binding: Binding) -> None:
    """Make the record exact, then mark it clean."""
    await volume.durability.settle()
    policy = volume.policy
    if policy.hint_size:
        # One at a time: a list of them would take more memory than the map.
        hints = ((cblock, policy.get_hint(cblock)) for cblock, _ in volume.mapping.mapped())
        await binding.database.save_hints(hints)
    values = packed(hints=hint_signature(policy), stats=volume.counters.persistent()) | binding.end_values()
    await binding.database.commit(Transaction(values=values))
    if not volume.mapping.dirty_count:
        binding.release_origin()
