"""Forgetting and dead letters: a message that could not become a row may still say whose it was. Where it can
be parsed it goes; where it can't, it is named if the key's text is in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from featurestore import FeatureStore
from featurestore.cli.application import run
from featurestore.store.dead_letters import DeadLetter, add_dead_letters, read_dead_letters

FEATURES_PY = """
from featurestore import Entity, EventSource, FeatureView, KafkaTopic, TableSource, agg

card = Entity("card", key="card_id")
route = Entity("route", key=["origin", "line"])
purchases = EventSource("purchases", topic=KafkaTopic("purchases"), event_time="ts", id="id",
    columns={"id": "string", "card_id": "string", "ts": "timestamp", "amount": "float64", "user_id": "int64"})
limits = TableSource("limits", topic=KafkaTopic("limits", dead_letters="limits-bad"), primary_key="card_id",
    format="debezium", columns={"card_id": "string", "amount": "float64"})
trips = EventSource("trips", topic=KafkaTopic("trips"), event_time="ts", id="id",
    columns={"id": "string", "origin": "string", "line": "int64", "ts": "timestamp"})
spent = FeatureView("spent", entity=card, source=purchases, features=[agg.count(name="n")])
user = Entity("user", key="user_id")
users = FeatureView("users", entity=user, source=purchases, features=[agg.count(name="n")])
limit = FeatureView("limit", entity=card, source=limits, features=[agg.last("amount")])
rides = FeatureView("rides", entity=route, source=trips, features=[agg.count(name="n")])
"""

ROW = {"id": "p1", "card_id": "c1", "ts": "2026-01-01T00:00:00Z", "amount": "much", "user_id": 7}
OTHER = {**ROW, "card_id": "c2", "user_id": 70}


def text(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project that is applied, its store a file."""
    return applied(tmp_path, "store.db")


@pytest.fixture
def root_on_each(tmp_path: Path, empty_store_url: str) -> Path:
    """The same on each database in turn."""
    return applied(tmp_path, empty_store_url)


def applied(root: Path, url: str) -> Path:
    (root / "features.py").write_text(FEATURES_PY)
    (root / "featurestore.toml").write_text(f'[store]\nurl = "{url}"\n')
    with FeatureStore(root) as store:
        store.apply()
    return root


def bury(
    root: Path, source: str, values: Sequence[bytes], *, first: int = 0, key: bytes | None = None
) -> None:
    """Dead letters as a worker keeps them."""
    letters = [
        DeadLetter(source, source, 0, first + number, "for a test", None, key, value)
        for number, value in enumerate(values)
    ]
    with FeatureStore(root) as store, store.store.commit("stream", now_us=1) as commit:
        add_dead_letters(commit, letters)


def left(root: Path, source: str) -> list[int]:
    with FeatureStore(root) as store, store.store.snapshot() as snapshot:
        return [one.offset for one in read_dead_letters(snapshot, source)]


PURCHASES: list[tuple[str, bytes, str]] = [
    ("a row with a wrong type elsewhere", text(ROW), "erased"),
    ("a row of another card", text(OTHER), ""),
    ("a row of another card that names it in passing", text({**OTHER, "id": "c1"}), ""),
    ("a row in a payload", text({"schema": None, "payload": ROW}), "erased"),
    ("the row after a change", text({"before": None, "after": ROW, "op": "x"}), "erased"),
    ("the row before a change", text({"before": ROW, "after": OTHER, "op": "u"}), "erased"),
    ("a row as text", text({"value": json.dumps(ROW)}), "erased"),
    ("rows in a list", text([OTHER, ROW]), "erased"),
    ("a row cut off", text(ROW)[:-3], "suspected"),
    ("another's row cut off", text(OTHER)[:-3], ""),
    ("no JSON at all", b"\xff\0\x04c1\x00", "suspected"),
    ("JSON without the column", text({"cards": ["c1"]}), "suspected"),
    ("a key that is a list", text({**ROW, "card_id": ["c1"]}), "suspected"),
    ("nothing", b"", ""),
]


def test_dead_letters_that_say_whose_they_are_go_and_those_that_may_be_are_named(root_on_each: Path):
    root = root_on_each
    bury(root, "purchases", [value for _, value, _ in PURCHASES])
    expected = {
        kind: [i for i, one in enumerate(PURCHASES) if one[2] == kind] for kind in ("erased", "suspected")
    }
    with FeatureStore(root) as store:
        report = store.forget({"card_id": "c1"})
    assert report.erased["dead_letters"] == len(expected["erased"])
    assert report.to_dict()["dead_letters"] == {
        "erased": [f"purchases/0/{offset}" for offset in expected["erased"]],
        "suspected": [f"purchases/0/{offset}" for offset in expected["suspected"]],
        "copied_to": ["purchases.dead-letters"],
    }
    assert left(root, "purchases") == [i for i in range(len(PURCHASES)) if i not in expected["erased"]]
    told = report.text()
    assert "dead letters erased: purchases/0/0, purchases/0/3" in told
    assert "copies in purchases.dead-letters: delete them there" in told
    assert "4 dead letters that can't be read may hold the key: purchases/0/8" in told
    assert "dead-letters discard" in told


def test_what_was_erased_is_not_in_the_stores_file_any_more(root: Path):
    marked = {**ROW, "card_id": "card-to-be-forgotten", "memo": "secret-of-it"}
    bury(root, "purchases", [text(marked), text(OTHER)])
    with FeatureStore(root) as store:
        assert store.forget({"card_id": "card-to-be-forgotten"}).purged
    files = list(root.glob("store.db*"))
    assert files
    for file in files:
        held = file.read_bytes()
        assert b"card-to-be-forgotten" not in held and b"secret-of-it" not in held


def test_what_came_after_a_key_was_forgotten_goes_when_it_is_forgotten_again(root: Path):
    with FeatureStore(root) as store:
        assert store.forget({"card_id": "c1"}).to_dict()["dead_letters"] == {
            "erased": [], "suspected": [], "copied_to": []
        }  # fmt: skip
    bury(root, "purchases", [text(ROW), text(OTHER)])
    with FeatureStore(root) as store:
        report = store.forget({"card_id": "c1"})
    assert report.before and report.erased == {"dead_letters": 1}
    assert left(root, "purchases") == [1]


def test_a_number_is_found_however_it_is_written_and_in_bytes_only_as_text(root: Path):
    bury(root, "purchases", [text({**ROW, "user_id": one}) for one in (7, "7", 7.0, 70, 8)])
    bury(root, "purchases", [b"user 7 {", b"user 8 {"], first=10)
    with FeatureStore(root) as store:
        report = store.forget({"user_id": 7})
    assert report.erased == {"dead_letters": 3}
    assert list(report.letters.suspected) == ["purchases/0/10"]
    assert left(root, "purchases") == [3, 4, 10, 11]


def test_a_key_of_several_columns_is_found_where_all_of_them_are(root: Path):
    trip = {"id": "t", "origin": "JFK", "line": 4, "ts": "soon"}
    bury(
        root,
        "trips",
        [text(trip), text({**trip, "line": 5}), text({**trip, "line": "4"}), b"{JFK 4", b"{JFK 5"],
    )
    with FeatureStore(root) as store:
        report = store.forget({"origin": "JFK", "line": 4})
    assert (list(report.letters.erased), list(report.letters.suspected)) == (
        ["trips/0/0", "trips/0/2"],
        ["trips/0/3"],
    )


def test_a_tables_dead_letter_is_found_by_its_messages_key(root: Path):
    bury(root, "limits", [text({"op": "d", "before": None})], key=b"c1")
    bury(root, "limits", [text({"op": "d", "before": None})], key=text({"card_id": "c1"}), first=1)
    bury(
        root, "limits", [text({"op": "d", "before": None})], key=text({"payload": {"card_id": "c1"}}), first=2
    )
    bury(root, "limits", [text({"op": "d", "before": None})], key=b"c2", first=3)
    with FeatureStore(root) as store:
        report = store.forget({"card_id": "c1"})
    assert list(report.letters.erased) == [f"limits/0/{offset}" for offset in (0, 1, 2)]
    assert list(report.letters.copied_to) == ["limits-bad"]


def test_in_avro_a_text_is_found_among_the_bytes_and_a_number_may_be_in_any_of_them(root: Path):
    features = root / "features.py"
    features.write_text(
        FEATURES_PY.replace('KafkaTopic("purchases")', 'KafkaTopic("purchases", format="avro")')
    )
    with FeatureStore(root) as store:
        store.apply()
    bury(root, "purchases", [b"\0\0\0\0\1\4c1\x0e", b"\0\0\0\0\1\4c2\x0e"])
    with FeatureStore(root) as store:
        assert list(store.forget({"card_id": "c1"}).letters.suspected) == ["purchases/0/0"]
        assert list(store.forget({"user_id": 7}).letters.suspected) == ["purchases/0/0", "purchases/0/1"]
    assert left(root, "purchases") == [0, 1]


def test_many_dead_letters_are_searched_in_small_steps(root_on_each: Path):
    root = root_on_each
    mine = {number for number in range(170) if number % 3 == 0}
    bury(root, "purchases", [text(ROW if number in mine else OTHER) for number in range(170)])
    with FeatureStore(root) as store:
        report = store.forget({"card_id": "c1"})
    assert report.erased == {"dead_letters": len(mine)}
    assert "... (57 in all)" in report.text()
    assert left(root, "purchases") == [number for number in range(170) if number not in mine]


def test_the_command_tells_it(root: Path, capsys: pytest.CaptureFixture[str]):
    bury(root, "purchases", [text(ROW), text(ROW)[:-1]])
    assert run(["-C", str(root), "forget", "--entity", "card_id=c1", "--yes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["erased"] == {"dead_letters": 1}
    assert told["dead_letters"]["suspected"] == ["purchases/0/1"]
