"""Forgetting: an entity leaves the store for good, its timelines, its part in others' and what was pushed.

Time: none decides anything. The first commit puts the key on the list: from it on, no host answers with what
the key holds or takes it in. What is stored is then rewritten in short commits; killed at any moment, it is
gone on with by forgetting the same key again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from featurestore.dtypes import DType, instant_text, parse
from featurestore.errors import RequestError
from featurestore.log.archive import archive_files, archive_path, read_archive, rewrite_archive
from featurestore.log.cast import cast_rows
from featurestore.log.request_files import remove_leftovers, request_files
from featurestore.log.scan import OFFSET
from featurestore.plan.nodes import PRIMARY_KEY, SourcePlan
from featurestore.store.changes import is_table
from featurestore.store.commit import Commit
from featurestore.store.dead_letters import DeadLetter, read_dead_letters, remove_dead_letter
from featurestore.store.erasing import TimelineEraser, erased_push
from featurestore.store.forgotten import (
    DIGEST_KEY,
    Forgotten,
    Gone,
    digest,
    key_texts,
    read_forgotten,
)
from featurestore.store.forgotten_answers import forget_answers, keys_of
from featurestore.store.forgotten_letters import Letters, letter_name, search
from featurestore.store.reach import columns_of, names_of, own_keys, read_reach
from featurestore.store.records import ForgottenKey, ForgottenState, TimelineVersion
from featurestore.store.registry import read_registry
from featurestore.store.snapshot import Snapshot
from featurestore.store.store import Store
from featurestore.store.stream import without_forgotten

# Pushes that are looked at, and rewritten, in one commit.
PUSHES_A_COMMIT = 100
# Dead letters likewise: each has a megabyte at most, unless a setting says otherwise.
LETTERS_A_COMMIT = 50
# A request's read transaction ends in milliseconds; a training set's may take longer.
PURGE_WAIT_S = 10.0

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ForgetReport:
    """What became of a key. ``entities`` are all that are known by these columns; ``sources`` are those where
    it was looked for, each with the columns that hold it there: a table that is looked up may call its
    primary key otherwise. ``store_commit`` forgot it, ``before`` says that it had been forgotten by then.
    ``erased`` counts what has left the store because of it, in this run and in earlier ones: facts once for
    each timeline that they stood in. ``unsearched`` are versions of timelines whose columns can't tell whose
    their facts are. ``purged``: no byte is left in the store's files.
    """

    entities: tuple[str, ...]
    columns: tuple[str, ...]
    sources: tuple[tuple[str, tuple[str, ...]], ...]
    digests: tuple[str, ...]
    store_commit: int
    forgotten_at: str
    before: bool
    erased: Mapping[str, int]
    unsearched: tuple[str, ...]
    letters: Letters
    purged: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "entities": list(self.entities),
            "columns": list(self.columns),
            "sources": [{"source": name, "columns": list(held)} for name, held in self.sources],
            "digests": list(self.digests),
            "store_commit": self.store_commit,
            "forgotten_at": self.forgotten_at,
            "forgotten_before": self.before,
            "erased": dict(self.erased),
            "unsearched": list(self.unsearched),
            "dead_letters": self.letters.to_dict(),
            "purged": self.purged,
        }

    def text(self) -> str:
        """A few lines for a person; the key itself is not among them."""
        who = " and ".join(self.entities)
        if self.before:
            lines = [f"{who}: forgotten at store commit {self.store_commit}, {self.forgotten_at}"]
        else:
            lines = [f"{who}: forgotten for good (store commit {self.store_commit})"]
        told = [_told(n, what.replace("_", " ")) for what, n in self.erased.items() if n]
        if told:
            lines.append(f"  erased: {', '.join(told)}")
        else:
            lines.append("  the store held nothing of it; what its logs may bring is left out from now on")
        lines.append(f"  looked for in {_places(self.columns, self.sources)}")
        lines.extend(
            f"  {name} lacks the key's columns and can't be searched: rebuild its view, drop this version"
            for name in self.unsearched
        )
        lines.extend(self.letters.lines())
        if not self.purged:
            lines.append(
                "  a reader still needs the store's write-ahead log: run this again when it has ended"
            )
        return "\n".join(lines)


def _places(columns: tuple[str, ...], sources: Sequence[tuple[str, tuple[str, ...]]]) -> str:
    return ", ".join(name if held == columns else f"{name} (by {', '.join(held)})" for name, held in sources)


def _told(n: int, what: str) -> str:
    return f"{n:,} {what if n != 1 else what.removesuffix('s')}"


def forget(
    store: Store,
    entity: Mapping[str, object],
    *,
    root: Path,
    requests: Path,
    now: Callable[[], int],
    progress: Progress | None = None,
) -> ForgetReport:
    """Erase an entity, named by all its key columns, and leave its facts out for ever. The archives of topics
    are below ``root``, the request log's files in ``requests``.

    A key that nobody knows is put on the list as well: a log may hold it later. RequestError for columns that
    are no entity's key, and for a value that no key can hold.
    """
    columns = tuple(sorted(entity))
    with store.snapshot() as snapshot:
        names, sources, variants = _known(snapshot, columns)
        keys = _canonical(entity, columns, variants)
        digest_key = bytes.fromhex(snapshot.meta()[DIGEST_KEY])
        listed = {(one.columns, one.digest) for one in snapshot.forgotten()}
    digests = tuple(dict.fromkeys(digest(digest_key, columns, key.texts) for key in keys))
    before = all((columns, one) in listed for one in digests)
    if not before:
        # The detail of a commit stays: it names the columns and no key.
        for attempt in store.attempts("forget", now_us=now(), detail=", ".join(columns)):
            with attempt as commit:
                with store.snapshot() as snapshot:
                    listed = {(one.columns, one.digest) for one in snapshot.forgotten()}
                for one in digests:
                    if (columns, one) not in listed:
                        commit.add_forgotten(columns, one)
    unsearched: dict[str, None] = {}
    letters = Letters()
    for listed_key in _of(store, columns, digests):
        eraser = _Eraser(store, root, requests, listed_key, keys, now, progress, letters)
        if listed_key.state == "erasing":
            unsearched |= dict.fromkeys(eraser.run())
        else:
            # What streams could not read since then may hold the key.
            eraser.letters()
    purged = _purged(store, now)
    made = _of(store, columns, digests)
    first = min(made, key=lambda one: one.commit_number)
    erased = sum((Counter(one.counts) for one in made), Counter[str]())
    return ForgetReport(
        names,
        columns,
        sources,
        digests,
        first.commit_number,
        instant_text(first.committed_at_us),
        before,
        dict(erased),
        tuple(unsearched),
        letters,
        purged,
    )


def places(store: Store, columns: Iterable[str]) -> str:
    """Where ``forget`` would look for a key of ``columns``, for a person to read before there is no way back.

    RequestError for columns that are no entity's key.
    """
    named = tuple(sorted(columns))
    with store.snapshot() as snapshot:
        _, sources, _ = _known(snapshot, named)
    return _places(named, sources)


def finish_forgetting(store: Store, *, root: Path, requests: Path, now: Callable[[], int]) -> None:
    """Erase what is still there of every key on the list: what a killed run left, and what an entity's first
    view over a source shows to be its own."""
    with store.snapshot() as snapshot:
        pending = [one for one in snapshot.forgotten() if one.state == "erasing"]
    for one in pending:
        _Eraser(store, root, requests, one, (), now, None, Letters()).run()
    if pending:
        _purged(store, now)


def _of(store: Store, columns: tuple[str, ...], digests: Sequence[str]) -> list[ForgottenKey]:
    with store.snapshot() as snapshot:
        return [one for one in snapshot.forgotten() if one.columns == columns and one.digest in digests]


def _purged(store: Store, now: Callable[[], int]) -> bool:
    deadline_s = time.monotonic() + PURGE_WAIT_S
    while not store.purge(now_us=now()):
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(0.1)
    return True


# Who is meant


@dataclass(frozen=True)
class _Key:
    """A key under the types of some timelines; ``table`` has its one row (None: no timeline has it)."""

    texts: tuple[str, ...]
    table: pa.Table | None
    types: Mapping[str, str] = field(default_factory=dict)


def _known(
    snapshot: Snapshot, columns: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...], list[dict[str, str]]]:
    """The entities that have a key of ``columns``, the columns of sources where it stands, and the types that
    these have in timelines."""
    timelines = snapshot.timeline_versions()
    keys = {one.entity: own_keys(one) for one in timelines if one.entity != PRIMARY_KEY}
    names = tuple(sorted(name for name, own in keys.items() if tuple(sorted(own)) == columns))
    if not names:
        shown = "; ".join(f"{name}: {', '.join(own)}" for name, own in sorted(keys.items()))
        raise RequestError(
            f"no applied entity has the key {', '.join(columns) or '(none)'}",
            hint=f"give all key columns of one of these, like card_id=c1; {shown or 'none is applied yet'}",
        )
    reach, _ = read_reach(snapshot, timelines)
    places = reach.of(columns)
    types: list[dict[str, str]] = []
    for one in timelines:
        for source, scope in places:
            found = {name: one.columns.get(column, "") for name, column in scope}
            if source == one.source and all(found.values()) and found not in types:
                types.append(found)
    return names, tuple((source, columns_of(scope)) for source, scope in places), types


def _canonical(
    entity: Mapping[str, object], columns: tuple[str, ...], variants: Sequence[Mapping[str, str]]
) -> list[_Key]:
    """The key as each variant of types has it; one that can't hold it has no such entity."""
    missing = [name for name in columns if entity[name] is None]
    if missing:
        raise RequestError(f'no value for "{missing[0]}"', hint="a null key belongs to no timeline")
    made: list[_Key] = []
    fact = ""
    for types in variants:
        dtypes: dict[str, DType] = {name: parse(text) for name, text in types.items()}
        cast = cast_rows([dict(entity)], dtypes, timezone="UTC", time_unit=None)
        if cast.bad is not None:
            fact = cast.reasons[0][1]
            continue
        table = cast.table.select(list(columns)).combine_chunks()
        texts = tuple(key_texts(table.column(name).combine_chunks())[0] for name in columns)
        made.append(_Key(texts, table, types))
    if not made and variants:
        raise RequestError(fact, hint=", ".join(f"{name} is {text}" for name, text in variants[-1].items()))
    return made or [_Key(tuple(str(entity[name]) for name in columns), None)]


# Erasing


class _Eraser:
    """One key being erased from everything that the store holds."""

    def __init__(
        self,
        store: Store,
        root: Path,
        requests: Path,
        key: ForgottenKey,
        clear: Sequence[_Key],
        now: Callable[[], int],
        progress: Progress | None,
        letters: Letters,
    ) -> None:
        self._store = store
        self._letters_found = letters
        self._root = root
        self._requests = requests
        self._key = key
        self._clear = clear
        self._now = now
        self._tell = progress or (lambda done, total, what: None)

    def run(self) -> list[str]:
        """Erase; returns the timelines that can't be searched."""
        with self._store.snapshot() as snapshot:
            timelines = snapshot.timeline_versions()
            whole = read_forgotten(snapshot, timelines)
            plans = read_registry(snapshot).sources
        alone = replace(whole, keys=(self._key,))
        unsearched = []
        for source in _sources(whole, self._key):
            of_source = [one for one in timelines if one.source == source]
            for timeline in of_source:
                gone = _gone(alone, timeline)
                for part in () if gone is None else gone.parts():
                    if part.columns <= {*timeline.columns, *own_keys(timeline)}:
                        self._timeline(timeline, part)
                    elif timeline.state != "retired":
                        unsearched.append(f"{source} by {timeline.entity}@{timeline.id}")
            self._arrivals(source, _gone(alone, of_source[-1]), of_source[-1], plans.get(source))
            if source in plans:
                self._archive(plans[source])
        self._answers(whole.digest_key)
        self.letters()
        self._write(lambda commit: {}, state="done")
        return unsearched

    def letters(self) -> None:
        """Erase the dead letters that say that they are the key's, note those that may be."""
        with self._store.snapshot() as snapshot:
            timelines = snapshot.timeline_versions()
            whole = read_forgotten(snapshot, timelines)
            plans = read_registry(snapshot).sources
        alone = replace(whole, keys=(self._key,))
        texts = [dict(zip(self._key.columns, one.texts, strict=True)) for one in self._clear]
        for source in _sources(whole, self._key):
            of_source = [one for one in timelines if one.source == source]
            gone = _gone(alone, of_source[-1])
            found: list[DeadLetter] = []
            while gone is not None:
                after = found[-1].letter_key if found else None
                with self._store.snapshot() as snapshot:
                    found = read_dead_letters(snapshot, source, after=after, limit=LETTERS_A_COMMIT)
                if not found:
                    break
                theirs, maybe = search(found, gone, plans.get(source), texts)
                if theirs:
                    self._write(partial(_discard, theirs), self._key.state)
                self._note(theirs, maybe, plans.get(source))

    def _note(
        self, theirs: Sequence[DeadLetter], maybe: Sequence[DeadLetter], plan: SourcePlan | None
    ) -> None:
        noted = self._letters_found
        noted.erased |= dict.fromkeys(map(letter_name, theirs))
        noted.suspected |= dict.fromkeys(map(letter_name, maybe))
        for one in theirs:
            declared = None if plan is None else plan.topic
            noted.copied_to[
                f"{one.topic}.dead-letters" if declared is None else declared.dead_letter_topic
            ] = None

    def _timeline(self, timeline: TimelineVersion, gone: Gone) -> None:
        [scope] = (*gone.dropping, *gone.marking)
        clear = next(
            (
                one.table.select(names_of(scope)).rename_columns(list(columns_of(scope)))
                for one in self._clear
                if one.table is not None
                and all(one.types[name] == timeline.columns.get(column) for name, column in scope)
            ),
            None,
        )
        eraser = TimelineEraser(self._store, timeline, gone, clear)
        what = f"{timeline.source} by {timeline.entity}"
        for found in eraser.steps():
            if found.write is not None:
                self._write(found.write)
            self._tell(found.done, max(found.total, found.done), what)

    def _write(self, erase: Callable[[Commit], Mapping[str, int]], state: ForgottenState = "erasing") -> None:
        for attempt in self._store.attempts("forget", now_us=self._now()):
            with attempt as commit:
                commit.count_forgotten(self._key, erase(commit), state)

    def _arrivals(
        self, source: str, gone: Gone | None, timeline: TimelineVersion, plan: SourcePlan | None
    ) -> None:
        if gone is None:
            return
        after = 0
        with self._store.snapshot() as snapshot:
            total = snapshot.last_arrival
        while True:
            with self._store.snapshot() as snapshot:
                pushes = snapshot.arrivals(source, after=after, limit=PUSHES_A_COMMIT)
            if not pushes:
                return
            found = [(one, erased_push(one.payload, gone, timeline, plan)) for one in pushes]
            changed = [(one.first_number, *made) for one, made in found if made is not None]
            if changed:
                self._write(partial(_rewrite, changed))
            after = pushes[-1].first_number
            self._tell(after, max(total, after), f"pushed to {source}")

    def _archive(self, plan: SourcePlan) -> None:
        """A file at a time, whatever is forgotten: one that was begun is whole, or as it was."""
        path = archive_path(plan)
        files = [] if path is None else archive_files(self._root / path)
        for done, file in enumerate(files, start=1):
            rows, places = read_archive(file)
            # A column that came later is null in an older file.
            for name, dtype in plan.columns:
                if name not in rows.column_names:
                    rows = rows.append_column(name, pa.nulls(rows.num_rows, dtype.arrow))
            left, stays = without_forgotten(self._store, plan, rows)
            if not left.equals(rows):
                offsets = places.column(OFFSET).take(pa.array(stays)).to_pylist()
                rewrite_archive(file, left, offsets)
                self._write(lambda commit: {"archived_files": 1})
            self._tell(done, len(files), f"archive of {plan.name}")

    def _answers(self, digest_key: bytes) -> None:
        """What was answered about the key, as the request log has it; a file that was begun is whole, or as
        it was."""
        remove_leftovers(self._requests, self._now())
        files = request_files(self._requests)
        for done, file in enumerate(files, start=1):
            found = forget_answers(file, keys_of([self._key]), digest_key) if file.exists() else 0
            if found:
                self._write(partial(_counted, {"logged_answers": found}))
            self._tell(done, len(files), "request log")


def _counted(counts: Mapping[str, int], commit: Commit) -> Mapping[str, int]:
    return counts


def _discard(letters: Sequence[DeadLetter], commit: Commit) -> dict[str, int]:
    return {"dead_letters": sum(remove_dead_letter(commit, one.letter_key) for one in letters)}


def _sources(whole: Forgotten, key: ForgottenKey) -> list[str]:
    """The sources that may hold a key, each once."""
    return list(dict.fromkeys(name for name, _ in whole.reach.of(key.columns)))


def _rewrite(pushes: Sequence[tuple[int, bytes, int]], commit: Commit) -> dict[str, int]:
    for number, payload, _ in pushes:
        commit.rewrite_arrival(number, payload)
    return {"pushed_rows": sum(rows for _, _, rows in pushes)}


def _gone(alone: Forgotten, timeline: TimelineVersion) -> Gone | None:
    primary_key: tuple[str, ...] = ()
    if is_table(timeline):
        named = timeline.roles["primary_key"]
        primary_key = (named,) if isinstance(named, str) else tuple(named or ())
    return alone.of(timeline.source, primary_key)
