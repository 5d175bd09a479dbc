"""Plan and apply: what an edit changes, why, and which version of a view is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from featurestore import FeatureStore
from featurestore.errors import RequestError, UnknownNameError
from tests.integration import bad_input_project as made

BASE = """
card = Entity("card", key="card")
tx = EventSource("tx", log=Parquet("data/*.parquet"), event_time="ts", id="id", version="n")
v = FeatureView("v", card, tx, [
    agg.count(windows=["1d"], where="amount > 1 and card = 'c1'"),
    agg.sum("amount"),
])
s = FeatureService("s", features=["v:amount_sum"])
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return made.project(tmp_path, BASE, made.events(known=made.events()["ts"]))


def fingerprint(root: Path, declarations: str) -> str:
    made.declare(root, declarations)
    return FeatureStore(root).plans.views["v"].fingerprint


def edited(old: str, new: str) -> str:
    assert BASE.count(old) == 1
    return BASE.replace(old, new)


def changes(root: Path, declarations: str) -> dict[str, tuple[str, str, bool]]:
    """By name: what a plan says of what is not as it was (action, reason, needs a backfill)."""
    made.declare(root, declarations)
    report = json.loads(made.succeeds(root, "plan", "--json"))
    return {
        change["name"]: (change["action"], change["reason"], change["backfill"])
        for change in report["changes"]
        if change["action"] != "unchanged" or change["reason"]
    }


def versions(root: Path) -> list[tuple[str, int, str]]:
    with FeatureStore(root) as store:
        return [(one["view"], one["version"], one["state"]) for one in store.versions()]


def at_noon(root: Path, *features: str) -> dict[str, Any]:
    with FeatureStore(root) as store:
        answer = store.online_features([*features], {"card": ["c1"]}, as_of=made.NOON).to_arrow()
    return {name: values[0] for name, values in answer.to_pydict().items() if name != "card"}


COSMETIC = {
    "order of features": BASE.replace(
        """    agg.count(windows=["1d"], where="amount > 1 and card = 'c1'"),
    agg.sum("amount"),
""",
        """    agg.sum("amount"),
    agg.count(windows=["1d"], where="amount > 1 and card = 'c1'"),
""",
    ),
    "order of declarations": BASE.replace("s = Feature", "zz = Entity('zz', key='n')\ns = Feature"),
    "formatting": edited("amount > 1 and", "  amount>1\\n and "),
    "parentheses": edited("amount > 1 and card = 'c1'", "((amount > (1)) and (card = 'c1'))"),
    "case of keywords": edited("amount > 1 and", "amount > 1 AND"),
    "a comment": edited("amount > 1 and", "amount > 1 /* more */ and"),
    "a quoted name": edited('agg.sum("amount")', "agg.sum('\"amount\"', name='amount_sum')"),
    "an explicit name": edited('agg.sum("amount")', 'agg.sum("amount", name="amount_sum")'),
    "spelled-out defaults": edited('agg.sum("amount")', 'agg.sum("amount", delay="0s", where=None)'),
    "one window": edited('windows=["1d"]', 'windows="1d"'),
    "a timedelta": edited('windows=["1d"]', "windows=timedelta(days=1)"),
    "paths as a list": edited('"data/*.parquet"', '["data/*.parquet"]'),
    "id as a list": edited('id="id"', 'id=["id"]'),
    "available_at = event_time": edited('version="n"', 'version="n", available_at="ts"'),
    "time zone by default": edited('version="n"', 'version="n", timezone="UTC"'),
    "description, tags, owner": edited('"v", card, tx, [', '"v", card, tx, description="d", tags={"a": "b"}, '
                                       'owner="o", features=['),
    "description of the source": edited('version="n"', 'version="n", description="d", owner="o"'),
    "name of a variable": BASE.replace("tx = ", "source = ").replace("card, tx,", "card, source,"),
}  # fmt: skip

SUM_CHANGED = 'feature "amount_sum" changed'
MEANING = {
    "window": (edited('"1d"', '"2d"'), 'feature "count_2d" added; feature "count_1d" removed', False),
    "where": (edited("> 1", "> 2"), 'feature "count_1d" changed', False),
    "column": (edited('agg.sum("amount")', 'agg.sum("n", name="amount_sum")'), SUM_CHANGED, False),
    "expression": (edited('agg.sum("amount")', 'agg.sum("amount + 0", name="amount_sum")'),
                   SUM_CHANGED, False),
    "op": (edited('agg.sum("amount")', 'agg.mean("amount", name="amount_sum")'), SUM_CHANGED, False),
    "delay": (edited('agg.sum("amount")', 'agg.sum("amount", delay="1h")'), SUM_CHANGED, False),
    "default": (edited('agg.sum("amount")', 'agg.sum("amount", default=0)'), SUM_CHANGED, False),
    "added": (edited('agg.sum("amount")', 'agg.sum("amount"), agg.last("n")'),
              'feature "n_last" added', False),
    "id": (edited('id="id"', 'id=["id", "n"]'), "facts changed", True),
    "event_time": (edited('event_time="ts"', 'event_time="known"'), "facts changed", True),
    "available_at": (edited('version="n"', 'version="n", available_at="known"'), "facts changed", True),
    "version": (edited(', version="n"', ""), "facts changed", True),
    "order_by": (edited('version="n"', 'version="n", order_by="n"'), "facts changed", True),
    "timezone": (edited('version="n"', 'version="n", timezone="Europe/Berlin"'), "facts changed", True),
    "log": (edited("data/*.parquet", "data/events.parquet"), "facts changed", True),
    "key": (edited('key="card"', 'key="id"'), "facts changed", True),
    "columns": (edited('version="n"', 'version="n", columns=["amount"]'), "facts changed", True),
    "type": (edited('version="n"', 'version="n", columns={"amount": "decimal(9, 2)", "known": "timestamp"}'),
             'feature "count_1d", feature "amount_sum", facts changed', True),
}  # fmt: skip


@pytest.mark.parametrize("edit", COSMETIC)
def test_a_cosmetic_edit_keeps_the_version(root: Path, edit: str) -> None:
    assert fingerprint(root, COSMETIC[edit]) == fingerprint(root, BASE)


@pytest.mark.parametrize("edit", MEANING)
def test_another_meaning_is_another_version(root: Path, edit: str) -> None:
    assert fingerprint(root, MEANING[edit][0]) != fingerprint(root, BASE)


def test_a_plan_tells_why_and_whether_a_backfill_is_needed(root: Path) -> None:
    made.succeeds(root, "apply")
    made.succeeds(root, "backfill")
    for declarations in COSMETIC.values():
        assert changes(root, declarations).get("v", ("", "", False))[0] in ("", "unchanged")
    for declarations, reason, backfill in MEANING.values():
        assert changes(root, declarations)["v"] == ("changed", reason, backfill)
    assert changes(root, edited('id="id"', 'id=["id", "n"]'))["tx"] == ("changed", "id changed", False)
    assert versions(root) == [("v", 1, "current")]


def test_a_plan_writes_nothing(root: Path) -> None:
    before = sorted(root.rglob("*"))
    assert set(changes(root, BASE)) == {"card", "tx", "v", "s"}
    assert sorted(root.rglob("*")) == before


def test_the_order_of_a_service_is_a_change_of_its_own(root: Path) -> None:
    service = 's = FeatureService("s", features=["v:amount_sum"'
    made.declare(root, edited(service, service + ', "v:count_1d"'))
    made.succeeds(root, "apply")
    other = edited(service, 's = FeatureService("s", features=["v:count_1d", "v:amount_sum"')
    assert changes(root, other) == {"s": ("changed", "its order changed", False)}


def test_applying_twice_changes_nothing(root: Path) -> None:
    assert "applied 4 changes" in made.succeeds(root, "apply")
    assert "nothing to change" in made.succeeds(root, "apply")
    made.succeeds(root, "backfill")
    assert "nothing to change" in made.succeeds(root, "plan")
    assert versions(root) == [("v", 1, "current")]


def test_a_feature_over_stored_columns_is_served_at_once(root: Path) -> None:
    made.succeeds(root, "apply")
    made.succeeds(root, "backfill")
    made.declare(root, edited('agg.sum("amount"),', 'agg.sum("amount"), agg.sum("n * 2", name="twice"),'))
    made.succeeds(root, "apply")
    assert versions(root) == [("v", 1, "pinned"), ("v", 2, "current")]
    assert at_noon(root, "v:twice") == {"v__twice": 6}
    assert made.asked_both_ways(root, "v:twice", ("c1",)) == {"v__twice": [6]}


def test_a_new_version_is_filled_beside_the_one_that_is_served(root: Path) -> None:
    made.succeeds(root, "apply")
    made.succeeds(root, "backfill")
    made.declare(root, edited('version="n"', 'version="n", available_at="known"'))
    made.succeeds(root, "apply")
    assert versions(root) == [("v", 1, "current"), ("v", 2, "filling")]
    assert at_noon(root, "v:amount_sum") == {"v__amount_sum": 3.0}
    assert (
        made.refused(root, "versions", "switch", "v", "2")
        == 'version 2 of feature view "v" is not filled yet'
    )
    made.succeeds(root, "backfill")
    assert versions(root) == [("v", 1, "pinned"), ("v", 2, "current")]


def test_a_pinned_version_is_read_until_it_is_dropped(root: Path) -> None:
    made.succeeds(root, "apply")
    made.succeeds(root, "backfill")
    made.declare(root, edited('agg.sum("amount")', 'agg.sum("amount", where="n > 1")'))
    made.succeeds(root, "apply")
    assert at_noon(root, "v:amount_sum") == {"v__amount_sum": 2.0}
    assert at_noon(root, "v@1:amount_sum") == {"v@1__amount_sum": 3.0}
    made.succeeds(root, "versions", "switch", "v", "v@1")
    assert at_noon(root, "v:amount_sum") == {"v__amount_sum": 3.0}
    assert made.refused(root, "versions", "drop", "v", "1") == 'version 1 of feature view "v" is being served'
    assert made.refused(root, "versions", "drop", "v", "9") == 'feature view "v" has no version 9'
    assert made.refused(root, "versions", "switch", "w", "1") == 'no feature view "w"'
    made.succeeds(root, "versions", "drop", "v", "2")
    assert versions(root) == [("v", 1, "current")]
    with FeatureStore(root) as store, pytest.raises(UnknownNameError, match='no feature view "v@2"'):
        store.online_features(["v@2:amount_sum"], {"card": ["c1"]})


def test_going_back_to_an_earlier_meaning_serves_its_version_again(root: Path) -> None:
    made.succeeds(root, "apply")
    made.succeeds(root, "backfill")
    made.declare(root, edited("> 1", "> 2"))
    made.succeeds(root, "apply")
    made.declare(root, BASE)
    made.succeeds(root, "apply")
    assert versions(root) == [("v", 1, "current"), ("v", 2, "pinned")]


def test_a_removed_view_is_served_no_more_and_comes_back_filled(root: Path) -> None:
    made.succeeds(root, "apply")
    made.succeeds(root, "backfill")
    removed = BASE[: BASE.index("v = ")]
    assert changes(root, removed) == {
        "v": ("removed", "no longer declared", False),
        "s": ("removed", "no longer declared", False),
    }
    made.succeeds(root, "apply")
    with FeatureStore(root) as store:
        with pytest.raises(UnknownNameError, match=r'"v" is no longer declared\nhint: .* kept: v@1'):
            store.online_features(["v:amount_sum"], {"card": ["c1"]})
        with pytest.raises(RequestError, match='no feature view "s"'):
            store.online_features("s", {"card": ["c1"]})
    assert at_noon(root, "v@1:amount_sum") == {"v@1__amount_sum": 3.0}
    made.declare(root, BASE)
    made.succeeds(root, "apply")
    assert at_noon(root, "v:amount_sum") == {"v__amount_sum": 3.0}
    assert versions(root) == [("v", 1, "current")]


def test_an_unfilled_view_says_how_it_is_filled(root: Path) -> None:
    made.succeeds(root, "apply")
    assert made.refused(root, "get", "v", "-e", "card=c1") == 'feature view "v" is not filled yet'
