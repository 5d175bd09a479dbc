"""How far a backfill has come in one timeline version, as the store's progress rows say it.

Time: none. A part is made of spans of files, or of numbers of arrivals, and is written run by run; which
spans and how many runs is kept in the transaction of the runs, so that a killed backfill goes on exactly
where it stood.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.store import Progress

PART = "part"
ARRIVALS = "arrivals"

# Progress under this and the hash of a log of snapshots: changes between these are being written.
SNAPSHOTS = "snapshots "


@dataclass(frozen=True)
class Span:
    """The rows ``[first, end)`` of a file with a hash; ``end`` None: from ``first`` on, where the next part
    begins.

    ``whole``: the file ends with this span. A span without ``path`` is one of arrivals, by their numbers.
    """

    path: str
    sha256: str
    first: int
    end: int | None
    whole: bool

    @property
    def text(self) -> str:
        return json.dumps([self.path, self.sha256, self.first, self.end, self.whole])


@dataclass(frozen=True)
class Standing:
    """``spans``: what the half-written part is made of, ``done`` of its ``total`` runs are in the store;
    ``rest``: the file that the next part goes on with; ``arrivals``: the number up to which arrivals are
    loaded."""

    spans: tuple[Span, ...] = ()
    done: int = 0
    total: int = 0
    rest: Span | None = None
    arrivals: int = 0

    @property
    def half_written(self) -> bool:
        return bool(self.spans)

    def rows(self) -> dict[str, Progress]:
        """As progress rows."""
        made = {span.text: Progress(0, 0) for span in self.spans}
        if self.spans:
            made[PART] = Progress(self.done, self.total)
        if self.rest is not None:
            made[self.rest.text] = Progress(0, 0)
        if self.arrivals:
            made[ARRIVALS] = Progress(self.arrivals, self.arrivals)
        return made


def standing(rows: Mapping[str, Progress]) -> Standing:
    """The standing that progress rows say."""
    part, arrivals = rows.get(PART, Progress(0, 0)), rows.get(ARRIVALS, Progress(0, 0))
    others = (PART, ARRIVALS)
    spans = [
        Span(*json.loads(text)) for text in rows if text not in others and not text.startswith(SNAPSHOTS)
    ]
    rest = next((span for span in spans if span.end is None), None)
    members = tuple(span for span in spans if span.end is not None)
    return Standing(members, part.done, part.total, rest, arrivals.done)
