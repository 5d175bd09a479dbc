"""docs/marketplace.md, run word for word; and the example's features, counted by plain loops over its logs.

Time: a change counts as of T when it was committed strictly before T, and at K when the connector saw it
strictly before K. The loops here read docs/semantics.md and nothing of the library.
"""

from __future__ import annotations

import csv
import json
import random
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from marketplace_page import PAGE, Step, example, printed, steps

from examples.marketplace import generate


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example(tmp_path_factory.mktemp("marketplace"))


@pytest.fixture(scope="module")
def replayed(project: Path) -> list[tuple[Step, str]]:
    return [(step, printed(step.command, project)) for step in steps()]


def test_every_command_of_the_page_prints_what_the_page_shows(replayed: list[tuple[Step, str]]):
    assert len(replayed) > 20
    for step, really in replayed:
        if step.command.startswith("curl"):
            assert json.loads(really) == json.loads(step.printed), f"line {step.line}"
        else:
            assert really == step.printed, f"line {step.line}: {step.command}"


def messages(project: Path, table: str) -> list[dict[str, Any]]:
    lines = (project / "data" / f"{table}.jsonl").read_text().splitlines()
    return [message for message in map(json.loads, lines) if message is not None]


def instant(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def test_the_pages_table_of_the_order_is_the_log(replayed: list[tuple[Step, str]], project: Path):
    told = re.findall(r"^\| (2026-\S+ \S+) \| \**(\d\d:\d\d)\** \|", PAGE.read_text(), re.MULTILINE)
    logged = dict.fromkeys(
        (f"{instant(one['source']['ts_ms']):%Y-%m-%d %H:%M}", f"{instant(one['ts_ms']):%H:%M}")
        for one in messages(project, "orders")
        if (one["after"] or one["before"])["order_id"] == 5001
        and one["ts_ms"] != round((generate.UP + timedelta(minutes=1)).timestamp() * 1000)
    )
    assert told == [*logged]


def test_the_logs_hold_every_kind_of_change(replayed: list[tuple[Step, str]], project: Path):
    logs = {table: messages(project, table) for table in generate.KEYS}
    for table, key in generate.KEYS.items():
        kinds = {one["op"] for one in logs[table]}
        assert kinds == ({"r", "c", "u", "t"} if table == "tickets" else {"r", "c", "u", "d"})
        deleted: set[object] = set()
        again = 0
        for one in logs[table]:
            if one["op"] == "d":
                deleted.add(one["before"][key])
            elif one["op"] == "c":
                again += one["after"][key] in deleted
        assert again or table == "tickets"
    orders = logs["orders"]
    assert any(one["op"] == "u" and one["before"]["user_id"] != one["after"]["user_id"] for one in orders)
    by_transaction: dict[int, list[object]] = {}
    for one in orders:
        if one["op"] == "u":
            by_transaction.setdefault(one["source"]["txId"], []).append(one["after"]["order_id"])
    assert any(len(keys) > len(set(keys)) for keys in by_transaction.values())
    assert any(one["ts_ms"] - one["source"]["ts_ms"] > 3_600_000 for one in orders)
    lsns = [one["source"]["lsn"] for one in orders]
    assert lsns != sorted(lsns)


def test_generated_twice_the_files_are_equal_bytes(project: Path, tmp_path: Path):
    generate.generate(tmp_path / "one")
    generate.generate(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


# The same features by plain loops

FEATURES = (
    "user_orders:open_orders_30d,user_orders:balance,user_orders:amount_max,"
    "user_orders:seller_id_count_distinct,user_tickets:open_tickets,user_profile:country_last,"
    "user_purchases:last_country,user_purchases:seller_rating_last"
)


@dataclass(frozen=True)
class Log:
    """One table's changes: (position, committed, seen, primary key or None for a truncate, the row after)."""

    changes: list[tuple[tuple[int, int], datetime, datetime, object, dict[str, Any] | None]]

    @classmethod
    def read(cls, project: Path, table: str) -> Log:
        key = generate.KEYS[table]
        found = []
        late = messages(project, "late") if table == "orders" else []
        for one in [*messages(project, table), *late]:
            last, own = json.loads(one["source"]["sequence"])
            position = (int(last or own), int(own))
            row = one["after"] or one["before"]
            found.append((
                position, instant(one["source"]["ts_ms"]), instant(one["ts_ms"]),
                None if one["op"] == "t" else row[key], one["after"],
            ))  # fmt: skip
        return cls(found)

    def rows(self, as_of: datetime, known_at: datetime | None) -> list[dict[str, Any]]:
        """The table's rows at T, as known at K."""
        seen = [
            change
            for change in self.changes
            if change[1] < as_of and (known_at is None or change[2] < known_at)
        ]
        last: dict[object, tuple[tuple[int, int], dict[str, Any] | None]] = {}
        emptied = max((position for position, *_, key, _ in seen if key is None), default=(-1, -1))
        for position, _, _, key, row in seen:
            if key is not None and (key not in last or position > last[key][0]):
                last[key] = (position, row)
        return [row for position, row in last.values() if row is not None and position > emptied]


def by_hand(
    logs: dict[str, Log],
    purchases: list[dict[str, Any]],
    who: str,
    as_of: datetime,
    known_at: datetime | None,
) -> dict[str, object]:
    def own(table: str) -> list[dict[str, Any]]:
        return [row for row in logs[table].rows(as_of, known_at) if row["user_id"] == who]

    def before(text: str) -> bool:
        return datetime.fromisoformat(text) < as_of

    last_country, last_rating = on_the_way(logs, purchases, who, as_of, known_at)
    orders = [row for row in own("orders") if before(row["placed_at"])]
    amounts = [Decimal(row["amount"]) for row in orders]
    [country] = [row["country"] for row in own("users")] or [None]
    return {
        "user_orders__open_orders_30d": sum(
            row["status"] == "open" and datetime.fromisoformat(row["placed_at"]) >= as_of - timedelta(days=30)
            for row in orders
        ),
        "user_orders__balance": sum(
            (Decimal(row["amount"]) - Decimal(row["paid"]) for row in orders), Decimal("0.00")
        ),
        "user_orders__amount_max": max(amounts, default=None),
        "user_orders__seller_id_count_distinct": len({row["seller_id"] for row in orders}),
        "user_tickets__open_tickets": sum(
            row["status"] == "open" and before(row["opened_at"]) for row in own("tickets")
        ),
        "user_profile__country_last": country,
        "user_purchases__last_country": last_country,
        "user_purchases__seller_rating_last": last_rating,
    }


def on_the_way(
    logs: dict[str, Log],
    purchases: list[dict[str, Any]],
    who: str,
    as_of: datetime,
    known_at: datetime | None,
) -> tuple[str | None, float | None]:
    """The user's country at the time of the last purchase, and the seller's mean rating at that of the last
    one whose seller had any."""
    country, rating = None, None
    for purchase in purchases:
        placed = datetime.fromisoformat(purchase["placed_at"])
        logged = datetime.fromisoformat(purchase["logged_at"])
        if purchase["user_id"] != who or placed >= as_of or (known_at is not None and logged >= known_at):
            continue
        found = [row["country"] for row in logs["users"].rows(placed, known_at) if row["user_id"] == who]
        country = found[0] if found else country
        given = [
            row["rating"]
            for row in logs["orders"].rows(placed, known_at)
            if row["seller_id"] == purchase["seller_id"]
            and row["rating"] is not None
            and placed - timedelta(days=90) <= datetime.fromisoformat(row["placed_at"]) < placed
        ]
        rating = sum(given) / len(given) if given else rating
    return country, rating


def test_plain_loops_over_the_logs_find_the_same_values(replayed: list[tuple[Step, str]], project: Path):
    draw = random.Random(5)
    logs = {table: Log.read(project, table) for table in generate.KEYS}
    lines = (project / "data" / "purchases.jsonl").read_text().splitlines()
    purchases = sorted(map(json.loads, lines), key=lambda one: (one["placed_at"], one["order_id"]))
    seen = [
        ((one["after"] or one["before"])["user_id"], instant(one["source"]["ts_ms"]), instant(one["ts_ms"]))
        for table in generate.KEYS
        for one in messages(project, table)
        if one["op"] != "t"
    ]
    edges = [timedelta(microseconds=shift) for shift in (-1, 0, 1)]
    span_ms = int((generate.END - generate.SNAPSHOT) / timedelta(milliseconds=1))

    def question() -> tuple[str, datetime]:
        """Somebody at any time, or one whom a change is about, when it was committed or seen, or beside."""
        who, committed, known = draw.choice(seen)
        near = draw.choice((committed, committed, known)) + draw.choice(edges)
        anywhere = generate.SNAPSHOT + timedelta(milliseconds=draw.randrange(span_ms))
        return draw.choice(
            ((who, near), (who, near), (f"u{draw.randrange(1, generate.USERS + 2)}", anywhere))
        )

    horizons: list[tuple[datetime | str | None, list[tuple[str, datetime]]]] = [(None, []), ("as_of", [])]
    for who, committed, known in [draw.choice(seen) for _ in range(3)]:
        # Whether a change is known at K shows a little after it was committed.
        asked_at = committed + timedelta(seconds=3)
        horizons += [(known + edge, [(who, asked_at)]) for edge in edges]
    wrong = asked = 0
    values: set[object] = set()
    for number, (horizon, questions) in enumerate(horizons):
        questions += [question() for _ in range(18)]
        questions += [(who, draw.choice(seen)[1]) for who in ("u7", "u8")]  # whom the page is about
        spine, made = project / "questions.csv", project / f"answers-{number}.parquet"
        with spine.open("w", newline="") as file:
            csv.writer(file).writerows(
                [("user_id", "ts"), *((who, f"{at.isoformat()}") for who, at in questions)]
            )
        text = horizon.isoformat() if isinstance(horizon, datetime) else horizon
        command = f"featurestore training-set {spine.name} -f {FEATURES} -o {made.name}"
        printed(command + (f" --known-at {text}" if text else ""), project)
        for (who, at), row in zip(questions, pq.read_table(made).to_pylist(), strict=True):
            known = at if horizon == "as_of" else horizon
            assert not isinstance(known, str)
            expected = by_hand(logs, purchases, who, at, known)
            asked += 1
            wrong += any(row[name] != value for name, value in expected.items())
            if asked % 10 == 0:  # and what the store answers
                command = f"featurestore get {FEATURES} -e user_id={who} --as-of {at.isoformat()} --json"
                answer = json.loads(printed(command + (f" --known-at {text}" if text else ""), project))
                online = [column["values"][0] for column in answer["results"]][1:]
                wrong += online != [
                    str(one) if isinstance(one, Decimal) else one for one in expected.values()
                ]
            values.update(expected.items())
    assert wrong == 0
    assert asked >= 200 and len(values) > 100
