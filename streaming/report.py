"""What a worker did, for a person and for a program. No time is read or kept here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class StreamReport:
    """What a worker did, by source and partition."""

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    commits: int = 0
    switched: list[str] = field(default_factory=list)

    def add(self, source: str, counts: Mapping[str, Mapping[str, int]]) -> None:
        self.commits += 1
        for partition, of_partition in counts.items():
            mine = self.counts.setdefault(f"{source}:{partition}", {})
            for what, n in of_partition.items():
                mine[what] = mine.get(what, 0) + n

    def to_dict(self) -> dict[str, Any]:
        return {"partitions": self.counts, "commits": self.commits, "switched": self.switched}

    def text(self) -> str:
        lines = []
        for name, counts in sorted(self.counts.items()):
            told = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n and what != "delivered")
            lines.append(f"{name}: {counts.get('delivered', 0):,} messages: {told or 'nothing'}")
        lines += [f"now served: {view}" for view in self.switched]
        return "\n".join(lines) or "there was nothing to read"
