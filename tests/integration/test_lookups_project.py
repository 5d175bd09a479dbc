"""A project that joins on the way, as its user runs it: log, push, training set, request, explanation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from api_project import served

from featurestore import FeatureStore
from featurestore.errors import DefinitionError, ManifestError, RequestError, UnknownNameError
from tests.integration.lookups_project import (
    DECLARED,
    PUSHED_PURCHASES,
    PUSHED_USERS,
    at,
    offline,
    online,
    purchase,
    rating,
    same_bits,
    spine,
    user,
    write,
)

HORIZONS = [None, "as_of", at("11:00:00")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write(tmp_path)


@pytest.fixture
def store(project: Path) -> Iterator[FeatureStore]:
    with FeatureStore(project) as made:
        made.apply()
        made.backfill()
        yield made


def value(store: FeatureStore, feature: str, who: str, as_of: str, known_at: str | None = None) -> Any:
    found = store.online_features([f"spend:{feature}"], {"user_id": [who]}, as_of=as_of, known_at=known_at)
    [made] = found.to_dict()[f"spend__{feature}"]
    return made


@pytest.mark.parametrize("known_at", HORIZONS)
def test_offline_equals_online_over_logs_and_what_was_pushed_into_either_side(
    store: FeatureStore, known_at: str | None
):
    assert same_bits(offline(store, spine(), known_at), online(store, spine(), known_at))
    store.ingest("users", PUSHED_USERS)
    store.ingest("purchases", PUSHED_PURCHASES)
    store.ingest("ratings", [rating("r1", 1, "08:30:00", known="10:30:00")])
    assert same_bits(offline(store, spine(), known_at), online(store, spine(), known_at))


def test_a_late_change_corrects_past_events_once_it_is_known(store: FeatureStore):
    # u1 had moved before the purchase of 10:00; it became known at midnight.
    assert value(store, "country_last", "u1", at("10:00:00.000001"), "as_of") == "NL"
    assert value(store, "country_last", "u1", at("+00:00:00"), "as_of") == "NL"
    assert value(store, "country_last", "u1", at("+00:00:00.000001"), "as_of") == "DE"
    assert value(store, "country_last", "u1", at("10:00:00.000001")) == "DE"
    assert value(store, "at_home_30d", "u1", at("+00:00:00"), "as_of") == 30.0
    assert value(store, "at_home_30d", "u1", at("+00:00:00.000001"), "as_of") == 10.0


def test_a_chained_feature_is_as_of_the_event_and_known_as_the_question_knows(store: FeatureStore):
    assert value(store, "rating", "u1", at("12:00:00"), "as_of") == 5.0
    assert value(store, "rating", "u1", at("12:00:00.000001"), "as_of") == 3.5
    assert (
        value(store, "rating", "u1", at("09:30:00")) == 5.0
    )  # the purchase of 09:00 was before the bad rating
    # The second rater had moved by then, as is known at midnight: two steps away.
    assert value(store, "dutch", "u1", at("+00:00:00"), "as_of") == 2
    assert value(store, "dutch", "u1", at("+00:00:00.000001"), "as_of") == 1


def test_a_chain_of_two_steps_follows_each_late_change(store: FeatureStore):
    moves = [("08:10:00", "BE", "10:30:00"), ("08:20:00", "NL", "11:00:00"), ("08:25:00", "FR", "11:30:00")]
    store.ingest(
        "users", [user("u", "u1", where, then, 20 + i, known) for i, (then, where, known) in enumerate(moves)]
    )
    # The purchase of 09:00 asks about r1, whose rater's country of 08:30 became known in steps.
    store.ingest("purchases", [purchase("p9", "u9", "s1", 1, "09:00:00")])
    times = [at(clock) for clock in ("10:30:00", "11:00:00", "11:30:00", "11:30:00.000001")]
    assert [value(store, "dutch", "u9", time, "as_of") for time in times] == [1, 0, 1, 0]
    asked = spine(["u9"], times)
    assert offline(store, asked, "as_of")["spend__dutch"].to_pylist() == [1, 0, 1, 0]


def test_what_is_chained_has_the_values_of_the_empty_set_and_what_is_not_there_is_null(store: FeatureStore):
    assert value(store, "rating", "u2", at("11:00:00")) is None
    assert value(store, "dutch", "u2", at("11:00:00")) == 0
    store.ingest("purchases", [purchase("p9", "u3", "s1", 1, "10:00:00")])
    assert value(store, "country_last", "u3", at("11:00:00")) is None


def test_a_change_at_exactly_the_events_time_is_not_seen(store: FeatureStore):
    store.ingest("users", [user("u", "u2", "FR", "10:00:00", 9)])
    assert value(store, "country_last", "u2", at("12:00:00")) == "BE"
    store.ingest("users", [user("u", "u2", "LU", "09:59:59.999999", 8)])
    assert value(store, "country_last", "u2", at("12:00:00")) == "LU"


def test_a_change_that_becomes_available_at_exactly_k_is_not_known(store: FeatureStore):
    store.ingest("users", [user("u", "u2", "FR", "09:00:00", 9, known="11:00:00")])
    assert value(store, "country_last", "u2", at("12:00:00"), at("11:00:00")) == "BE"
    assert value(store, "country_last", "u2", at("12:00:00"), at("11:00:00.000001")) == "FR"


@pytest.mark.parametrize("known_at", ["as_of", at("11:00:00")])
def test_what_becomes_known_later_changes_no_byte_of_an_earlier_answer(store: FeatureStore, known_at: str):
    before = spine(times=[at("10:30:00"), at("11:00:00")])
    said = store.training_set(before, "model", known_at=known_at)
    store.ingest("users", [user("u", "u1", "PT", "08:30:00", 7, known="11:00:00")])
    store.ingest("ratings", [rating("r9", 1, "08:31:00", known="11:00:00")])
    store.ingest("purchases", [purchase("p9", "u1", "s1", 9, "09:10:00", known="11:00:00")])
    again = store.training_set(before, "model", known_at=known_at)
    assert said.manifest["content"] == again.manifest["content"]
    assert same_bits(said.to_arrow().drop(["ts"]), online(store, before, known_at))


def test_the_tables_own_event_time_plays_no_part(store: FeatureStore):
    # Every user's "born" is null: rows of no window, and looked up all the same.
    assert value(store, "country_last", "u2", at("11:00:00")) == "BE"


def test_plain_and_enriched_views_share_one_source_and_one_timeline(store: FeatureStore):
    versions = {one["view"]: one["timeline_version"] for one in store.versions()}
    assert versions["plain"] == versions["spend"]
    assert list(store.declarations.sources) == ["users", "ratings", "purchases"]
    plain = store.training_set(spine(), "plain").to_arrow()["plain__count_1d"].to_pylist()
    assert plain == store.training_set(spine(), "model").to_arrow()["plain__count_1d"].to_pylist()


def test_the_manifest_names_the_logs_that_are_looked_up(store: FeatureStore):
    sources = store.training_set(spine(), "spend").manifest["sources"]
    assert {name: list(one["entities"]) for name, one in sources.items()} == {
        "purchases": ["user"],
        "ratings": ["seller"],
        "users": ["primary key"],
    }
    assert sources["users"]["entities"]["primary key"]["versions"] == 3
    assert sources["users"]["log"]["files"][0]["path"] == "users.jsonl"


def test_a_training_set_that_looks_up_is_made_again_after_all_logs_grew(store: FeatureStore, project: Path):
    first = store.training_set(spine(), "model", known_at=at("12:30:00"))
    for name in ("users", "ratings", "purchases"):
        log = project / f"{name}.jsonl"
        log.write_text(log.read_text() + log.read_text().splitlines()[0].replace("1", "7") + "\n")
    store.ingest("users", PUSHED_USERS)
    again = store.reproduce(json.loads(json.dumps(first.manifest)), spine=spine())
    assert again.to_arrow().equals(first.to_arrow())
    assert again.manifest == first.manifest
    log = project / "users.jsonl"
    log.write_text(log.read_text().replace("BE", "XX"))
    with pytest.raises(ManifestError, match=r'users\.jsonl" of source "users"'):
        store.reproduce(first.manifest, spine=spine())


def test_two_horizons_are_compared_after_what_each_of_them_looks_up(store: FeatureStore):
    asked = spine(["u1"], [at("11:00:00")])
    found = store.compare_knowledge(asked, "spend", (at("11:00:00"), None))
    told = {one.feature: one for one in found.differences}
    assert set(told) == {
        f"spend:{name}" for name in ("country_histogram", "country_last", "rating", "at_home_30d")
    }
    assert (told["spend:country_last"].before, told["spend:country_last"].after) == ("NL", "DE")
    [why] = told["spend:country_last"].why
    assert (why.what, why.id) == ("looked up otherwise", {"purchase_id": "p2"})


@pytest.mark.parametrize("known_at", HORIZONS)
def test_a_forgotten_key_is_gone_from_both_hosts_and_a_primary_key_is_no_entitys_name(
    store: FeatureStore, known_at: str | None
):
    store.forget({"user_id": "u2"})
    assert same_bits(offline(store, spine(), known_at), online(store, spine(), known_at))
    assert value(store, "country_last", "u2", at("12:00:00")) is None
    store.ingest("purchases", [purchase("p9", "u1", "s9", 1, "11:00:00")])
    assert value(store, "country_last", "u1", at("12:00:00"), at("12:00:00")) == "NL"
    with pytest.raises(RequestError, match="no applied entity has the key id"):
        store.forget({"id": "u1"})


def test_an_explained_value_shows_inputs_after_they_were_looked_up(store: FeatureStore):
    told = store.explain_value(
        "spend:country_histogram", {"user_id": "u1"}, as_of=at("+00:00:00.000001"), known_at="as_of"
    )
    assert [(fact.id["purchase_id"], fact.input) for fact in told.facts] == [("p1", "NL"), ("p2", "DE")]
    assert told.value == {"NL": 1, "DE": 1}


def test_the_rows_of_a_looked_up_table_are_no_view_that_one_can_ask(store: FeatureStore):
    for name in ("__users_by_primary_key", "__users_by_primary_key@1"):
        with pytest.raises(UnknownNameError, match="no feature view"):
            store.online_features([name], {"id": ["u1"]})
    with pytest.raises(UnknownNameError, match="feature views are plain, seller_rating, spend"):
        store.backfill(["__users_by_primary_key"])


def test_a_view_is_served_when_all_that_it_looks_up_is_filled(project: Path):
    with FeatureStore(project) as store:
        applied = store.apply()
        assert '+ lookup of "users": new  [needs a backfill]' in applied.text()
        store.backfill(["plain"])
        # The purchases are there; the users and the ratings are not.
        with pytest.raises(RequestError, match='"spend" is not filled yet'):
            value(store, "country_last", "u1", at("11:00:00"))
        store.backfill(["spend"])
        assert value(store, "country_last", "u2", at("11:00:00")) == "BE"


def test_a_service_starts_over_views_that_look_up_without_a_warning(
    store: FeatureStore, project: Path, caplog: pytest.LogCaptureFixture
):
    with served(project) as serving:
        body = {"features": ["spend:country_last"], "entities": {"user_id": ["u1"]}, "as_of": at("11:00:00")}
        answer = serving.client.post("/get-online-features", json=body).json()
    assert answer["results"][1]["values"] == ["DE"]
    assert [record.getMessage() for record in caplog.records if record.name == "featurestore.api"] == []


def test_a_lookup_that_is_declared_later_waits_for_its_backfill_behind_what_is_served(project: Path):
    (project / "features.py").write_text(
        DECLARED.replace('"spend", user, enriched', '"spend", user, purchases').replace(
            DECLARED[DECLARED.index("        agg.histogram") : DECLARED.index("    ],\n)\nmodel")],
            "        agg.sum('amount'),\n",
        )
    )
    with FeatureStore(project) as store:
        store.apply()
        store.backfill(["plain", "spend"])
    (project / "features.py").write_text(DECLARED)
    with FeatureStore(project) as store:
        store.apply()
        assert value(store, "amount_sum", "u1", at("11:00:00")) == 30.0
        store.backfill()
        assert value(store, "country_last", "u2", at("11:00:00")) == "BE"
        assert store.backfill().counts == {}


def test_dropping_a_version_keeps_the_timelines_that_another_version_looks_up(project: Path):
    with FeatureStore(project) as store:
        store.apply()
        store.backfill()
    # The looked-up view goes on without ratings' lookup, and spend without any; spend@1 still reads both.
    (project / "features.py").write_text(
        DECLARED.replace(
            'ratings.lookup(users, on="user_id", columns={"rater_country": "country"})', "ratings"
        )
        .replace('agg.count(where="rater_country = \'NL\'", name="dutch")', 'agg.count(name="dutch")')
        .replace('"spend", user, enriched', '"spend", user, purchases')
        .replace(
            DECLARED[DECLARED.index("        agg.histogram") : DECLARED.index("    ],\n)\nmodel")],
            "        agg.sum('amount'),\n",
        )
    )
    with FeatureStore(project) as store:
        store.apply()
        store.backfill()
        store.drop_version("seller_rating", 1)
        store.drop_version("__users_by_primary_key", 1)
        [found] = store.online_features(
            ["spend@1:country_last"], {"user_id": ["u2"]}, as_of=at("11:00:00")
        ).to_dict()["spend@1__country_last"]
        assert found == "BE"
        store.drop_version("spend", 1)
        states = {(one.source, one.entity): one.state for one in _timelines(store)}
        assert states["users", "primary key"] == "retired"
        assert states["purchases", "user"] == states["ratings", "seller"] == "current"


def _timelines(store: FeatureStore) -> Any:
    with store.store.snapshot() as snapshot:
        return snapshot.timeline_versions()


def test_a_looked_up_views_new_meaning_makes_a_new_version(project: Path):
    with FeatureStore(project) as store:
        before = store.plans.views["spend"].fingerprint
        plain = store.plans.views["plain"].fingerprint
    (project / "features.py").write_text(DECLARED.replace("rater_country = 'NL'", "rater_country = 'DE'"))
    with FeatureStore(project) as store:
        assert store.plans.views["spend"].fingerprint != before
        assert store.plans.views["plain"].fingerprint == plain


def test_explain_prints_what_is_looked_up(store: FeatureStore):
    told = store.explain("spend")
    assert "look up country = country: of rows of users where id = user_id, at ts" in told
    assert "look up rater_country = country: of rows of users" in told


MISTAKES = {
    'columns=["country"])': [
        ('columns=["county"])', 'no column "county" in source "users"(.|\n)*did you mean "country"'),
        ('columns={"amount": "country"})', 'has a column "amount" of its own(.|\n)*users_country'),
        ('columns={"ts": "country"})', 'plays a part in source "purchases"'),
        ('columns={"__c": "country"})', "begins with __"),
        ("columns=[])", "names no columns"),
        ('columns={"seller_rating__dutch": "country"})', "two looked-up columns"),
    ],
    'purchases.lookup(users, on="user_id"': [
        ('purchases.lookup(users, on="userid"', 'no column "userid"(.|\n)*did you mean "user_id"'),
        ('purchases.lookup(users, on="amount"', 'on="amount" is float64, the key "id" is string'),
        ('purchases.lookup(users, on=["user_id", "ts"]', "on names 2 columns, the primary key 1"),
        ('purchases.lookup(user, on="user_id"', "can't be looked up"),
    ],
    'on="seller_id", columns=["stars_mean", "dutch"]': [
        ('on="country", columns=["stars_mean"]', 'on="country" is looked up itself'),
        ('on="seller_id", columns=["stars"]', 'has no feature "stars"(.|\n)*stars_mean'),
    ],
    'user = Entity("user", key="user_id")': [
        ('user = Entity("user", key="country")', '"country", the key of entity "user", is looked up'),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("right", "wrong", "said"), [(right, *one) for right, some in MISTAKES.items() for one in some]
)
def test_a_mistake_is_named_with_the_way_out(tmp_path: Path, right: str, wrong: str, said: str):
    write(tmp_path, DECLARED.replace(right, wrong, 1))
    assert right in DECLARED
    with pytest.raises(DefinitionError, match=said):
        FeatureStore(tmp_path).plan()


def test_two_different_sources_of_one_name_are_still_refused(tmp_path: Path):
    write(
        tmp_path,
        DECLARED
        + '\nfrom dataclasses import replace\nother = replace(enriched, timezone="Europe/Amsterdam")\n',
    )
    with pytest.raises(DefinitionError, match='two sources are named "purchases"'):
        FeatureStore(tmp_path).plan()


def test_a_composite_primary_key_is_looked_up_by_its_columns_in_order(tmp_path: Path):
    rows = [
        {"op": "c", "shop": "s1", "sku": n, "at": at("08:00:00"), "lsn": n, "price": n * 10} for n in (1, 2)
    ]
    sold = [
        {"id": "a", "shop": "s1", "sku": 2, "ts": at("09:00:00")},
        {"id": "b", "shop": "s1", "sku": None, "ts": at("09:00:00")},
    ]
    (tmp_path / "prices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sold))
    (tmp_path / "features.py").write_text("""
from featurestore import Entity, EventSource, FeatureView, JSONLines, TableSource, agg

prices = TableSource(
    "prices", log=JSONLines("prices.jsonl"), primary_key=["shop", "sku"], changed_at="at", position="lsn"
)
sold = EventSource("sold", log=JSONLines("sold.jsonl"), event_time="ts", id="id")
takings = FeatureView(
    "takings", Entity("shop", "shop"), sold.lookup(prices, on=["shop", "sku"], columns=["price"]),
    features=[agg.sum("price"), agg.count("price")],
)
""")
    with FeatureStore(tmp_path) as store:
        store.apply()
        store.backfill()
        asked = pa.table({"shop": ["s1"], "ts": [at("10:00:00")]})
        made = store.training_set(asked, "takings").to_arrow().drop(["ts"])
        served = store.online_features(["takings"], {"shop": ["s1"]}, as_of=at("10:00:00")).to_arrow()
    assert made.to_pydict() == {"shop": ["s1"], "takings__price_sum": [20], "takings__price_count": [1]}
    assert same_bits(made, served)
