"""What filling one timeline version did: its counts, and what a person should know by name.

Time: none. Everything here is of one run; the store's counters are of all runs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from featurestore.batch.parts import Rejected
from featurestore.store.conflicts import Conflict

# Of corrections and rejected rows, so many are named.
SHOWN = 10

_TOLD = {
    "corrected": "corrections",
    "duplicate": "duplicates",
    "late": "too late to be of use",
    "keyless": "without an entity key",
    "rejected": "rejected",
    "ignored": "ignored",
    "forgotten": "of forgotten entities",
}


@dataclass
class Filled:
    """What filling one timeline version did, in this run.

    ``corrections`` names events with different contents, ``conflicts`` rows of a table with different
    changes at one position. ``updates_of_unseen_rows`` counts rows that the store had not seen and whose
    first change, by position, is an update or a delete: it is accepted. ``rebuilt`` says why the version was
    begun in place of another, where what that held had changed.
    """

    source: str
    entity: str
    timeline_version: int
    counts: Counter[str] = field(default_factory=Counter)
    loaded: list[str] = field(default_factory=list)
    unchanged: int = 0
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    corrections: list[str] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    updates_of_unseen_rows: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    rebuilt: str | None = None
    switched: list[str] = field(default_factory=list)
    waits: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "counts": dict(self.counts)}

    def what_is_written(self) -> str:
        """What stays of a backfill that is refused."""
        rows, files = self.counts["delivered"], len(self.loaded)
        if not rows:
            return f"nothing of this backfill of {self.source} by {self.entity} is written"
        loaded = "1 file that is" if files == 1 else f"{files} files that are"
        return (
            f"of {self.source} by {self.entity}, {rows:,} rows before them stay, with {loaded} loaded whole"
        )

    def text(self) -> str:
        """A line of what was added, then what a person should know about it."""
        told = [f"{self.counts['accepted']:,} facts"]
        told += [f"{self.counts[kind]:,} {what}" for kind, what in _TOLD.items() if self.counts[kind]]
        files = f"{len(self.loaded)} file{'' if len(self.loaded) == 1 else 's'}"
        before = f" ({self.unchanged} loaded before)" if self.unchanged else ""
        lines = [f"{self.source} by {self.entity}: {', '.join(told)} from {files}{before}"]
        if not self.counts["delivered"]:
            lines = [f"{self.source} by {self.entity}: nothing new{before}"]
        if self.rebuilt:
            lines.append(f"  rebuilt: {self.rebuilt}")
        if self.corrections:
            lines.append(f"  ids with different content: {', '.join(self.corrections)}")
        lines.extend(f"  in conflict: {conflict.text()}" for conflict in self.conflicts)
        if self.updates_of_unseen_rows:
            lines.append(
                f"  rows never seen before that begin with an update: {self.updates_of_unseen_rows:,}"
            )
        lines.extend(f"  rejected: {row.text()}" for row in self.rejected)
        for paths, what in ((self.changed, "changed"), (self.removed, "removed")):
            if paths:
                shown = ", ".join(paths[:SHOWN]) + (", ..." if len(paths) > SHOWN else "")
                lines.append(
                    f"  {what} since it was loaded, its facts stay (--rebuild follows the log): {shown}"
                )
        lines.extend(f"  now served: {view}" for view in self.switched)
        if self.waits:
            lines.append(f"  not served yet, it waits for {self.waits}")
        return "\n".join(lines)
