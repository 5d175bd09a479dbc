"""A small project to be broken: card events in Parquet, one view over them, and the ways to ask it.

Time: the events lie in the first hours of 2026-01-01; every question is asked at noon.
"""

from __future__ import annotations

import contextlib
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import FeatureStore
from featurestore.cli.application import run

UTC_US = pa.timestamp("us", "UTC")
NOON = "2026-01-01T12:00:00Z"

SOURCE_PY = """
card = Entity("card", key="card")
tx = EventSource("tx", log=Parquet("data/*.parquet"), event_time="ts", id="id")
"""
VIEW_PY = """
v = FeatureView("v", entity=card, source=tx, features=[
    agg.count(windows=["1d"]), agg.sum("amount"), agg.last("n"),
])
"""
HEAD_PY = """
from datetime import date, datetime, timedelta
from decimal import Decimal
from featurestore import *
"""


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def times(*texts: str | None) -> pa.Array:
    return pa.array([None if text is None else at(text) for text in texts], UTC_US)


def events(**changed: Any) -> pa.Table:
    """Two events of c1, one of c2; ``changed`` columns replace or are added, None takes one away."""
    columns: dict[str, Any] = {
        "id": ["a", "b", "c"],
        "card": ["c1", "c1", "c2"],
        "ts": times("2026-01-01T00:00", "2026-01-01T01:00", "2026-01-01T02:00"),
        "amount": [1.0, 2.0, 3.0],
        "n": [1, 2, 3],
        **changed,
    }
    return pa.table({name: values for name, values in columns.items() if values is not None})


def spine(cards: Any = ("c1", "c2"), **columns: Any) -> pa.Table:
    cards = cards if isinstance(cards, pa.Array | pa.ChunkedArray) else pa.array(cards)
    return pa.table({"card": cards, "ts": times(*["2026-01-01T12:00"] * len(cards)), **columns})


def project(root: Path, declarations: str = SOURCE_PY + VIEW_PY, log: pa.Table | None = None) -> Path:
    """A project's directory; ``log`` is its one file (None: the usual events)."""
    root.mkdir(parents=True, exist_ok=True)
    write(root / "data/events.parquet", events() if log is None else log)
    declare(root, declarations)
    return root


def declare(root: Path, declarations: str) -> None:
    (root / "features.py").write_text(HEAD_PY + declarations, encoding="utf-8")


def write(path: Path, content: pa.Table | str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8")


def command(root: Path, *arguments: str) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of one command in ``root``; what is no message of ours is raised."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["-C", str(root), *arguments])
    return code, out.getvalue(), err.getvalue()


def succeeds(root: Path, *arguments: str) -> str:
    code, out, err = command(root, *arguments)
    assert code == 0, err
    return out


def refused(root: Path, *arguments: str, code: int = 1) -> str:
    """The first line of the refusal of a command, which has a hint below it and nothing on stdout."""
    given, out, err = command(root, *arguments)
    lines = err.splitlines()
    assert given == code, (given, out, err)
    assert out == ""
    assert lines[0].startswith("error: "), err
    assert any(line.startswith("hint: ") for line in lines), err
    assert "Traceback" not in err
    return lines[0].removeprefix("error: ")


def asked_both_ways(
    root: Path, features: str = "v", cards: tuple[str, ...] = ("c1", "c2", "unknown")
) -> dict[str, list[Any]]:
    """The features of ``cards`` at noon, from the log and from the store, which must say the same."""
    with FeatureStore(root) as store:
        table = store.training_set(spine(cards), features).to_arrow()
        offline = table.drop_columns(["card", "ts"]).to_pydict()
        asked = [features] if ":" in features else features
        online = store.online_features(asked, {"card": list(cards)}, as_of=NOON).to_arrow().to_pydict()
    assert offline == {name: online[name] for name in offline}
    return offline
