"""A marketplace's database and what Debezium's PostgreSQL connector writes of it, one log for each table;
and the shop's own log of purchases.

Time: a change is committed at ``source.ts_ms`` and seen by the connector at the envelope's ``ts_ms``, a
second or so later; what was committed while the connector was down it saw when it came back.

The traffic is drawn from a seed; two people, Maya (u7) and Ben (u8), do what is written down here and nothing
else. The same files are made on every machine.
"""

from __future__ import annotations

import heapq
import json
import random
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TypeAlias

Row: TypeAlias = dict[str, object]
Change: TypeAlias = tuple[str, str, Row | None, Row | None]
"""The table, the operation, the row before and the row after."""

HERE = Path(__file__).parent
KEYS = {"users": "user_id", "orders": "order_id", "tickets": "ticket_id"}
COUNTRIES = ("NL", "NL", "DE", "FR", "US")
CATEGORIES = ("books", "garden", "music", "tools")
USERS, SELLERS, ORDERS, TICKETS = 60, 12, 700, 240

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BEGIN = datetime(2025, 11, 1, tzinfo=UTC)
SNAPSHOT = datetime(2026, 1, 5, tzinfo=UTC)  # when the connector came to read the tables as they were
DOWN, UP = datetime(2026, 2, 10, 9, tzinfo=UTC), datetime(2026, 2, 10, 20, tzinfo=UTC)
MOVED = datetime(2026, 2, 24, 3, tzinfo=UTC)  # when the help desk emptied its table and loaded it again
MERGED = datetime(2026, 3, 10, 12, tzinfo=UTC)
END = datetime(2026, 4, 1, tzinfo=UTC)
FOUND = datetime(2026, 4, 2, 9, tzinfo=UTC)  # when a message that was lost is read from the database's log
REPEATED = 40  # messages that the connector writes again after it was down


class Market:
    """The database, transaction by transaction, and the connector behind it."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.tables: dict[str, dict[object, Row]] = {table: {} for table in KEYS}
        self.messages: dict[str, list[Row | None]] = {table: [] for table in KEYS}
        self.purchases: list[Row | None] = []  # what the shop's own event log has, besides the tables
        self.lsn = self.committed_lsn = 23_000_000
        self.transaction = 800
        self._due: list[tuple[datetime, int, Callable[[datetime], None]]] = []
        self._numbers = count()
        self._last_seen = SNAPSHOT
        self._repeated = False

    def at(self, moment: datetime, action: Callable[[datetime], None]) -> None:
        """Do it then."""
        heapq.heappush(self._due, (moment, next(self._numbers), action))

    def run(self) -> None:
        self.at(SNAPSHOT, self._snapshot)
        while self._due and self._due[0][0] < END:
            moment, _, action = heapq.heappop(self._due)
            action(moment)

    def within(self, span: timedelta) -> timedelta:
        return timedelta(milliseconds=int(self.draw.random() * (span / timedelta(milliseconds=1))))

    def one_of(self, choices: tuple[str, ...]) -> str:
        return choices[int(self.draw.random() * len(choices))]

    def insert(self, table: str, row: Row) -> Change:
        self.tables[table][row[KEYS[table]]] = row
        return table, "c", None, row

    def purchase(self, t: datetime, row: Row) -> Change:
        """An order is placed: an event, and a row of the table."""
        if t >= SNAPSHOT:
            names = ("order_id", "user_id", "seller_id", "placed_at", "amount")
            logged = {"logged_at": text(t + timedelta(seconds=1))}
            self.purchases.append({name: row[name] for name in names} | logged)
        return self.insert("orders", row)

    def update(self, table: str, key: object, **columns: object) -> list[Change]:
        """The row with other values, in place. Another primary key is a delete and a create, as Debezium
        writes it. A row that is not there is not updated."""
        before = self.tables[table].get(key)
        if before is None:
            return []
        after = before | columns
        if after[KEYS[table]] != key:
            return [*self.delete(table, key), self.insert(table, after)]
        self.tables[table][key] = after
        return [(table, "u", before, after)]

    def delete(self, table: str, key: object) -> list[Change]:
        before = self.tables[table].pop(key, None)
        return [] if before is None else [(table, "d", before, None)]

    def truncate(self, table: str) -> Change:
        self.tables[table].clear()
        return table, "t", None, None

    def commit(self, moment: datetime, *changes: Change, lsn: int | None = None) -> None:
        """One transaction. With ``lsn`` it began there, before others that are committed already."""
        if not changes:
            return
        self.transaction += 1
        own = self.lsn if lsn is None else lsn
        for table, op, before, after in changes:
            own += 56
            self._write(moment, table, op, before, after, own)
        self.lsn = max(self.lsn, own) + 200
        self.committed_lsn = self.lsn

    def _write(
        self, moment: datetime, table: str, op: str, before: Row | None, after: Row | None, lsn: int
    ) -> None:
        if moment < SNAPSHOT:
            return
        seen = moment + timedelta(milliseconds=200 + int(self.draw.random() * 1800))
        if DOWN <= moment < UP:
            seen = UP + timedelta(minutes=5)
        self._last_seen = seen = max(seen, self._last_seen)
        if seen >= UP and not self._repeated:
            self._repeat()
        message = self._envelope(moment, seen, table, op, before, after, lsn, "false")
        self.messages[table].append(message)
        if op == "d":
            self.messages[table].append(None)

    def _snapshot(self, moment: datetime) -> None:
        for table, rows in self.tables.items():
            for row in rows.values():
                message = self._envelope(moment, moment + HOUR / 60, table, "r", None, row, self.lsn, "true")
                self.messages[table].append(message)

    def _repeat(self) -> None:
        """A connector that was down does not know how far it had come, and begins a little before."""
        self._repeated = True
        again = round((UP + timedelta(minutes=1)).timestamp() * 1000)
        for messages in self.messages.values():
            messages += [message and message | {"ts_ms": again} for message in messages[-REPEATED:]]

    def _envelope(
        self,
        moment: datetime,
        seen: datetime,
        table: str,
        op: str,
        before: Row | None,
        after: Row | None,
        lsn: int,
        snapshot: str,
    ) -> Row:
        last = None if snapshot == "true" else str(self.committed_lsn)
        source = {
            "version": "3.2.0.Final",
            "connector": "postgresql",
            "name": "market",
            "ts_ms": round(moment.timestamp() * 1000),
            "snapshot": snapshot,
            "db": "market",
            "sequence": json.dumps([last, str(lsn)], separators=(",", ":")),
            "schema": "public",
            "table": table,
            "txId": self.transaction,
            "lsn": lsn,
            "xmin": None,
        }
        clock = round(seen.timestamp() * 1000)
        return {"before": before, "after": after, "source": source, "op": op, "ts_ms": clock}


# What happens


def text(moment: datetime) -> str:
    """As the connector writes a ``timestamptz``."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def order(number: int, user: str, seller: str, moment: datetime, amount: str, category: str) -> Row:
    return {
        "order_id": number,
        "user_id": user,
        "seller_id": seller,
        "placed_at": text(moment),
        "status": "open",
        "category": category,
        "amount": amount,
        "paid": "0.00",
        "rating": None,
    }


def ticket(number: int, user: str, moment: datetime, topic: str) -> Row:
    opened = {"ticket_id": number, "user_id": user, "opened_at": text(moment)}
    return opened | {"topic": topic, "status": "open"}


def user(name: str, moment: datetime, country: str) -> Row:
    return {"user_id": name, "country": country, "tier": "free", "joined_at": text(moment)}


def people(market: Market) -> None:
    """Users join, move, leave, and sometimes come back."""
    for number in range(1, USERS + 1):
        name = f"u{number}"
        if name in ("u7", "u8"):
            continue
        joined = BEGIN + market.within(120 * DAY if number % 3 == 0 else 50 * DAY)
        country = market.one_of(COUNTRIES)
        market.at(joined, lambda t, n=name, c=country: _join(market, t, n, c))
        if market.draw.random() < 0.4:
            other = market.one_of(COUNTRIES)
            market.at(
                joined + market.within(100 * DAY),
                lambda t, n=name, c=other: market.commit(t, *market.update("users", n, country=c)),
            )
        if market.draw.random() < 0.15:
            left = joined + 30 * DAY + market.within(60 * DAY)
            market.at(left, lambda t, n=name: market.commit(t, *market.delete("users", n)))
            if market.draw.random() < 0.5:  # and joins again, under the same id
                again = left + market.within(9 * DAY)
                market.at(again, lambda t, n=name, c=country: _join(market, t, n, c))
    market.at(MERGED - HOUR, lambda t: _merge(market, t))


def _join(market: Market, moment: datetime, name: str, country: str) -> None:
    market.commit(moment, market.insert("users", user(name, moment, country)))


def _merge(market: Market, began: datetime) -> None:
    """u1 and u2 turn out to be one: u2's orders become u1's, in a transaction that takes an hour."""
    market.lsn += 200
    lsn = market.lsn

    def end(moment: datetime) -> None:
        orders = [key for key, row in market.tables["orders"].items() if row["user_id"] == "u2"]
        changes = [change for key in orders for change in market.update("orders", key, user_id="u1")]
        market.commit(moment, *changes, *market.delete("users", "u2"), lsn=lsn)

    market.lsn += 100_000  # what it writes lies before what others commit meanwhile
    market.at(began + HOUR, end)


def someone(market: Market) -> str:
    while True:
        name = f"u{1 + int(market.draw.random() ** 1.5 * USERS)}"
        if name not in ("u7", "u8"):
            return name


def purchases(market: Market) -> None:
    """Orders are placed, changed, paid, delivered, rated; or cancelled, removed, handed to somebody else."""

    def update(moment: datetime, number: int, **columns: object) -> None:
        market.at(moment, lambda t: market.commit(t, *market.update("orders", number, **columns)))

    for number in range(1, ORDERS + 1):
        placed = BEGIN + market.within(END - BEGIN)
        amount = f"{5 + market.draw.random() ** 3 * 400:.2f}"
        row = order(
            number,
            someone(market),
            f"s{1 + int(market.draw.random() ** 2 * SELLERS)}",
            placed,
            amount,
            market.one_of(CATEGORIES),
        )
        market.at(placed, lambda t, row=row: market.commit(t, market.purchase(t, row)))
        fate = market.draw.random()
        delivered = placed + DAY + market.within(12 * DAY)
        if fate < 0.75:
            update(placed + market.within(20 * HOUR), number, paid=amount)
            update(delivered, number, status="delivered")
            if fate < 0.55:
                stars = 1 + int(market.draw.random() ** 0.5 * 5)
                update(delivered + market.within(9 * DAY), number, rating=stars)
        elif fate < 0.82:
            market.at(delivered, lambda t, n=number, a=amount: _cancel(market, t, n, a))
        elif fate < 0.88:
            market.at(delivered, lambda t, n=number: _remove(market, t, n))
        elif fate < 0.94:
            update(placed + market.within(20 * HOUR), number, amount=f"{float(amount) * 1.1:.2f}")
            update(delivered, number, user_id=someone(market))
        elif fate < 0.96:
            update(delivered, number, order_id=number + 10_000)  # numbered anew: another primary key


def _cancel(market: Market, moment: datetime, number: int, amount: str) -> None:
    """Three changes of one row in one transaction; the last one counts."""
    changes = market.update("orders", number, paid=amount)
    changes += market.update("orders", number, paid="0.00")
    changes += market.update("orders", number, status="cancelled", amount="0.00")
    market.commit(moment, *changes)


def _remove(market: Market, moment: datetime, number: int) -> None:
    """A row is deleted, and often restored from the bin."""
    row = market.tables["orders"].get(number)
    market.commit(moment, *market.delete("orders", number))
    if row is not None and market.draw.random() < 0.5:
        again = moment + market.within(3 * DAY)
        market.at(again, lambda t: market.commit(t, market.insert("orders", row)))


def complaints(market: Market) -> None:
    """Tickets are opened and closed; one night the table is truncated and what is open loaded again."""
    for number in range(1, TICKETS + 1):
        opened = BEGIN + market.within(END - BEGIN)
        row = ticket(number, someone(market), opened, market.one_of(("delivery", "payment", "quality")))
        market.at(opened, lambda t, row=row: market.commit(t, market.insert("tickets", row)))
        if market.draw.random() < 0.85:
            market.at(
                opened + market.within(15 * DAY),
                lambda t, n=number: market.commit(t, *market.update("tickets", n, status="closed")),
            )
    market.at(MOVED, lambda t: _reload(market, t))


def _reload(market: Market, moment: datetime) -> None:
    still_open = [row for row in market.tables["tickets"].values() if row["status"] == "open"]
    emptied = market.truncate("tickets")
    market.commit(moment, emptied, *(market.insert("tickets", row) for row in still_open))


def maya_and_ben(market: Market) -> None:
    """What docs/marketplace.md follows: order 5001, which Maya placed and Ben was handed."""

    def on(day: str, clock: str, action: Callable[[datetime], None]) -> None:
        market.at(datetime.fromisoformat(f"2026-{day}T{clock}:00+00:00"), action)

    def change(table: str, key: object, **columns: object) -> Callable[[datetime], None]:
        return lambda t: market.commit(t, *market.update(table, key, **columns))

    def add(table: str, row: Callable[[datetime], Row]) -> Callable[[datetime], None]:
        return lambda t: market.commit(t, market.insert(table, row(t)))

    def place(row: Callable[[datetime], Row]) -> Callable[[datetime], None]:
        return lambda t: market.commit(t, market.purchase(t, row(t)))

    for name in ("u7", "u8"):
        market.at(BEGIN, add("users", lambda t, n=name: user(n, t, "NL")))
    on("01-02", "12:00", place(lambda t: order(5000, "u7", "s3", t, "40.00", "books")))
    on("02-02", "09:00", place(lambda t: order(5001, "u7", "s3", t, "120.00", "garden")))
    on("02-05", "14:00", change("orders", 5001, amount="150.00"))
    on("02-09", "18:00", change("orders", 5000, paid="40.00"))  # the message gets lost
    on("02-10", "10:00", change("orders", 5001, paid="50.00"))
    on("02-10", "11:00", change("users", "u7", country="DE"))
    on("02-10", "15:00", place(lambda t: order(5002, "u7", "s3", t, "25.00", "books") | {"paid": "25.00"}))
    on("02-14", "12:00", change("orders", 5001, user_id="u8"))
    on("02-20", "16:00", lambda t: market.commit(t, *market.delete("orders", 5001)))
    on("02-03", "08:00", add("tickets", lambda t: ticket(901, "u7", t, "delivery")))


VISITS = """\
user_id,seller_id,ts
u7,s3,2026-02-04T12:00:00Z
u7,s3,2026-02-06T12:00:00Z
u7,s3,2026-02-10T12:00:00Z
u7,s3,2026-02-12T12:00:00Z
u7,s3,2026-02-16T12:00:00Z
u8,s3,2026-02-16T12:00:00Z
u8,s3,2026-02-22T12:00:00Z
""".splitlines()


def lost(market: Market) -> list[Row]:
    """What Maya paid on 9 February, taken out of the log."""

    def is_it(message: Row | None) -> bool:
        after = message and message["after"]
        return isinstance(after, dict) and after["order_id"] == 5000 and after["paid"] == "40.00"

    orders = market.messages["orders"]
    found = [message for message in orders if message is not None and is_it(message)]
    market.messages["orders"] = [message for message in orders if not is_it(message)]
    return [found[0] | {"ts_ms": round(FOUND.timestamp() * 1000)}]


def generate(directory: Path) -> dict[str, int]:
    """Write the logs, a message that comes late, and two spines into ``directory``; returns how many messages
    or events each log has."""
    market = Market(seed=2026)
    for act in (people, purchases, complaints, maya_and_ben):
        act(market)
    market.run()
    late = lost(market)
    directory.mkdir(parents=True, exist_ok=True)
    for table, messages in (*market.messages.items(), ("purchases", market.purchases), ("late", late)):
        lines = (json.dumps(message, separators=(",", ":")) for message in messages)
        (directory / f"{table}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    for name, lines in {"spine": spine(market), "visits": VISITS}.items():
        (directory / f"{name}.csv").write_text("".join(f"{line}\n" for line in lines))
    return {
        table: len(messages)
        for table, messages in (*market.messages.items(), ("purchases", market.purchases))
    }


def spine(market: Market) -> list[str]:
    """Visits to the checkout: who, of which seller, when."""
    lines = ["user_id,seller_id,ts"]
    moment = SNAPSHOT + 10 * DAY
    while (moment := moment + market.within(8 * HOUR)) < END:
        name = ("u7", "u8", someone(market))[int(market.draw.random() * 3)]
        lines.append(f"{name},s{1 + int(market.draw.random() ** 2 * SELLERS)},{text(moment)}")
    return lines


if __name__ == "__main__":
    for table, messages in generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "data").items():
        print(f"{table}: {messages:,} {'events' if table == 'purchases' else 'messages'}")
