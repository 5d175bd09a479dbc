"""The project that ``init`` writes: two weeks of card transactions, the same on every machine.

Every event time is before 2026-01-15T00:00:00Z; the printed commands ask as of that instant.
"""

from __future__ import annotations

import random
import shlex
from datetime import datetime, timedelta

CARDS = 8
DAYS = 14
BEGIN = datetime(2026, 1, 1)  # noqa: DTZ001 - a UTC instant, written with Z below
END = "2026-01-15T00:00:00Z"

FEATURES_PY = '''\
"""What this project computes: card transactions, and features of a card for a fraud model."""

from featurestore import CSV, Entity, EventSource, FeatureService, FeatureView, agg

card = Entity("card", key="card_id")

transactions = EventSource(
    "transactions",
    log=CSV("data/transactions.csv"),
    event_time="ts",
    id="transaction_id",  # the same id again is a duplicate, with other content a correction
    available_at="recorded_at",  # when we could first have known it
    columns={
        "transaction_id": "string",
        "card_id": "string",
        "ts": "timestamp",
        "amount": "float64",
        "category": "string",
        "country": "string",
        "status": "string",
        "recorded_at": "timestamp",
    },
)

card_activity = FeatureView(
    "card_activity",
    entity=card,
    source=transactions,
    features=[
        agg.count(windows=["5m", "1h", "7d"]),
        agg.sum("amount", windows=["1h", "7d"]),
        agg.mean("amount", windows=["7d"]),
        agg.count(windows=["1d"], where="status = 'declined'", name="declines"),
        agg.last("country"),
    ],
)

fraud_model = FeatureService("fraud_model", features=[card_activity])
'''

SETTINGS_TOML = """\
# Settings of this project. Every line that is commented out shows its default, and the file may be left out.
# The environment overrides it: FEATURESTORE_SERVING__PORT=8080 is `port` of [serving].

# features = "features.py"  # the declarations

[store]
# url = ".featurestore/store.db"  # a path beside this file, or a database's URL

[engine]
# threads = 0  # of the kernel; 0: one a core

[serving]
# host = "127.0.0.1"  # this machine only
# port = 8000
# max_entities = 1000  # that one request may ask for
"""


def files() -> dict[str, str]:
    """Every file of the project: its path and its text."""
    draw = random.Random(20260101)
    transactions = ["transaction_id,card_id,ts,amount,category,country,status,recorded_at"]
    spine = ["card_id,ts,is_fraud"]
    moment = BEGIN
    for number in range(1, 601):
        moment += timedelta(microseconds=int(draw.random() * 2 * DAYS * 86_400_000_000 / 620))
        card = f"c{1 + int(draw.random() * CARDS)}"
        amount = 1 + int(draw.random() ** 3 * 50_000)
        category = ("grocery", "fuel", "travel", "online")[int(draw.random() * 4)]
        country = ("NL", "NL", "NL", "DE", "FR", "US")[int(draw.random() * 6)]
        status = "declined" if draw.random() < 0.1 else "approved"
        # most are known within seconds, some a day late
        recorded = moment + (timedelta(days=1) if draw.random() < 0.05 else timedelta(seconds=2))
        at, recorded_at = (f"{time.isoformat(timespec='microseconds')}Z" for time in (moment, recorded))
        purchase = f"t{number:04},{card},{at},{amount / 100:.2f},{category},{country},{status}"
        transactions.append(f"{purchase},{recorded_at}")
        if number % 6 == 0:
            spine.append(f"{card},{at},{int(amount > 30_000)}")
    return {
        "features.py": FEATURES_PY,
        "featurestore.toml": SETTINGS_TOML,
        "data/transactions.csv": "\n".join(transactions) + "\n",
        "spine.csv": "\n".join(spine) + "\n",
    }


def next_commands(directory: str | None) -> list[str]:
    """What to type next; ``directory`` is where the project was written, None for here."""
    enter = [] if directory is None else [f"cd {shlex.quote(directory)}"]
    return [
        *enter,
        "featurestore plan",
        "featurestore apply",
        "featurestore backfill",
        "featurestore training-set spine.csv -f fraud_model -o train.parquet",
        f"featurestore get fraud_model --entity card_id=c1 --as-of {END}",
        "featurestore serve",
    ]
