"""What verifying has found: counts, and what is named of each kind.

Time: ages are of a fact when the answer that lacks it was given: from when it was available to then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featurestore.dtypes import instant_text

NAMED = 10
"""Facts that are named for one answer."""

LOST = "lost"
MISSING = "missing from the log"
NOT_ENTERED = "not entered"
DAMAGED = "of other content in the store"
TAKEN = "part of the value"

# What a person is shown of a kind; the data have as many as were asked for.
SHOWN = 10


@dataclass(frozen=True)
class NamedFact:
    """A fact: what is with it, which ``side`` has it ("log", "store" or "both"), the source and entity, its
    id or primary key, its times, and where in the log it is ("" for nowhere)."""

    what: str
    side: str
    source: str
    entity: str
    id: Mapping[str, object]
    event_time: int | None
    changed_at: int | None
    available_at: int | None
    place: str = ""

    def to_dict(self) -> dict[str, Any]:
        changed = {} if self.changed_at is None else {"changed_at": _text(self.changed_at)}
        return {
            "what": self.what,
            "side": self.side,
            "source": self.source,
            "entity": self.entity,
            "id": dict(self.id),
            "event_time": _text(self.event_time),
            **changed,
            "available_at": _text(self.available_at),
            "place": self.place,
        }

    def text(self) -> str:
        named = ", ".join(f"{name}={value}" for name, value in self.id.items()) or "an event"
        times = [
            f"{word} {instant_text(instant)}"
            for word, instant in (("event time", self.event_time), ("changed at", self.changed_at))
            if instant is not None
        ]
        where = f"; {self.place}" if self.place else ""
        has = "both have it" if self.side == "both" else f"only the {self.side} has it"
        told = f" ({', '.join(times)})" if times else ""
        return f"{self.what}: {self.source} {named}{told}, {has}{where}"


@dataclass(frozen=True)
class Difference:
    """An answer whose bits are not those that were computed, and the facts responsible: ``because`` says of
    them in a word how they explain it."""

    request_id: str
    feature: str
    keys: str
    as_of: int
    known_at: str | None
    store_commit: int
    answered_at: int
    logged: tuple[str, str, int]
    computed: tuple[str, str, int]
    because: str
    facts: Sequence[NamedFact] = ()

    def to_dict(self) -> dict[str, Any]:
        def answer(value: tuple[str, str, int]) -> dict[str, str]:
            return {"value": value[0], "status": value[1], "event_timestamp": instant_text(value[2])}

        return {
            "request_id": self.request_id,
            "feature": self.feature,
            "keys": self.keys,
            "as_of": instant_text(self.as_of),
            "known_at": self.known_at,
            "store_commit": self.store_commit,
            "answered_at": instant_text(self.answered_at),
            "logged": answer(self.logged),
            "computed": answer(self.computed),
            "because": self.because,
            "facts": [fact.to_dict() for fact in self.facts],
        }

    def text(self) -> list[str]:
        lines = [
            f"  {self.feature} of {self.keys} as of {instant_text(self.as_of)}"
            f" (commit {self.store_commit}, request {self.request_id}): answered {_shown(self.logged)},"
            f" computed {_shown(self.computed)}; {self.because}"
        ]
        return lines + [f"    {fact.text()}" for fact in self.facts]


@dataclass
class Freshness:
    """Facts that the log has of entities that were asked about, that happened before the question and had
    not entered when it was answered: how many, in how many questions, and how old the oldest was then, of
    those that were available by then (None: none was)."""

    facts: int = 0
    questions: int = 0
    oldest_us: int | None = None

    def to_dict(self) -> dict[str, Any]:
        oldest = None if self.oldest_us is None else self.oldest_us / 1e6
        return {"facts": self.facts, "questions": self.questions, "oldest_seconds": oldest}


@dataclass
class Verification:
    """What a verification has found. ``compared`` answers are ``equal``, ``differing``, or ``unverified``:
    they need facts that are missing from the log, and agree once these are taken from the store.

    ``lost`` and ``missing`` count facts, ``ahead`` answers of commits that the store does not have;
    ``skipped`` says why other answers could not be looked at.
    """

    answers: int = 0
    compared: int = 0
    equal: int = 0
    differing: int = 0
    unverified: int = 0
    lost: int = 0
    missing: int = 0
    ahead: int = 0
    freshness: Freshness = field(default_factory=Freshness)
    skipped: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    lost_facts: list[NamedFact] = field(default_factory=list)
    missing_facts: list[NamedFact] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every answer that could be computed has the same bits, and the store has lost nothing."""
        return not (self.differing or self.lost or self.ahead)

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "answers": self.answers,
            "compared": self.compared,
            "equal": self.equal,
            "differing": self.differing,
            "unverified": self.unverified,
            "lost": self.lost,
            "missing": self.missing,
            "ahead": self.ahead,
            "freshness": self.freshness.to_dict(),
            "skipped": dict(self.skipped),
            "differences": [one.to_dict() for one in self.differences],
            "lost_facts": [one.to_dict() for one in self.lost_facts],
            "missing_facts": [one.to_dict() for one in self.missing_facts],
        }

    def text(self) -> str:
        """A few lines for a person."""
        if not self.answers:
            return 'no answer is logged: set [request_log] sample, and ask "featurestore serve" something'
        lines = [f"{self.answers:,} answers: {self.compared:,} compared, {self.equal:,} equal to the bit"]
        lines += [f"  skipped {n:,}: {why}" for why, n in self.skipped.most_common()]
        fresh = self.freshness
        if fresh.facts:
            age = "" if fresh.oldest_us is None else f", the oldest {fresh.oldest_us / 1e6:,.3f} s old"
            lines.append(
                f"  freshness: {fresh.facts:,} facts had not entered when they were asked about,"
                f" in {fresh.questions:,} questions{age}"
            )
        if self.missing:
            lines.append(
                f"  missing: {self.missing:,} facts had entered and are not in the log; {self.unverified:,}"
                " answers agree only with them"
            )
            lines += _few([[f"  {fact.text()}"] for fact in self.missing_facts], self.missing)
        if self.ahead:
            lines.append(f"  {self.ahead:,} answers are of commits that the store does not have")
        if self.lost:
            lines.append(f"  lost: {self.lost:,} facts of the log that the store should have and has not")
            lines += _few([[f"  {fact.text()}"] for fact in self.lost_facts], self.lost)
        if self.differing:
            lines.append(f"  differing: {self.differing:,} answers")
            lines += _few([one.text() for one in self.differences], self.differing)
        return "\n".join(lines)


def _few(told: Sequence[Sequence[str]], total: int) -> list[str]:
    """The first of what there is, and how many more there are."""
    shown = told[:SHOWN]
    lines = [f"  {line}" for one in shown for line in one]
    if total > len(shown):
        lines.append(f"    and {total - len(shown):,} more; --json names up to --limit of them")
    return lines


def _text(instant: int | None) -> str | None:
    return None if instant is None else instant_text(instant)


def _shown(answer: tuple[str, str, int]) -> str:
    value, status, at = answer
    return f"{value} ({status}, {instant_text(at)})"
