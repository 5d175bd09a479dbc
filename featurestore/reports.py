"""Reports: what an operation did, as data and as text for a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from featurestore.plan.nodes import HIDDEN, label_of
from featurestore.store.registry import Change

SIGNS = {"added": "+", "changed": "~", "removed": "-", "unchanged": " "}
KINDS = {
    "entity": "entity",
    "source": "source",
    "feature_view": "feature view",
    "feature_service": "feature service",
}


@dataclass(frozen=True)
class PlanReport:
    """What an apply changes, or changed; ``warnings`` are facts that an author should know."""

    changes: Sequence[Change]
    warnings: Sequence[str]
    applied: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "applied": self.applied,
            "changes": [asdict(change) for change in self.changes],
            "warnings": list(self.warnings),
        }

    def text(self) -> str:
        lines = []
        for change in self.changes:
            if change.action == "unchanged" and not change.reason and not change.backfill:
                continue
            why = f": {change.reason}" if change.reason else ""
            fill = "  [needs a backfill]" if change.backfill else ""
            hidden = change.kind == "feature_view" and change.name.startswith(HIDDEN)
            what = label_of(change.name) if hidden else f"{KINDS[change.kind]} {change.name}"
            lines.append(f"{SIGNS[change.action]} {what}{why}{fill}")
        lines.extend(f"warning: {warning}" for warning in self.warnings)
        moved = sum(change.action != "unchanged" for change in self.changes)
        if not moved:
            lines.append("nothing to change: the store holds these declarations")
        elif self.applied:
            lines.append(f"applied {moved} change{'s' if moved > 1 else ''}")
        else:
            lines.append('nothing is changed yet: run "featurestore apply"')
        if self.applied and any(change.backfill for change in self.changes):
            lines.append('next: "featurestore backfill"')
        return "\n".join(lines)


@dataclass(frozen=True)
class MigrationReport:
    """Where a store is, and the revision of its schema before and after."""

    store: str

    def to_dict(self) -> dict[str, Any]:
        return {"store": self.store}

    def text(self) -> str:
        return f"{self.store} has this release's schema"
