"""Training sets made again from their manifests: the files, rows and pushes that these name, and no others.

Time: ``known_at`` and the spine's times are the manifest's. What a log has got since is not read; what is
missing or has changed is said, all of it, before anything is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from featurestore.batch import manifest as manifests
from featurestore.batch.digest import of_columns
from featurestore.batch.facts import Reader
from featurestore.batch.logs import Logs, arrivals_identity, table_identity
from featurestore.batch.recorded import Recorded, RecordedFile, RecordedTable
from featurestore.batch.spine import Spine, files_of, read, texts_of
from featurestore.batch.training_set import TrainingSet, training_set
from featurestore.dsl.log import DuckDBTable, Log, Parquet
from featurestore.errors import LogError, ManifestError, SpineError, UnknownNameError
from featurestore.kernel.feature import Feature
from featurestore.log import duckdb_tables
from featurestore.log.archive import archive_of
from featurestore.log.files import LogFile, listed_before
from featurestore.log.spines import file_log
from featurestore.plan.compile import resolve
from featurestore.plan.nodes import SourcePlan, ViewPlan
from featurestore.store import Snapshot
from featurestore.store.forgotten import Forgotten, read_forgotten
from featurestore.store.records import Arrival

_RESTORE = "restore it as it was"


class Difference(NamedTuple):
    """A thing that is missing or has changed since a manifest was written."""

    name: str
    fact: str
    way_out: str


class RecordedLogs(Logs):
    """The logs as a manifest names them; its hashes have been checked."""

    def __init__(self, root: Path, snapshot: Snapshot | None, recorded: Recorded) -> None:
        super().__init__(root, snapshot)
        self._recorded = recorded

    def _listed(self, source: SourcePlan) -> tuple[LogFile, ...]:
        recorded = self._recorded.sources[source.name].log.files
        if source.log is None:
            return ()
        files = listed_before(source.log, self.root, [one.path for one in recorded])
        return tuple(map(_as_recorded, files, recorded))

    def arrivals(self, source: str) -> list[Arrival]:
        return _arrivals(self._snapshot, source, self._recorded)

    def identify(self, source: SourcePlan, columns: Sequence[str], arrivals: Sequence[Arrival]) -> None:
        pass

    def identity(self, source: str) -> dict[str, Any]:
        made: dict[str, Any] = self._recorded.whole["sources"][source]["log"]
        return made


def reproduce(
    recorded: Recorded,
    root: Path,
    snapshot: Snapshot | None,
    spine: object = None,
    *,
    threads: ThreadPoolExecutor | None = None,
) -> TrainingSet:
    """The training set that a manifest is about, made again; ManifestError lists what is missing or has
    changed.

    ``spine`` stands in for the recorded one, whose content it must have. Other versions of packages are a
    warning where the values are the same.
    """
    views = recorded.views()
    known_at = recorded.horizon()
    try:
        chosen = resolve(recorded.features, views)
    except UnknownNameError as error:
        raise recorded.damaged(error.fact) from None
    found = [
        *_definition_differences(recorded, views),
        *_log_differences(recorded, views, root),
        *_arrival_differences(recorded, snapshot),
        *_forgotten_differences(recorded, snapshot),
    ]
    read_spine, of_spine = _spine(recorded, chosen, views, root, spine)
    found += of_spine
    if found or read_spine is None:
        raise _refusal(recorded, found)
    reader = Reader(RecordedLogs(root, snapshot, recorded))
    made = training_set(read_spine, chosen, views, reader, known_at=known_at, threads=threads)
    # Its content is the recorded one's, from whatever file it came.
    whole = {**made.manifest, "spine": recorded.whole["spine"]}
    found = list(_result_differences(recorded, json.loads(json.dumps(whole))))
    if found:
        raise _refusal(recorded, found)
    return TrainingSet(made.table, whole, _warnings(recorded))


# Definitions and logs


def _definition_differences(recorded: Recorded, views: dict[str, ViewPlan]) -> Iterator[Difference]:
    for name, view in views.items():
        fingerprint = recorded.definitions[name].fingerprint
        if view.fingerprint != fingerprint:
            yield Difference(
                f'definition of view "{name}"',
                f"it means something else: recorded fingerprint {fingerprint}, found {view.fingerprint}",
                "restore the manifest, or read it with the release that wrote it: featurestore "
                + recorded.packages.get("featurestore", "unknown"),
            )


def _log_differences(recorded: Recorded, views: dict[str, ViewPlan], root: Path) -> Iterator[Difference]:
    sources = {one.source.name: one.source for view in views.values() for one in (view, *view.inner())}
    for name, source in sources.items():
        log = source.log or archive_of(source)
        if log is None:
            continue
        for one in recorded.sources[name].log.files:
            yield from _of_file(f'of source "{name}"', log, one, root)


def _of_file(
    owner: str, log: Log, recorded: RecordedFile | RecordedTable, root: Path
) -> Iterator[Difference]:
    name = f'file "{recorded.path}" {owner}'
    try:
        (file,) = listed_before(log, root, [recorded.path])
        if isinstance(recorded, RecordedTable) and isinstance(log, DuckDBTable):
            yield from _of_table(owner, log, recorded, file)
        elif isinstance(recorded, RecordedFile):
            yield from _of_bytes(name, log, recorded, file)
    except LogError as error:
        was = f"{recorded.rows:,} rows" if isinstance(recorded, RecordedTable) else f"{recorded.size:,} bytes"
        fact = f"{error.fact}; recorded {was}, sha256 {recorded.sha256}"
        if not (root / recorded.path).exists():
            fact = f"it is missing; recorded {was}, sha256 {recorded.sha256}"
        yield Difference(name, fact, "put it back where it was")


def _of_bytes(name: str, log: Log, recorded: RecordedFile, file: LogFile) -> Iterator[Difference]:
    found = f"{file.size:,} bytes, sha256"
    was = f"recorded {recorded.size:,} bytes, sha256 {recorded.sha256}"
    if file.size < recorded.size or (file.size > recorded.size and isinstance(log, Parquet)):
        yield Difference(name, f"it has changed: {was}; found {found} {file.sha256()}", _RESTORE)
        return
    sha256 = replace(file, size=recorded.size).sha256()
    if sha256 == recorded.sha256:
        return
    if file.size == recorded.size:
        yield Difference(name, f"it has changed: {was}; found {found} {sha256}", _RESTORE)
    else:
        yield Difference(
            name,
            f"its first {recorded.size:,} bytes have changed: recorded sha256 {recorded.sha256}, found "
            f"{sha256} in {file.size:,} bytes",
            "restore them: rows may only be appended",
        )


def _of_table(owner: str, log: DuckDBTable, recorded: RecordedTable, file: LogFile) -> Iterator[Difference]:
    name = f'table "{".".join(recorded.table)}" in "{recorded.path}" {owner}'
    held = duckdb_tables.schema(log, file).names
    for column in recorded.columns:
        if column not in held:
            yield Difference(name, f'it has no column "{column}" any more', _RESTORE)
    if not set(recorded.columns) <= set(held):
        return
    rows = duckdb_tables.count(log, file)
    if rows < recorded.rows:
        yield Difference(name, f"it has changed: recorded {recorded.rows:,} rows, found {rows:,}", _RESTORE)
        return
    found = table_identity(log, replace(file, rows=recorded.rows), recorded.columns)["sha256"]
    if found != recorded.sha256:
        yield Difference(
            name,
            f"its first {recorded.rows:,} rows have changed: recorded sha256 {recorded.sha256}, found "
            f"{found}",
            "restore them: rows may only be appended",
        )


def _as_recorded(file: LogFile, recorded: RecordedFile | RecordedTable) -> LogFile:
    if isinstance(recorded, RecordedTable):
        return replace(file, rows=recorded.rows)
    return replace(file, size=recorded.size)


# Arrivals


def _arrivals(snapshot: Snapshot | None, source: str, recorded: Recorded) -> list[Arrival]:
    last = recorded.sources[source].log.arrivals.last
    return [] if snapshot is None or not last else snapshot.arrivals(source, up_to=last)


def _arrival_differences(recorded: Recorded, snapshot: Snapshot | None) -> Iterator[Difference]:
    for source, of in recorded.sources.items():
        was = of.log.arrivals
        if not was.rows:
            continue
        name = f'pushed rows of source "{source}"'
        up_to = f"recorded {was.rows:,} rows up to number {was.last:,}"
        if snapshot is None:
            yield Difference(name, f"there is no store; {up_to}", "put the store back where it was")
            continue
        found = arrivals_identity(_arrivals(snapshot, source, recorded))
        if found["rows"] != was.rows:
            yield Difference(
                name,
                f"{up_to}, found {found['rows']:,}",
                "restore the store that they were pushed into",
            )
        elif found["sha256"] != was.sha256:
            yield Difference(
                name,
                f"they have changed: {up_to}, sha256 {was.sha256}; found sha256 {found['sha256']}",
                "restore the store that they were pushed into",
            )


def _forgotten_differences(recorded: Recorded, snapshot: Snapshot | None) -> Iterator[Difference]:
    """Whose facts are left out now and were not then, or the other way round."""
    now = Forgotten() if snapshot is None else read_forgotten(snapshot)
    told = {(one.columns, one.digest): one.commit_number for one in now.in_sources(recorded.sources)}
    was = {(tuple(one.columns), one.digest): one.store_commit for one in recorded.forgotten.list}
    for (columns, digest), commit in told.items():
        if (columns, digest) not in was:
            yield Difference(
                f"an entity by {', '.join(columns)}",
                f"it was forgotten at store commit {commit}, after this was recorded (digest {digest})",
                "nothing brings it back: make a new training set",
            )
    for (columns, digest), commit in was.items():
        if (columns, digest) not in told:
            yield Difference(
                f"an entity by {', '.join(columns)}",
                f"it was left out as forgotten (recorded at store commit {commit}, digest {digest}), and this"
                " store has not forgotten it",
                "use the store that the training set was made with",
            )


# The spine


def _spine(
    recorded: Recorded, chosen: Sequence[Feature], views: dict[str, ViewPlan], root: Path, given: object
) -> tuple[Spine | None, list[Difference]]:
    """The spine, from its files or as it is handed in; and what is wrong with it."""
    was = recorded.spine
    if given is None and not was.files:
        return None, [
            Difference(
                "the spine",
                f"it was a table in memory, of {recorded.rows:,} rows",
                "hand it in again: --spine FILE, or spine=",
            )
        ]
    path, files = given, None
    if given is None:
        path = was.files[0].path
        try:
            log = file_log(Path(path))
            found = [one for file in was.files for one in _of_file("of the spine", log, file, root)]
            if found:
                return None, found
            listed = listed_before(log, root, [one.path for one in was.files])
        except LogError as error:
            raise recorded.damaged(error.fact) from None
        files = tuple(map(_as_recorded, listed, was.files))
    try:
        texts = texts_of(views[feature.view].entity for feature in chosen)
        files = files_of(path, root) if files is None else files
        made = read(path, time=was.time, timezone=was.timezone, root=root, texts=texts, files=files)
    except SpineError as error:
        return None, [Difference("the spine", error.fact.removeprefix("spine: "), error.hint or _RESTORE)]
    sha256 = manifests.content(made.table.schema, of_columns(made.table))
    if sha256 != was.sha256:
        return None, [Difference("the spine", _not_the_spine(recorded, made, sha256), "hand in that spine")]
    return replace(made, files=()), []


def _not_the_spine(recorded: Recorded, found: Spine, sha256: str) -> str:
    """How a spine differs from the recorded one, as far as a manifest tells."""
    if found.rows != recorded.rows:
        return f"it is another one: recorded {recorded.rows:,} rows, found {found.rows:,}"
    features = {reference.replace(":", "__", 1) for reference in recorded.features}
    was = {name: kind for name, kind in recorded.content.columns.items() if name not in features}
    now = {field.name: str(field.type) for field in found.table.schema}
    for name in [*was, *now]:
        if was.get(name) != now.get(name):
            said = f'column "{name}": recorded {was.get(name, "none")}, found {now.get(name, "none")}'
            return f"it is another one, {said}"
    return f"it is another one: recorded content sha256 {recorded.spine.sha256}, found {sha256}"


# The result


def _result_differences(recorded: Recorded, made: dict[str, Any]) -> Iterator[Difference]:
    was = recorded.whole
    other = _other_packages(recorded)
    perhaps = f"packages differ, which may be why: {'; '.join(other)}" if other else ""
    if made["content"] != was["content"]:
        yield Difference(
            "the values",
            f"they came out otherwise: recorded content sha256 {was['content']['sha256']}, made "
            f"{made['content']['sha256']}",
            perhaps or "nothing that the manifest names has changed: was it edited? else report this",
        )
    for key in sorted(was.keys() - {"content", "packages"}):
        if made.get(key) != was[key]:
            yield Difference(
                f'"{key}" of the manifest',
                "it came out otherwise",
                perhaps or "nothing that the manifest names has changed: was it edited? else report this",
            )


def _other_packages(recorded: Recorded) -> list[str]:
    now = manifests.packages()
    return [
        f"{name} {now.get(name, 'absent')}, recorded {recorded.packages.get(name, 'absent')}"
        for name in sorted({*now, *recorded.packages})
        if now.get(name) != recorded.packages.get(name)
    ]


def _warnings(recorded: Recorded) -> tuple[str, ...]:
    other = _other_packages(recorded)
    if not other:
        return ()
    return (
        f"packages differ from the recorded ones ({'; '.join(other)}): the values are the same, the written "
        "file's bytes may not be",
    )


def _refusal(recorded: Recorded, found: Sequence[Difference]) -> ManifestError:
    things = "1 thing is" if len(found) == 1 else f"{len(found)} things are"
    lines = [f"  {one.name}: {one.fact}\n    way out: {one.way_out}" for one in found]
    return ManifestError(
        "\n".join([f"{recorded.shown}: {things} missing or changed", *lines]),
        hint="nothing was written; the training set is made again when all of it is as it was",
        differences=found,
    )
