"""``/ingest/{source}``: rows pushed into a source's log, durable and served when this answers.

A row without the source's declared ``available_at`` is known from the instant at which it arrived here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec
import orjson
from starlette.types import Receive, Scope

from api.body import JSON_TYPES, ROW_TYPES, content_type, read_body
from api.decode import decoded, reason
from api.dependencies import PlainRoute, Service
from api.errors import SHOWN_ROWS, problem_of, rejected_rows, unfit
from api.schemas import rows_decoder
from featurestore import clock
from featurestore.errors import RowError

if TYPE_CHECKING:
    from featurestore.log.origins import Place
    from featurestore.store.conflicts import Conflict

_YES_OR_NO = {"true": True, "1": True, "false": False, "0": False, "": False}


@dataclass(frozen=True)
class Pushed:
    """The rows of a body, each with its line (the first is 1), and what was no row. A null is for the source
    to judge: among envelopes it is a tombstone."""

    rows: list[Mapping[str, object] | None]
    lines: list[int]
    refused: list[tuple[int, str]]


async def push_rows(service: Service, scope: Scope, receive: Receive) -> bytes:
    service.authorize_pushing(scope)
    kind = content_type(scope, ROW_TYPES)
    atomic, strict = _flag(scope, "atomic"), _flag(scope, "strict")
    settings = service.settings
    body = await read_body(scope, receive, limit=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
    service.check_warm()
    work = partial(
        push, service, scope["path_params"]["source"], kind, body, atomic=atomic, strict=strict,
        now_us=clock.now(),
    )  # fmt: skip
    return await asyncio.get_running_loop().run_in_executor(service.writers, work)


def push(
    service: Service, source: str, kind: str, body: bytes, *, atomic: bool, strict: bool, now_us: int
) -> bytes:
    """The answer's body; a Problem (422) when no row is good, or one is bad in an atomic or strict push."""
    from featurestore.store.ingest import ingest

    pushed = rows_of(kind, body)
    if (atomic or strict) and pushed.refused:
        raise RowError(
            f'source "{source}": nothing is written, {len(pushed.refused):,} rows are refused',
            hint="mend them, or push without atomic and strict to leave them out",
            rows=pushed.refused,
        )
    try:
        report = ingest(
            service.store, service.project.root, source, pushed.rows, atomic=atomic, now_us=now_us,
            strict=strict,
        )  # fmt: skip
    except RowError as error:
        raise RowError(error.fact, hint=error.hint, rows=_by_line(error.rows, pushed)) from None
    rejected = sorted([*pushed.refused, *_by_line(report.rejected, pushed)])
    counts = {
        "accepted": report.accepted,
        "corrected": report.corrected,
        "duplicate": report.duplicate,
        "late": report.late,
        "keyless": report.keyless,
        "forgotten": report.forgotten,
        "ignored": report.ignored,
    }
    service.metrics.rows(source, counts | {"rejected": len(rejected)})
    if rejected and not any(counts.values()):
        raise problem_of(
            RowError(
                f'source "{source}": none of the {len(rejected):,} rows can be taken',
                hint="mend them and push again",
                rows=rejected,
            )
        )
    answer = counts | {
        "conflicts": [_conflict(one, pushed) for one in report.conflicts],
        "updates_of_unseen_rows": report.updates_of_unseen_rows,
        "rejected": rejected_rows(rejected[:SHOWN_ROWS]),
        "rejected_count": len(rejected),
        "store_commit": report.store_commit,
    }
    return orjson.dumps(answer)


def rows_of(kind: str, body: bytes) -> Pushed:
    """The rows of a body: one JSON object, a list of them, or one a line."""
    pushed = Pushed([], [], [])
    if kind in JSON_TYPES:
        document = decoded(rows_decoder, body)
        if not isinstance(document, dict | list | None):
            raise unfit("the body is neither a JSON object nor a list of them")
        for line, row in enumerate(document if isinstance(document, list) else [document], 1):
            _take(pushed, line, row)
        return pushed
    for line, text in enumerate(body.split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            _take(pushed, line, rows_decoder.decode(text))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            pushed.refused.append((line, reason(error)))
    return pushed


def _take(pushed: Pushed, line: int, row: Any) -> None:
    if isinstance(row, dict | None):
        pushed.rows.append(row)
        pushed.lines.append(line)
    else:
        pushed.refused.append((line, "it is not a JSON object"))


def _by_line(rejected: Any, pushed: Pushed) -> list[tuple[int, str]]:
    return [(pushed.lines[number - 1], why) for number, why in rejected]


def _conflict(conflict: Conflict, pushed: Pushed) -> dict[str, Any]:
    """A conflict by the lines of the body; what stands in the store has none."""

    def line(place: Place) -> int | None:
        return None if place.row is None else pushed.lines[place.row - 1]

    return {
        "row": conflict.row,
        "position": conflict.position,
        "counts": line(conflict.counts),
        "others": [line(place) for place in conflict.others],
    }


def _flag(scope: Scope, name: str) -> bool:
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    given = query.get(name, ["false"])[-1].lower()
    if given not in _YES_OR_NO:
        raise unfit(f'{name}="{given[:100]}" is neither true nor false')
    return _YES_OR_NO[given]


routes = (PlainRoute("/ingest/{source}", push_rows),)
