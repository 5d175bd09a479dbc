"""Forgetting reaches what is looked up: a table's row whose primary key is the entity's, whatever the table
calls it, and the facts of a chained view whose key it is.

Questions stand on and after 2026-01-01, as in the project of lookups.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from featurestore import FeatureStore
from tests.integration.lookups_project import (
    DECLARED,
    PURCHASES,
    RATINGS,
    USERS,
    at,
    purchase,
    same_bits,
    user,
    write,
)

GONE, SECRET = "user-gone", "country-of-gone"
HORIZONS = [None, "as_of", at("11:00:00")]
WHERE_FROM = DECLARED.replace(
    'features=[agg.mean("stars"),', 'features=[agg.last("rater_country", name="from"), agg.mean("stars"),'
)
ABOUT_GONE = {
    "users": [
        user("c", GONE, SECRET, "08:00:00", 11), user("u", GONE, "NL", "08:10:00", 12, known="10:00:00"),
    ],
    "purchases": [purchase("g1", GONE, "s1", 7, "09:00:00")],
    "ratings": [
        {"rating_id": "g2", "seller_id": "s2", "user_id": GONE, "stars": 4, "ts": at("08:30:00"),
         "known": at("08:30:00")},
    ],
}  # fmt: skip
RATED_BY_GONE = {
    "rating_id": "g3", "seller_id": "s1", "user_id": GONE, "stars": 1, "ts": at("08:40:00"),
    "known": at("08:40:00"),
}  # fmt: skip
LOGS: dict[str, list[dict[str, Any]]] = {"users": USERS, "purchases": PURCHASES, "ratings": RATINGS}


def logs(directory: Path, about: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in LOGS.items():
        text = "".join(json.dumps(row) + "\n" for row in [*rows, *about.get(name, [])])
        (directory / f"{name}.jsonl").write_text(text)


def begun(directory: Path, about: dict[str, list[dict[str, Any]]], declared: str = WHERE_FROM) -> Path:
    directory.mkdir(exist_ok=True)
    write(directory, declared)
    logs(directory, about)
    with FeatureStore(directory) as store:
        store.apply()
        store.backfill()
    return directory


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The entity is in the logs and in a push, and nothing but the table and purchases holds it."""
    about = {name: rows for name, rows in ABOUT_GONE.items() if name != "ratings"}
    made = begun(tmp_path / "project", about)
    with FeatureStore(made) as store:
        store.ingest("users", [user("u", GONE, f"{SECRET}-pushed", "08:45:00", 13)])
    return made


@pytest.fixture
def store(project: Path) -> Iterator[FeatureStore]:
    with FeatureStore(project) as made:
        yield made


def found_in(project: Path, *texts: str) -> dict[str, int]:
    data = b"".join(path.read_bytes() for path in sorted((project / ".featurestore").iterdir()))
    return {text: data.count(text.encode()) for text in texts}


TIMES = [at("08:42:00"), at("10:30:00"), at("12:30:00")]


def asked(view: str) -> pa.Table:
    key, values = {
        "spend": ("user_id", ["u1", "u2", GONE]),
        "seller_rating": ("seller_id", ["s1", "s2", "s9"]),
        "by_country": ("country", ["NL", "DE", SECRET]),
    }[view]
    pairs = [(value, time) for time in TIMES for value in values]
    return pa.table({key: [value for value, _ in pairs], "ts": [time for _, time in pairs]})


def answers(store: FeatureStore, view: str, known_at: str | None) -> pa.Table:
    """Of both hosts, which agree."""
    spine = asked(view)
    made = store.training_set(spine, view, known_at=known_at).to_arrow().drop(["ts"])
    columns = spine.to_pydict()
    times = columns.pop("ts")
    served = store.online_features([view], columns, as_of=times, known_at=known_at).to_arrow()
    assert same_bits(made, served), (view, known_at)
    return made


def assert_as_if_unheard_of(
    store: FeatureStore, other: Path, views: tuple[str, ...] = ("spend", "seller_rating")
) -> None:
    with FeatureStore(other) as never:
        for view in views:
            for known_at in HORIZONS:
                assert same_bits(answers(store, view, known_at), answers(never, view, known_at))


def test_the_row_that_is_only_looked_up_is_gone_from_every_answer_and_from_the_file(
    project: Path, store: FeatureStore, tmp_path: Path
):
    before = found_in(project, GONE, SECRET, f"{SECRET}-pushed")
    assert min(before.values()) > 0
    report = store.forget({"user_id": GONE})
    assert report.entities == ("user",) and report.purged and report.unsearched == ()
    assert report.sources == (("purchases", ("user_id",)), ("users", ("id",)))
    assert "looked for in purchases, users (by id)" in report.text()
    # Its timeline of purchases and one purchase; three changes of its row, one of which was pushed.
    assert report.erased == {"timelines": 1, "facts": 4, "pushed_rows": 1}
    assert set(found_in(project, GONE, SECRET).values()) == {0}
    with store.store.snapshot() as snapshot:
        hidden = next(one for one in snapshot.timeline_versions() if one.entity == "primary key")
        assert snapshot.entity_count(hidden.id) == 2
    # Whoever still names it is told what an unknown key is told.
    store.ingest("ratings", [RATED_BY_GONE])
    other = begun(tmp_path / "other", {"ratings": [RATED_BY_GONE]})
    assert_as_if_unheard_of(store, other)
    # At 08:42: u1's rating is from NL; the other one, from NL as well until it was forgotten, from nowhere.
    assert answers(store, "seller_rating", None)["seller_rating__dutch"].to_pylist()[0] == 1


def test_no_backfill_brings_the_row_back(project: Path, store: FeatureStore, tmp_path: Path):
    store.forget({"user_id": GONE})
    more = [user("u", GONE, SECRET, "08:50:00", 14), user("c", "u5", "PT", "08:50:00", 15)]
    logs(project, {**ABOUT_GONE, "users": [*ABOUT_GONE["users"], *more]})
    other = begun(tmp_path / "other", {"users": more[1:], "ratings": ABOUT_GONE["ratings"]})
    for rebuild in (False, True):
        report = store.backfill(rebuild=rebuild)
        assert report.counts["forgotten"] >= 3
        assert report.counts["delivered"] == sum(
            n for what, n in report.counts.items() if what != "delivered"
        )
        assert_as_if_unheard_of(store, other)
        assert found_in(project, SECRET)[SECRET] == 0


def test_a_push_of_the_row_is_counted_as_forgotten_and_not_kept(project: Path, store: FeatureStore):
    store.forget({"user_id": GONE})
    with store.store.snapshot() as snapshot:
        arrivals = snapshot.last_arrival
    pushed = store.ingest(
        "users", [user("u", GONE, SECRET, "08:55:00", 16), user("u", "u2", "FR", "08:55:00", 17)]
    )
    assert (pushed.accepted, pushed.forgotten) == (1, 1)
    deleted = store.ingest("users", [user("d", GONE, None, "08:56:00", 18)])
    assert (deleted.accepted, deleted.forgotten) == (0, 1)
    with store.store.snapshot() as snapshot:
        assert snapshot.last_arrival == arrivals + 1
    assert set(found_in(project, GONE, SECRET).values()) == {0}


def test_a_manifest_of_what_only_looks_the_row_up_lists_the_key(store: FeatureStore):
    before = store.training_set(asked("seller_rating"), "seller_rating")
    report = store.forget({"user_id": GONE})
    after = store.training_set(asked("seller_rating"), "seller_rating")
    assert before.manifest["forgotten"]["keys"] == 0
    assert [one["digest"] for one in after.manifest["forgotten"]["list"]] == list(report.digests)
    assert after.manifest["sources"]["users"]["entities"]["primary key"]["forgotten"] == 2
    assert store.reproduce(after.manifest, asked("seller_rating")).table.equals(after.table)


# Declared later

BY_COUNTRY = """
country = Entity("country", key="country")
by_country = FeatureView("by_country", country, users, features=[agg.count(name="n")])
"""
NO_LOOKUPS = (
    WHERE_FROM.replace('ratings.lookup(users, on="user_id", columns={"rater_country": "country"})', "ratings")
    .replace('agg.last("rater_country", name="from"), ', "")
    .replace('agg.count(where="rater_country = \'NL\'", name="dutch")', 'agg.count(name="dutch")')
    .replace('"spend", user, enriched', '"spend", user, purchases')
    .replace(
        DECLARED[DECLARED.index("        agg.histogram") : DECLARED.index("    ],\n)\nmodel")],
        '        agg.sum("amount"),\n',
    )
    .replace('.lookup(users, on="user_id", columns=["country"])', "")
)


def test_a_lookup_that_is_declared_after_the_forgetting_erases_what_the_table_holds(tmp_path: Path):
    """Until then nobody says that a user's id is a user_id."""
    project = begun(tmp_path / "project", ABOUT_GONE, NO_LOOKUPS + BY_COUNTRY)
    with FeatureStore(project) as store:
        born = user("u", GONE, SECRET, "08:20:00", 13) | {"born": at("07:00:00")}
        store.ingest("users", [born])
        report = store.forget({"user_id": GONE})
        assert report.sources == (("purchases", ("user_id",)),)
        assert answers(store, "by_country", None)["by_country__n"].to_pylist()[5] == 1
        assert found_in(project, SECRET)[SECRET] > 0
    (project / "features.py").write_text(WHERE_FROM + BY_COUNTRY)
    other = begun(tmp_path / "other", {"ratings": ABOUT_GONE["ratings"]}, WHERE_FROM + BY_COUNTRY)
    with FeatureStore(project) as store:
        # A training set asks by the declarations: it leaves out what they say before they are applied.
        told = store.training_set(asked("seller_rating"), "seller_rating").to_arrow()
        assert told["seller_rating__from"].to_pylist()[4] is None
        store.apply()
        assert found_in(project, SECRET)[SECRET] == 0
        assert_as_if_unheard_of(store, other, ("by_country",))
        store.backfill()
        assert_as_if_unheard_of(store, other, ("spend", "seller_rating", "by_country"))
        assert found_in(project, SECRET)[SECRET] == 0
        again = store.forget({"user_id": GONE})
        assert again.before and again.sources == (("purchases", ("user_id",)), ("users", ("id",)))


def test_a_lookup_by_other_columns_of_a_table_that_is_looked_up_already_erases_too(tmp_path: Path):
    """No timeline is new: what is new is what the key is called."""
    by_seller = WHERE_FROM.replace('on="user_id"', 'on="seller_id"')
    project = begun(tmp_path / "project", ABOUT_GONE, by_seller)
    with FeatureStore(project) as store:
        timelines = len(store.versions())
        assert store.forget({"user_id": GONE}).sources == (("purchases", ("user_id",)),)
        assert found_in(project, SECRET)[SECRET] > 0
        with store.store.commit("look", now_us=1) as commit:
            before = commit.forgetting()
    (project / "features.py").write_text(WHERE_FROM)
    with FeatureStore(project) as store:
        store.apply()
        assert found_in(project, SECRET)[SECRET] == 0
        assert len(store.versions()) >= timelines
        with store.store.commit("look", now_us=1) as commit:
            assert commit.forgetting() != before  # a backfill that is under way begins anew
        store.backfill()
        other = begun(tmp_path / "other", {"ratings": ABOUT_GONE["ratings"]})
        assert_as_if_unheard_of(store, other)


# What else is the same key


def test_a_primary_key_of_the_entitys_own_name_is_the_entity_whatever_looks_it_up(tmp_path: Path):
    renamed = (
        WHERE_FROM.replace('primary_key="id"', 'primary_key="user_id"')
        .replace('columns={"id": "string", "committed"', 'columns={"user_id": "string", "committed"')
        .replace('on="user_id"', 'on="seller_id"')
    )

    def named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{("user_id" if name == "id" else name): value for name, value in row.items()} for row in rows]

    project = tmp_path / "project"
    project.mkdir()
    write(project, renamed)
    rows = named([*USERS, *ABOUT_GONE["users"]])
    (project / "users.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FeatureStore(project) as store:
        store.apply()
        store.backfill()
        assert found_in(project, SECRET)[SECRET] > 0
        report = store.forget({"user_id": GONE})
        assert report.sources == (("purchases", ("user_id",)), ("users", ("user_id",)))
        assert report.erased == {"facts": 2}
        assert set(found_in(project, GONE, SECRET).values()) == {0}
        answers(store, "spend", "as_of")


CHAINED = """
from featurestore import Entity, EventSource, FeatureView, JSONLines, TableSource, agg

user, account, shop = Entity("user", key="user_id"), Entity("account", key="id"), Entity("shop", key="id")
by_till = Entity("till", key="till")
people = TableSource("people", log=JSONLines("people.jsonl"), primary_key="nr", changed_at="at",
    position="lsn", columns={"nr": "string", "at": "timestamp", "lsn": "int64", "name": "string"})
signups = EventSource("signups", log=JSONLines("signups.jsonl"), event_time="ts",
    columns={"id": "string", "ts": "timestamp", "how": "string"})
logins = EventSource("logins", log=JSONLines("logins.jsonl"), event_time="ts",
    columns={"id": "string", "ts": "timestamp", "how": "string"})
stalls = EventSource("stalls", log=JSONLines("stalls.jsonl"), event_time="ts",
    columns={"id": "string", "ts": "timestamp", "how": "string"})
bought = EventSource("bought", log=JSONLines("bought.jsonl"), event_time="ts",
    columns={"user_id": "string", "till": "string", "ts": "timestamp"})
signed = FeatureView("signed", account, signups.lookup(people, on="id", columns=["name"]),
    features=[agg.last("how"), agg.last("name")])
logged = FeatureView("logged", account, logins, features=[agg.last("how")])
stall = FeatureView("stall", shop, stalls, features=[agg.last("how")])
till = FeatureView("till", by_till,
    bought.lookup(signed, on=["user_id"], columns=["how_last", "name_last"]),
    features=[agg.last("signed__how_last", name="how"), agg.last("signed__name_last", name="name"),
              agg.count(name="n")])
tills = FeatureView("tills", by_till, bought, features=[agg.count(name="n")])
spent = FeatureView("spent", user, bought, features=[agg.count(name="n")])
"""


def test_a_chained_views_entity_is_the_one_that_looks_it_up_wherever_it_is_read(tmp_path: Path):
    """By any name of its key, and further on; an entity that only has a key column of that name stays."""
    (tmp_path / "features.py").write_text(CHAINED)
    rows: dict[str, list[dict[str, Any]]] = {
        "people": [],
        "signups": [],
        "logins": [],
        "stalls": [],
        "bought": [],
    }
    for n, who in enumerate(("k1", "k2")):
        rows["people"].append(
            {"op": "c", "nr": who, "at": at("07:00:00"), "lsn": n, "name": f"name-of-{who}"}
        )
        for source in ("signups", "logins", "stalls"):
            rows[source].append({"id": who, "ts": at("08:00:00"), "how": f"{source}-of-{who}"})
        rows["bought"].append({"user_id": who, "till": f"t{n}", "ts": at("09:00:00")})
    for name, some in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.backfill()
        report = store.forget({"user_id": "k1"})
        assert report.entities == ("user",)
        assert report.sources == (
            ("bought", ("user_id",)), ("logins", ("id",)), ("people", ("nr",)), ("signups", ("id",)),
        )  # fmt: skip
        gone = ("name-of-k1", "signups-of-k1", "logins-of-k1")
        for rebuild in (None, False, True):
            if rebuild is not None:
                store.backfill(rebuild=rebuild)
            assert set(found_in(tmp_path, *gone).values()) == {0}
            assert min(found_in(tmp_path, "stalls-of-k1", "name-of-k2", "signups-of-k2").values()) > 0
            for view, key, values, told in (
                ("till", "till", ["t0", "t1"], {
                    "how": [None, "signups-of-k2"], "name": [None, "name-of-k2"], "n": [0, 1]}),
                ("tills", "till", ["t0", "t1"], {"n": [0, 1]}),  # Nothing in it reads user_id.
                ("logged", "id", ["k1", "k2"], {"how_last": [None, "logins-of-k2"]}),
                ("stall", "id", ["k1", "k2"], {"how_last": ["stalls-of-k1", "stalls-of-k2"]}),
            ):  # fmt: skip
                asked = pa.table({key: values, "ts": [at("10:00:00")] * 2})
                made = store.training_set(asked, view).to_arrow().drop(["ts"])
                served = store.online_features([view], {key: values}, as_of=at("10:00:00")).to_arrow()
                assert same_bits(made, served)
                assert made.drop([key]).to_pydict() == {f"{view}__{name}": one for name, one in told.items()}
