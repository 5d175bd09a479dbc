"""Bad input is answered with the fact and the way out, never with a traceback and never silently."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.integration import bad_input_project as made

# Training sets and backfills leave out the same rows


def test_a_row_is_rejected_for_a_column_that_no_feature_reads(tmp_path: Path) -> None:
    declared = """
card = Entity("card", key="card")
tx = EventSource("tx", log=CSV("log.csv"), event_time="ts",
                 columns={"card": "string", "ts": "timestamp", "amount": "float64"})
v = FeatureView("v", entity=card, source=tx, features=[agg.count()])
"""
    root = made.project(tmp_path, declared)
    made.write(root / "log.csv", "card,ts,amount\nc1,2026-01-01T00:00Z,1\nc1,2026-01-01T00:00Z,abc\n")
    made.succeeds(root, "apply")
    made.succeeds(root, "backfill")
    assert made.asked_both_ways(root) == {"v__count": [1, 0, 0]}


@pytest.mark.parametrize("id_part", ['id="id",', ""])
@pytest.mark.parametrize("columns", [(["n"], ["n", "amount"]), (["n", "amount"], ["n"])])
def test_declaring_more_or_fewer_columns_keeps_offline_and_online_equal(
    tmp_path: Path, id_part: str, columns: tuple[list[str], list[str]]
) -> None:
    # All versions of an id, and all events of a card, tie: their content alone decides.
    log = made.events(
        id=[f"i{i // 5}" for i in range(50)],
        card=[f"c{i // 25 + 1}" for i in range(50)],
        ts=made.times(*["2026-01-01T00:00"] * 50),
        n=[i * 7919 % 101 for i in range(50)],
        amount=[float(i * 104729 % 997) for i in range(50)],
    )
    root = made.project(tmp_path, "", log)
    for declared in columns:
        made.declare(
            root,
            f"""
card = Entity("card", key="card")
tx = EventSource("tx", log=Parquet("data/*.parquet"), event_time="ts", {id_part} columns={declared})
v = FeatureView("v", entity=card, source=tx, features=[agg.sum("n"), agg.last("n"), agg.first("n")])
""",
        )
        made.succeeds(root, "apply")
        made.succeeds(root, "backfill")
        made.asked_both_ways(root)


# Declarations


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("def (:\n", "features.py, line 1: invalid syntax"),
        ("x = 1\n1 / 0\n", "features.py, line 2: ZeroDivisionError: division by zero"),
        ("def f():\n    raise ValueError('x')\nf()\n", "features.py, line 2: ValueError: x"),
        ("import not_there\n", "features.py, line 1: ModuleNotFoundError: No module named 'not_there'"),
        ("import sys\nsys.exit(3)\n", "features.py, line 2: the file ends the program, exit(3)"),
        ("from featurestore import agg\n\nagg.count(windows='5 minutes')\n",
         'features.py, line 3: window "5 minutes" is not a span of time'),
        ("from featurestore import agg\nagg.summ('x')\n",
         'features.py, line 2: AttributeError: no operation "summ"; operations are '),
        ("from featurestore import Entity\nEntity('e')\n",
         "features.py, line 2: TypeError: Entity.__init__() missing 1 required positional argument: 'key'"),
        (b"x = '\xff'\n", "features.py, line 1: (unicode error) 'utf-8' codec can't decode byte 0xff"),
        (b"x = '\x00'\n", "features.py"),
    ],
)  # fmt: skip
def test_a_file_of_declarations_that_fails_is_named_with_its_line(
    tmp_path: Path, text: str | bytes, fact: str
) -> None:
    made.write(tmp_path / "features.py", text)
    for name in ("plan", "apply", "explain"):
        line = made.refused(tmp_path, name)
        assert line.startswith(fact)
        assert "None" not in line


def test_a_file_of_declarations_may_define_dataclasses(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    made.write(tmp_path / "features.py", text + "@dataclass\nclass A:\n    x: int\n")
    made.succeeds(tmp_path, "plan")


def test_an_edit_that_keeps_the_length_is_seen_within_the_same_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    root = made.project(tmp_path)
    for window in ("1d", "2d"):
        made.declare(root, made.SOURCE_PY + made.VIEW_PY.replace('"1d"', f'"{window}"'))
        os.utime(root / "features.py", (1_767_225_600, 1_767_225_600))
        assert f"count_{window} " in made.succeeds(root, "explain")


def test_a_project_without_declarations_names_the_way_out(tmp_path: Path) -> None:
    assert made.refused(tmp_path, "plan") == f"there is no features.py in {tmp_path}"
    assert made.refused(tmp_path / "absent", "plan", code=2) == f'-C: no directory "{tmp_path / "absent"}"'


@pytest.mark.parametrize(
    ("declared", "fact"),
    [
        ('v = FeatureView("v", card, tx, [agg.sum("amuont")])',
         'feature view "v": no column "amuont" in source "tx"'),
        ('v = FeatureView("v", card, tx, [agg.sum("card")])',
         'feature view "v": agg.sum can\'t take "card": it is string'),
        ('v = FeatureView("v", card, tx, [agg.percentile("card", q=0.5)])',
         'feature view "v": agg.percentile can\'t take "card": it is string'),
        ('v = FeatureView("v", card, tx, [agg.count(where="amount")])',
         'feature view "v": where="amount" is float64, not a predicate'),
        ('v = FeatureView("v", card, tx, [agg.count(where="card = 1")])',
         'feature view "v": ("card" = 1): = takes operands of one kind, not string and int64'),
        ('v = FeatureView("v", card, tx, [agg.max_by("n", order="nope")])',
         'feature view "v": no column "nope" in source "tx"'),
        ('v = FeatureView("v", card, tx, [agg.sum("n", default=1.5)])',
         'feature view "v": agg.sum: default=1.5 is no int64'),
        ('v = FeatureView("v", card, tx, [agg.sum("n", default=True)])',
         'feature view "v": agg.sum: default=True is no int64'),
        ('v = FeatureView("v", card, tx, [agg.sum("n", default=2**63)])',
         'feature view "v": agg.sum: default=9223372036854775808 is no int64'),
        ('v = FeatureView("v", card, tx, [agg.last("card", default=5)])',
         'feature view "v": agg.last: default=5 is no string'),
        ('v = FeatureView("v", card, tx, [agg.last("card", default="\\ud800")])',
         "feature view \"v\": agg.last: default='\\ud800' is no string"),
        ('v = FeatureView("v", card, tx, [agg.last("ts", default=datetime(2026, 1, 1))])',
         'feature view "v": agg.last: default=datetime.datetime(2026, 1, 1, 0, 0) is no timestamp'),
        ('v = FeatureView("v", card, tx, [agg.histogram("card", default={"a": 1, 2: 2})])',
         'feature view "v": agg.histogram: default=2 is no string'),
        ('v = FeatureView("v", card, tx, [agg.histogram("card", default={None: 1})])',
         'feature view "v": agg.histogram: default={None: 1} is no map<string, int64>'),
        ('v = FeatureView("v", Entity("e", key="nope"), tx, [agg.count()])',
         'source "tx": no column "nope" in its log (entity key)'),
        ('v = FeatureView("v", Entity("e", key="amount"), tx, [agg.count()])',
         'feature view "v": key "amount" of entity "e" is float64'),
        ('v = FeatureView("v", card, tx, [agg.count()])\nw = FeatureView("v", card, tx, [agg.sum("n")])',
         'two feature views are named "v"'),
        ('v = FeatureView("v", card, tx, [agg.count()])\nother = Entity("card", key="n")',
         'two entities are named "card"'),
        ('v = FeatureView("v", card, tx, [agg.count()])\ns = FeatureService("s", features=["v:cuont"])',
         'feature service "s": feature view "v" has no feature "cuont"'),
        ('v = FeatureView("v", card, tx, [agg.count()])\ns = FeatureService("s", features=["w"])',
         'feature service "s": no feature view "w"'),
        *(
            (f'v = FeatureView("v", card, tx, [agg.count(where="{predicate}")])', f'feature view "v": {fact}')
            for predicate, fact in [
                ("amount in (select 1)", "amount IN (SELECT 1): a sub-select is not part of an expression"),
                ("exists (select 1)", "EXISTS(SELECT 1): a sub-select is not part of an expression"),
                ("sum(n) over () > 1", "SUM(n) OVER (): a window function is not part of an expression"),
                ("sum(n) > 1", 'no function "sum"'),
                ("now() > ts", 'no function "now"'),
                ("read_csv('x') = 1", 'no function "read_csv"'),
                ("true; drop table x",
                 "an expression has no semicolon: several statements are not one value"),
                ("set x = 1", "set x = 1: no SQL expression at 'x' (character 5)"),
                ("pragma x", "pragma x: no SQL expression at 'x' (character 8)"),
                ("* = 1", "*: a star is not part of an expression"),
                ("tx.n = 1", "tx.n: a qualified name is not part of an expression"),
                ("? = 1", "?: a parameter is not part of an expression"),
            ]
        ),
    ],
)  # fmt: skip
def test_a_declaration_that_can_not_be_planned_names_its_view(
    tmp_path: Path, declared: str, fact: str
) -> None:
    root = made.project(tmp_path, made.SOURCE_PY + declared)
    assert made.refused(root, "plan") == fact


@pytest.mark.parametrize(
    ("parts", "fact"),
    [
        ('event_time="nope"', 'source "tx": no column "nope" in its log (event_time)'),
        ('event_time="amount"',
         'source "tx", column "amount": the log has float64, which can\'t become timestamp'),
        ('event_time="n"', 'source "tx", column "n": its times are integers of no declared unit'),
        ('event_time="ts", id="nope"', 'source "tx": no column "nope" in its log (id)'),
        ('event_time="ts", available_at="amount"',
         'source "tx", column "amount": the log has float64, which can\'t become timestamp'),
        ('event_time="ts", version="nope"', 'source "tx": no column "nope" in its log (version)'),
        ('event_time="ts", deleted="n"', 'source "tx", column "n": deleted is a boolean, the log has int64'),
        ('event_time="ts", order_by="nope"', 'source "tx": no column "nope" in its log (order_by)'),
        ('event_time="ts", timezone="Europe/Berln"', 'source "tx": "Europe/Berln" is not a time zone'),
        ('event_time="ts", columns=["nope"]', 'source "tx": no column "nope" in its log (columns)'),
        ('event_time="ts", columns={"amount": "flot"}', '"flot" is not a type'),
        ('event_time="ts", columns={"ts": "string"}',
         'source "tx", column "ts": declared string, but it is a time'),
    ],
)  # fmt: skip
def test_a_column_that_can_not_play_its_part_is_named(tmp_path: Path, parts: str, fact: str) -> None:
    declared = f"""
card = Entity("card", key="card")
tx = EventSource("tx", log=Parquet("data/*.parquet"), {parts})
v = FeatureView("v", card, tx, [agg.count()])
"""
    assert made.refused(made.project(tmp_path, declared), "plan") == fact
