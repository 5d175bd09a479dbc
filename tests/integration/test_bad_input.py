"""Bad input is answered with the fact and the way out, never with a traceback and never silently."""

from __future__ import annotations

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
