"""What is known about a user and a seller when the user stands at the checkout.

Time: a row of a table is as its last change before T left it; a window is about the row's own time. A change
was known when Debezium's connector saw it, not when it was committed.
"""

from featurestore import Entity, EventSource, FeatureService, FeatureView, JSONLines, TableSource, agg

user = Entity("user", key="user_id")
seller = Entity("seller", key="seller_id")

orders = TableSource(
    "orders",
    log=JSONLines("data/orders.jsonl"),
    format="debezium",
    primary_key="order_id",
    event_time="placed_at",
    available_at="envelope.ts_ms",
    columns={
        "order_id": "int64",
        "user_id": "string",
        "seller_id": "string",
        "placed_at": "timestamp",
        "status": "string",
        "category": "string",
        "amount": "decimal(12, 2)",
        "paid": "decimal(12, 2)",
        "rating": "int64",
    },
)

tickets = TableSource(
    "tickets",
    log=JSONLines("data/tickets.jsonl"),
    format="debezium",
    primary_key="ticket_id",
    event_time="opened_at",
    available_at="envelope.ts_ms",
)

# No time of its own: a user is as the last change left them.
users = TableSource(
    "users",
    log=JSONLines("data/users.jsonl"),
    format="debezium",
    primary_key="user_id",
    available_at="envelope.ts_ms",
)

user_orders = FeatureView(
    "user_orders",
    entity=user,
    source=orders,
    features=[
        agg.count(windows=["30d"], where="status = 'open'", name="open_orders"),
        agg.sum("amount", windows=["30d"], where="status = 'open'", name="open_amount"),
        agg.sum("amount - paid", name="balance", default=0),
        agg.max("amount"),
        agg.percentile("amount", q=0.5),
        agg.count_distinct("seller_id"),
    ],
)

user_tickets = FeatureView(
    "user_tickets",
    entity=user,
    source=tickets,
    features=[
        agg.count(where="status = 'open'", name="open_tickets"),
        agg.time_since_first(where="status = 'open'", name="oldest_open_s"),
    ],
)

user_profile = FeatureView(
    "user_profile",
    entity=user,
    source=users,
    features=[agg.last("country"), agg.last("tier")],
)

seller_record = FeatureView(
    "seller_record",
    entity=seller,
    source=orders,
    features=[
        agg.mean("rating", windows=["90d"], name="rating"),
        agg.count("rating", windows=["90d"], name="ratings"),
        agg.count_distinct("user_id", windows=["30d"], name="buyers"),
        agg.max("amount", windows=["30d"]),
        agg.percentile("amount", q=0.9, windows=["90d"]),
        agg.mean("cast(status = 'cancelled' as bigint)", windows=["90d"], name="cancelled_share"),
    ],
)

# The shop's own log of purchases, with the user's country and the seller's rating at the time of each.
purchases = (
    EventSource(
        "purchases",
        log=JSONLines("data/purchases.jsonl"),
        event_time="placed_at",
        id="order_id",
        available_at="logged_at",
        columns={
            "order_id": "int64",
            "user_id": "string",
            "seller_id": "string",
            "placed_at": "timestamp",
            "logged_at": "timestamp",
            "amount": "decimal(12, 2)",
        },
    )
    .lookup(users, on="user_id", columns=["country"])
    .lookup(seller_record, on="seller_id", columns={"seller_rating": "rating_90d"})
)

user_purchases = FeatureView(
    "user_purchases",
    entity=user,
    source=purchases,
    features=[
        agg.last("country", name="last_country"),
        agg.last("seller_rating"),
        agg.mean("seller_rating", windows=["90d"]),
        agg.sum("amount", windows=["90d"], where="country = 'DE'", name="from_germany"),
    ],
)

checkout = FeatureService(
    "checkout", features=[user_orders, user_tickets, user_profile, seller_record, user_purchases]
)
