"""Training sets: every spine row with its features as of its own time.

For a row at T a feature sees what happened strictly before T, as known at ``known_at``. Every row is kept, in
order, with its columns untouched; a null or unknown key gives empty-set values, a null time gives nulls.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from featurestore.batch import manifest as manifests
from featurestore.batch.digest import of_columns, together
from featurestore.batch.facts import Facts, Reader
from featurestore.batch.lookups import Lookups, looking_up
from featurestore.batch.spine import Spine
from featurestore.dtypes import instant_text
from featurestore.errors import SpineError
from featurestore.kernel.evaluate import Answers
from featurestore.kernel.feature import Feature
from featurestore.kernel.questions import questions
from featurestore.kernel.roles import ChangeRoles, KnownAt, Roles
from featurestore.kernel.timelines import ask
from featurestore.kernel.versions import NEVER, Counts, instants, row_hashes, single
from featurestore.plan.nodes import ViewPlan, feature_fingerprint
from featurestore.plan.spec import encode
from featurestore.store.conflicts import Conflict, conflicts_among, refused

if TYPE_CHECKING:
    import pandas
    import polars


NOTHING = "no training set is made"
_A_FILE = "name a file in a directory that exists, can be written and has room"


@dataclass(frozen=True)
class TrainingSet:
    """A training set and its manifest. ``table``: the spine's columns, then one ``view__feature`` column a
    feature. ``warnings``: what whoever made it again should know."""

    table: pa.Table
    manifest: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def to_arrow(self) -> pa.Table:
        return self.table

    def to_pandas(self) -> pandas.DataFrame:
        return self.table.to_pandas()

    def to_polars(self) -> polars.DataFrame:
        import polars

        made = polars.from_arrow(self.table)
        assert isinstance(made, polars.DataFrame)
        return made

    def to_batches(self, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """Record batches of at most ``rows`` rows, in order."""
        yield from self.table.to_batches(max_chunksize=rows)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def _repr_html_(self) -> str:
        shown = self.table.slice(0, 10).to_pandas().to_html(index=False)
        return f"{shown}<p>{len(self)} rows, {self.table.num_columns} columns</p>"

    def write_parquet(self, path: str | Path) -> Path:
        """Write the table, and its manifest beside it; returns the manifest's path. Equal inputs give equal
        bytes."""
        path = Path(path)
        if not path.name or (os.path.exists(path) and not os.path.isfile(path)):
            raise SpineError(f'training set can\'t be written to "{path}": it is no file', hint=_A_FILE)
        # A half-written file never stands under the name asked for.
        part = path.with_name(f".{path.name}.part")
        beside = manifests.path_beside(path)
        try:
            pq.write_table(_whole(self.table), part, compression="zstd", row_group_size=1_000_000)
            part.replace(path)
            beside.write_text(manifests.text(dict(self.manifest)), encoding="utf-8")
        except OSError as error:
            _remove(part)
            why = os.strerror(error.errno) if error.errno else str(error)
            raise SpineError(
                f'training set can\'t be written to "{path}": {why[:1].lower()}{why[1:]}', hint=_A_FILE
            ) from None
        except pa.ArrowException as error:
            _remove(part)
            raise SpineError(
                f"training set can't be written as Parquet: {error}",
                hint="cast or drop the spine's column of that type, or take the table by to_arrow()",
            ) from None
        return beside

    def text(self) -> str:
        """A few lines for a person: rows, and everything that was left out or flagged."""
        made = self.manifest
        known_at = made["known_at"] or "everything"
        lines = [f"{made['rows']:,} rows, {len(made['features'])} features, known at {known_at}"]
        for name, count in made["counts"].items():
            if count:
                lines.append(f"  {name.replace('_', ' ')}: {count:,}")
        for name, source in made["sources"].items():
            for entity, counts in source["entities"].items():
                told = ", ".join(
                    f"{count:,} {what.replace('_', ' ')}"
                    for what, count in counts.items()
                    if isinstance(count, int) and count
                )
                lines.append(f"  {name} by {entity}: {told or 'nothing'}")
                told_conflicts = [Conflict.of(one) for one in counts.get("conflicts", ())]
                lines.extend(f"    in conflict: {conflict.text()}" for conflict in told_conflicts)
                if counts["corrected"] and not told_conflicts:
                    lines.append(f"    corrected, for example: {'; '.join(counts['corrected'])}")
                lines.extend(
                    f"    rejected {count:,}: {reason}" for reason, count in counts["reasons"].items()
                )
        for name, count in made["flagged"].items():
            lines.append(f"  {name}: {count:,} values beyond their type, given as null")
        lines.extend(f"warning: {warning}" for warning in self.warnings)
        return "\n".join(lines)


def _whole(table: pa.Table) -> pa.Table:
    """The table with each column in one piece: where a spine's pieces end is no part of what is written."""
    for at, name in enumerate(table.schema):
        if table.column(at).num_chunks > 1:
            table = table.set_column(at, name, pa.chunked_array([table.column(at).combine_chunks()]))
    return table


def _remove(part: Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)


@dataclass
class _Tally:
    """What a manifest counts, gathered view by view."""

    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    flagged: dict[str, int] = field(default_factory=dict)
    flagged_expressions: int = 0
    rows_without_key: dict[str, int] = field(default_factory=dict)


def training_set(
    spine: Spine,
    features: Sequence[Feature],
    views: Mapping[str, ViewPlan],
    reader: Reader,
    *,
    known_at: KnownAt,
    threads: ThreadPoolExecutor | None = None,
    strict: bool = False,
) -> TrainingSet:
    """Each feature for each row of ``spine``; ``reader`` brings the facts of a source and an entity.

    With ``strict`` a rejected row of a log, or different changes of a table's row at one position, is a
    RowError that names them.
    """
    for feature in features:
        if feature.column in spine.table.column_names:
            raise SpineError(
                f'spine: column "{feature.column}" has the name of a feature\'s result',
                hint="rename or drop it: the feature is computed anew",
            )
    tally = _Tally()
    reader.ask([views[feature.view] for feature in features])
    columns: dict[str, pa.Array] = {}
    inner = Lookups(reader, partial(_count_met, tally, known_at, strict=strict))
    for group in feature_groups(features, views):
        _evaluate_group(spine, group, views, reader, inner, known_at, threads, tally, columns, strict=strict)
    table = spine.table
    for feature in features:
        table = table.append_column(pa.field(feature.column, feature.dtype.arrow), columns[feature.reference])
    return TrainingSet(table, _manifest(spine, features, views, reader, table, known_at, tally, threads))


def feature_groups(features: Sequence[Feature], views: Mapping[str, ViewPlan]) -> list[list[Feature]]:
    """Features by the timelines they read: one scan and one sort serve all of a group."""
    groups: dict[tuple[str, str], list[Feature]] = {}
    for feature in features:
        view = views[feature.view]
        groups.setdefault((view.source.name, view.entity.name), []).append(feature)
    return list(groups.values())


def _evaluate_group(
    spine: Spine,
    features: Sequence[Feature],
    views: Mapping[str, ViewPlan],
    reader: Reader,
    inner: Lookups,
    known_at: KnownAt,
    threads: ThreadPoolExecutor | None,
    tally: _Tally,
    columns: dict[str, pa.Array],
    *,
    strict: bool,
) -> None:
    view = views[features[0].view]
    keys = spine.keys(view.entity.keys, view.entity.dtypes, view.entity.name)
    read = frozenset().union(*(views[feature.view].columns_for([feature]) for feature in features))
    facts = reader.facts(view, features, read)
    _refuse_rejected(view, facts, strict=strict)
    found, entities = known_by(facts, keys)
    asked = questions(found, spine.as_of, entities, timed=spine.timed, threads=threads)
    for lookups, some in looking_up(features, views):
        answers, counts = ask(
            some, facts.table, facts.codes, entities, facts.roles, known_at, asked,
            lookups=inner.held(lookups, facts.table), threads=threads,
        )  # fmt: skip
        _count_met(tally, known_at, view, facts, counts, strict=strict)
        _count_flagged(tally, answers)
        for one in answers.answers:
            columns[one.feature.reference] = one.values
    nulls = np.zeros(spine.rows, np.bool_)
    for key in keys:
        if key.null_count:
            nulls |= ~key.is_valid().to_numpy(zero_copy_only=False)
    tally.rows_without_key[view.entity.name] = int(nulls.sum())


def _refuse_rejected(view: ViewPlan, facts: Facts, *, strict: bool) -> None:
    if strict and facts.rejected:
        raise refused(
            view.source.name,
            rejected=[row.text() for row in facts.shown],
            count=facts.rejected,
            written=NOTHING,
        )


def known_by(facts: Facts, keys: Sequence[pa.Array]) -> tuple[NDArray[np.int64], int]:
    """The number of each row's entity, and how many numbers there are: one more than entities, which has no
    facts, for keys that nobody knows."""
    found = facts.index.find(keys)
    return np.where(found < 0, facts.index.entities, found), facts.index.entities + 1


def conflicts_known(facts: Facts, counts: Counts, known_at: KnownAt) -> list[Conflict]:
    """The conflicts among the changes of a table that ``known_at`` knows."""
    roles = facts.roles
    if isinstance(roles, Roles) or not len(counts.corrected):
        return []
    known: NDArray[np.bool_] | None = None
    if known_at is not None:
        available = instants(single(facts.table, roles.available_at or roles.changed_at), null=NEVER)
        known = available < (known_at if isinstance(known_at, int) else NEVER)
    return conflicts_among(
        facts.table,
        counts.corrected.tolist(),
        primary_key=roles.primary_key,
        position=roles.position,
        hashes=lambda rows: row_hashes(facts.table, rows, roles),
        known=known,
        where=facts.origins.of,
    )


def _count_met(
    tally: _Tally, known_at: KnownAt, view: ViewPlan, facts: Facts, counts: Counts, *, strict: bool
) -> None:
    """Count what a view's facts met, its own or those that are looked up."""
    _refuse_rejected(view, facts, strict=strict)
    conflicts = conflicts_known(facts, counts, known_at)
    if strict and conflicts:
        raise refused(view.source.name, conflicts=conflicts, count=counts.corrections, written=NOTHING)
    source = tally.sources.setdefault(view.source.name, {"entities": {}})
    source["entities"][view.entity.name] = {
        "versions": counts.versions,
        "duplicates": counts.duplicates,
        "corrections": counts.corrections,
        "corrected": named(facts.table, view.source.identity, counts.corrected),
        "retracted": counts.retracted,
        "without_available_at": counts.without_available_at,
        "keyless": facts.keyless,
        "forgotten": facts.forgotten,
        "rejected": facts.rejected,
        "reasons": dict(facts.reasons),
    }
    if isinstance(facts.roles, ChangeRoles):
        source["entities"][view.entity.name] |= {
            "conflicts": [conflict.to_dict() for conflict in conflicts],
            "updates_of_unseen_rows": counts.unseen,
        }


def _count_flagged(tally: _Tally, answers: Answers) -> None:
    tally.flagged_expressions += answers.flagged_expressions
    for one in answers.answers:
        if one.flagged is not None and one.flagged.any():
            tally.flagged[one.feature.reference] = int(one.flagged.sum())


def named(table: pa.Table, ids: Sequence[str], rows: NDArray[np.int64]) -> list[str]:
    """The ids of some rows as text, for a report to name them."""
    if not len(rows):
        return []
    picked = table.select(list(ids)).take(pa.array(rows)).to_pydict()
    return [", ".join(str(value) for value in values) for values in zip(*picked.values(), strict=True)]


def _manifest(
    spine: Spine,
    features: Sequence[Feature],
    views: Mapping[str, ViewPlan],
    reader: Reader,
    table: pa.Table,
    known_at: KnownAt,
    tally: _Tally,
    threads: ThreadPoolExecutor | None,
) -> dict[str, Any]:
    used = {feature.view: views[feature.view] for feature in features}
    columns = of_columns(table, threads)
    return {
        "format": manifests.FORMAT,
        "features": [feature.reference for feature in features],
        "definitions": {
            name: {
                "fingerprint": view.fingerprint,
                "features": {
                    feature.reference: feature_fingerprint(feature)
                    for feature in features
                    if feature.view == name
                },
                "plan": json.loads(encode(view)),
            }
            for name, view in used.items()
        },
        "known_at": instant_text(known_at) if isinstance(known_at, int) else known_at,
        "spine": manifests.spine_identity(spine, columns[: spine.table.num_columns]),
        "rows": spine.rows,
        "counts": {
            "rows_without_time": int((~spine.timed).sum()),
            "rows_without_key": max(tally.rows_without_key.values(), default=0),
            "flagged_expressions": tally.flagged_expressions,
        },
        "flagged": tally.flagged,
        "forgotten": reader.forgotten.told(tally.sources),
        "sources": {
            name: {"log": reader.logs.identity(name), **source} for name, source in tally.sources.items()
        },
        "content": {
            "sha256": together(columns),
            "columns": {field.name: str(field.type) for field in table.schema},
        },
        "packages": manifests.packages(),
    }
