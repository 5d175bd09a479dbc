"""Where a key stands, by what views say about sources."""

from __future__ import annotations

from featurestore.plan.nodes import PRIMARY_KEY
from featurestore.store.reach import Reach, Read, Step


def test_a_source_holds_its_entitys_key_by_its_own_names():
    reach = Reach(frozenset({Read("flights", "route", ("origin", "carrier"))}))
    assert reach.scopes == {"flights": {(("carrier", "carrier"), ("origin", "origin"))}}


def test_the_columns_of_a_composite_key_are_paired_as_the_lookup_pairs_them():
    planes = Read("planes", PRIMARY_KEY, ("c", "o"))
    reach = Reach(frozenset({planes}), frozenset({Step("flights", ("origin", "carrier"), planes)}))
    assert reach.of(("carrier", "origin")) == [("planes", (("carrier", "o"), ("origin", "c")))]
    assert reach.of(("origin",)) == []


def test_what_looks_itself_up_ends():
    people = Read("people", PRIMARY_KEY, ("id",))
    by_boss = Read("people", "boss", ("boss_id",))
    steps = {Step("people", ("boss_id",), people), Step("people", ("id",), by_boss)}
    reach = Reach(frozenset({people, by_boss}), frozenset(steps))
    both = {(name, column) for name in ("id", "boss_id") for column in ("id", "boss_id")}
    assert reach.scopes == {"people": {(pair,) for pair in both}}
