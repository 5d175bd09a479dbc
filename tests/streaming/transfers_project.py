"""Transfers between ten accounts: a topic of them, two views over it (by debtor, by creditor), a server, and
what it answers of all accounts in one request.

Time: every transfer lies before ``AS_OF``, a second after the one before it.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import httpx

from tests.services.kafka import Broker

ACCOUNTS = tuple(f"account-{number}" for number in range(10))
AS_OF = "2026-04-10T00:00:00Z"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

FEATURES_PY = """
from featurestore import Entity, EventSource, FeatureView, KafkaTopic, agg

transfers = EventSource(
    "transfers", topic=KafkaTopic("{topic}"), event_time="ts", id="transfer_id",
    columns={{"transfer_id": "int64", "debtor": "string", "creditor": "string", "ts": "timestamp",
              "cents": "int64", "amount": "decimal(12, 3)"}},
)
sums = [agg.count(name="n"), agg.sum("cents"), agg.sum("amount")]
debits = FeatureView("debits", entity=Entity("debtor", key="debtor"), source=transfers, features=sums)
credits = FeatureView("credits", entity=Entity("creditor", key="creditor"), source=transfers, features=sums)
"""

SETTINGS = """
[streaming]
bootstrap_servers = "{bootstrap}"
group = "{topic}"
instance = "test"
poll_timeout_s = 0.05
[engine]
threads = 1
"""

VIEWS = ("debits", "credits")
SUMS = ("n", "cents_sum", "amount_sum")


@dataclass(frozen=True)
class Balance:
    """What one answer says of all accounts: how many transfers were debited and credited, how much more was
    credited than debited, and the commit that it is of."""

    debited: int
    credited: int
    cents: int
    amount: Decimal
    store_commit: int

    @property
    def is_whole(self) -> bool:
        return self.debited == self.credited and self.cents == 0 and self.amount == 0


def project(root: Path, broker: Broker, topic: str, store_url: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "features.py").write_text(FEATURES_PY.format(topic=topic))
    settings = SETTINGS.format(bootstrap=broker.bootstrap, topic=topic)
    (root / "featurestore.toml").write_text(f'{settings}[store]\nurl = "{store_url}"\n')
    return root


def transfers(seed: int, first: int, count: int) -> list[bytes]:
    """Transfers ``first`` and on, as a producer sends them."""
    made = []
    for number in range(first, first + count):
        draw = random.Random(f"{seed}/{number}")
        debtor, creditor = draw.sample(ACCOUNTS, 2)
        made.append(
            json.dumps(
                {
                    "transfer_id": number,
                    "debtor": debtor,
                    "creditor": creditor,
                    "ts": (BEGIN + timedelta(seconds=number)).isoformat(),
                    "cents": draw.randint(1, 10**12),
                    "amount": f"{draw.randint(1, 10**8)}.{draw.randrange(1000):03}",
                }
            ).encode()
        )
    return made


def moved(values: Sequence[bytes]) -> dict[str, tuple[int, int, Decimal]]:
    """Account -> how many transfers it has more as creditor than as debtor, and what it gained by them."""
    made = dict.fromkeys(ACCOUNTS, (0, 0, Decimal(0)))
    for value in values:
        one = json.loads(value)
        for account, sign in ((one["creditor"], 1), (one["debtor"], -1)):
            n, cents, amount = made[account]
            made[account] = (n + sign, cents + sign * one["cents"], amount + sign * Decimal(one["amount"]))
    return made


def command(root: Path, *arguments: str) -> list[str]:
    code = "from featurestore.cli import main; raise SystemExit(main())"
    return [sys.executable, "-c", code, "-C", str(root), *arguments]


@contextmanager
def served(root: Path) -> Iterator[httpx.Client]:
    """A server process over the project, ready; a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command(root, "serve", "--port", str(port)), stdout=log, stderr=log)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
                _until_ready(client, process)
                yield client
        finally:
            process.terminate()
            process.wait(60)


def _until_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 240
    while True:
        assert process.poll() is None and time.monotonic() < deadline_s
        try:
            if client.get("/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)


def until_it_is_answered(client: httpx.Client) -> None:
    """Views without a log are served when a worker has read what their topic held."""
    deadline_s = time.monotonic() + 60
    while client.post("/get-online-features", json=_request(VIEWS)).status_code != 200:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def gains(client: httpx.Client, views: Sequence[str] = VIEWS) -> tuple[dict[str, list[object]], int]:
    """``view__feature`` -> its values by account, all from one request; and the commit that they are of."""
    answer = client.post("/get-online-features", json=_request(views))
    assert answer.status_code == 200, answer.text
    told = answer.json()
    names = told["metadata"]["feature_names"]
    values = dict(zip(names, (one["values"] for one in told["results"]), strict=True))
    return values, told["metadata"]["store_commit"]


def _request(views: Sequence[str]) -> dict[str, object]:
    return {
        "features": [f"{view}:{name}" for view in views for name in SUMS],
        "entities": {{"debits": "debtor", "credits": "creditor"}[view]: ACCOUNTS for view in views},
        "full_feature_names": True,
        "as_of": AS_OF,
    }


def balance(values: dict[str, list[object]], store_commit: int) -> Balance:
    """All accounts together; an account without transfers has null sums."""

    def total(name: str, kind: type[int] | type[Decimal]) -> int | Decimal:
        return sum((kind(str(one)) for one in values[name] if one is not None), start=kind(0))

    return Balance(
        int(total("debits__n", int)),
        int(total("credits__n", int)),
        int(total("credits__cents_sum", int) - total("debits__cents_sum", int)),
        Decimal(total("credits__amount_sum", Decimal) - total("debits__amount_sum", Decimal)),
        store_commit,
    )
