"""While a command's workers run, what they leave is folded beside them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from featurestore import FeatureStore
from featurestore.store import Store
from streaming import compacting
from tests.integration.compaction_project import ACCOUNTS, Transfers, all_answers, push, rows_of, transfers


@pytest.fixture
def project(tmp_path: Path, empty_store_url: str) -> Transfers:
    return Transfers(tmp_path / "project", empty_store_url)


def longest(store: Store) -> int:
    return max(len(sizes) for sizes in rows_of(store).values())


def test_rows_are_folded_while_others_write(project: Transfers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compacting, "PERIOD_S", 0.01)
    with project.open() as store:
        with compacting.compacting(store):
            for seed in range(1, 6):
                push(store, transfers(seed, 60), pushes=30)
            # All that is worth folding is folded some time.
            until_s = time.monotonic() + 60
            while longest(store.store) >= 16 and time.monotonic() < until_s:
                time.sleep(0.01)
        assert longest(store.store) < 16
        folded = all_answers(store)
        store.compact(full=True)
        assert all_answers(store) == folded
        vectors = store.online_features(["balance"], {"account": ACCOUNTS}, as_of="2026-06-01T00:00:00Z")
        values = vectors.to_dict()
    assert sum(values["balance__amount_sum"]) == 0 and sum(values["balance__count"]) == 5 * 2 * 60  # type: ignore[arg-type]


def test_nothing_is_folded_where_the_setting_says_no(project: Transfers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compacting, "PERIOD_S", 0.01)
    with (project.root / "featurestore.toml").open("a") as settings:
        settings.write("[streaming]\ncompact = false\n")
    with project.open() as store, compacting.compacting(store):
        push(store, transfers(1, 60), pushes=30)
        rows = rows_of(store.store)
        time.sleep(0.3)
        assert rows_of(store.store) == rows


def test_a_command_that_ends_ends_its_compaction_too(project: Transfers):
    with project.open() as store:
        began_s = time.monotonic()
        with compacting.compacting(store):
            pass
        assert time.monotonic() - began_s < compacting.PERIOD_S


def test_a_store_that_is_still_to_come_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compacting, "PERIOD_S", 0.01)
    with FeatureStore(tmp_path) as nothing_yet, compacting.compacting(nothing_yet):
        time.sleep(0.1)
        project = Transfers(tmp_path / "made", "store.db")
        (tmp_path / ".featurestore").mkdir()
        with project.open() as store:
            push(store, transfers(1, 60), pushes=30)
        (project.root / "store.db").rename(tmp_path / ".featurestore" / "store.db")
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s:
            with Store.open(tmp_path / ".featurestore" / "store.db", migrate=False) as opened:
                if longest(opened) < 16:
                    break
            time.sleep(0.05)
        else:
            pytest.fail("nothing was folded")
