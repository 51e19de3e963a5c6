"""Which partition of the internal topic coordinates a group: Kafka's rule, so that its tools find the same one."""

from __future__ import annotations

from typing import Final

_INT: Final = 1 << 32
_INT_MIN: Final = -(1 << 31)


def partition_of(group_id: str, partitions: int) -> int:
    """``abs(groupId.hashCode()) % partitions`` (Kafka's GroupMetadataManager.partitionFor)."""
    code = java_hash(group_id)
    return (0 if code == _INT_MIN else abs(code)) % partitions


def java_hash(text: str) -> int:
    """Java's ``String.hashCode``: over UTF-16 code units, in 32 bits with a sign."""
    code = 0
    raw = text.encode("utf-16-be", "surrogatepass")
    for at in range(0, len(raw), 2):
        code = (31 * code + (raw[at] << 8 | raw[at + 1])) % _INT
    return code - _INT if code >= _INT // 2 else code
