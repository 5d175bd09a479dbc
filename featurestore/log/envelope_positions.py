"""When a change was committed and where in its database's log it stands, as Debezium's connectors say it.

Time: the commit's, in the finest unit that the connector gives. Positions alone say what came after what.

A position is four integers, compared in order, 0 where a connector has fewer:

- postgresql: the LSN of the last commit before (``sequence``), else the change's own; the change's LSN. The
  commit stands first because the changes of a long transaction have LSNs from before the commits of others.
- mysql, mariadb: the number of the binlog file, the position in it, the row of the event.
- sqlserver: the LSN of the commit and of the change, each 64 bits and a slot, the last with a serial number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.dtypes import INT64
from featurestore.errors import DefinitionError
from featurestore.log.arrays import converted
from featurestore.log.cells import NUMBER, TEXT, cells_of_json
from featurestore.log.envelopes import Row
from featurestore.log.positions import positions
from featurestore.log.zones import zone

Sources: TypeAlias = Sequence[Row | None]

_WIDTH = 4
_PARTS_OF_US = {"ts_ns": (1, 1_000), "ts_us": (1, 1), "ts_ms": (1_000, 1)}
# The first of the two in "[\"24023128\",\"24023256\"]".
_SEQUENCE = re.compile(rb'"\[\s*\\"([0-9]+)\\"')


def committed_at(sources: Sources) -> pa.Array:
    """When each change was committed; null where its source doesn't say, or says that it was before 1970:
    connectors are younger."""
    found = pa.nulls(len(sources), pa.int64())
    for name, (times, divided) in _PARTS_OF_US.items():
        numbers = integers(sources, name)
        held = np.asarray(numbers.fill_null(0))
        fits = (held >= 0) & (held <= (2**63 - 1) // times)
        us = pc.if_else(
            pc.and_(numbers.is_valid(), pa.array(fits)),
            pa.array(np.floor_divide(np.where(fits, held, 0) * times, divided)),
            pa.scalar(None, pa.int64()),
        )
        found = pc.coalesce(found, us)
    return found.view(pa.timestamp("us", "UTC"))


def claimed_commits(sources: Sources) -> list[str | None]:
    """What each source has in place of a commit time, as text; None where it has nothing."""
    texts: list[str | None] = [None] * len(sources)
    for name in _PARTS_OF_US:
        for i, source in enumerate(sources):
            raw = None if source is None else source.get(name)
            if texts[i] is None and raw is not None and bytes(raw) != b"null":
                texts[i] = f"{name} = {bytes(raw).decode('utf-8', 'replace')[:80]}"
    return texts


def own_positions(sources: Sources, label: str) -> list[pa.Array]:
    """The four integers of each change's position; null where its source doesn't say."""
    connectors = _texts(sources, "connector")
    out = [pa.nulls(len(sources), pa.int64())] * _WIDTH
    for connector in sorted({name for name in connectors if name is not None}):
        read = _CONNECTORS.get(connector)
        if read is None:
            raise DefinitionError(
                f'{label}: where connector "{connector}" writes positions is not known',
                hint=f"known are {', '.join(sorted(_CONNECTORS))}; else declare it, as in "
                'position="source.pos"',
            )
        if connectors.count(connector) == len(sources):
            return _padded(read(sources))
        of_it = pa.array([name == connector for name in connectors])
        out = [pc.if_else(of_it, one, other) for one, other in zip(_padded(read(sources)), out, strict=True)]
    return out


def source_cells(sources: Sources, name: str) -> pa.Array:
    """One part of each source, as cells."""
    return cells_of_json([None if source is None else source.get(name) for source in sources])


def integers(sources: Sources, name: str) -> pa.Array:
    """One part of each source as int64; null where it is no integer."""
    return positions(source_cells(sources, name))[0]


def _counted(numbers: pa.Array) -> pa.Array:
    """Without what is less than 0: no log has such places."""
    return pc.if_else(pc.greater_equal(numbers, 0), numbers, pa.scalar(None, pa.int64()))


def _texts(sources: Sources, name: str) -> list[str | None]:
    values = source_cells(sources, name).storage
    kinds = np.asarray(pc.fill_null(values.field(0), 0))
    valid = np.asarray(values.is_valid()) & ((kinds == TEXT) | (kinds == NUMBER))
    return [text if good else None for text, good in zip(values.field(1).to_pylist(), valid, strict=True)]


def _postgresql(sources: Sources) -> list[pa.Array]:
    lsn = _counted(integers(sources, "lsn"))
    commits: list[bytes | None] = []
    for source in sources:
        last = _SEQUENCE.match(bytes(source["sequence"])) if source and "sequence" in source else None
        commits.append(last and last[1])
    commit = converted(pa.array(commits, pa.string()), INT64, zone("UTC"), None)[0]
    return [pc.coalesce(commit, lsn), lsn]


def _binlog(sources: Sources) -> list[pa.Array]:
    names = pa.array(_texts(sources, "file"), pa.string())
    number = pc.struct_field(pc.extract_regex(names, r"\.(?P<number>[0-9]+)$"), "number")
    file = converted(number, INT64, zone("UTC"), None)[0]
    return [file, _counted(integers(sources, "pos")), integers(sources, "row").fill_null(0)]


def _sqlserver(sources: Sources) -> list[pa.Array]:
    commits, changes = _texts(sources, "commit_lsn"), _texts(sources, "change_lsn")
    serials = integers(sources, "event_serial_no").fill_null(0).to_pylist()
    out: list[list[int | None]] = []
    for commit, change, serial in zip(commits, changes, serials, strict=True):
        first, second = _lsn(commit), (0, 0) if change is None else _lsn(change)
        if first is None or second is None or not 0 <= serial < 2**32:
            out.append([None] * _WIDTH)
        else:
            out.append([*first, second[0], (second[1] << 32) + serial])
    columns = zip(*out, strict=True) if out else [[]] * _WIDTH
    return [pa.array(list(column), pa.int64()) for column in columns]


def _lsn(text: str | None) -> tuple[int, int] | None:
    """``00000027:00000ac0:0002`` as 64 bits and 16."""
    parts = (text or "").split(":")
    if [len(part) for part in parts] != [8, 8, 4]:
        return None
    try:
        high, low, slot = (int(part, 16) for part in parts)
    except ValueError:
        return None
    return ((high << 32) + low, slot) if high < 2**31 else None


def _padded(columns: list[pa.Array]) -> list[pa.Array]:
    zeros = pa.array(np.zeros(len(columns[0]), np.int64))
    return columns + [zeros] * (_WIDTH - len(columns))


_CONNECTORS: Mapping[str, Callable[[Sources], list[pa.Array]]] = {
    "postgresql": _postgresql,
    "mysql": _binlog,
    "mariadb": _binlog,
    "sqlserver": _sqlserver,
}
