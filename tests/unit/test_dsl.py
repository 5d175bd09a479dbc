"""Declarations: the names that features get, and what is refused while a file of them is read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from featurestore import (
    CSV,
    DuckDBTable,
    Entity,
    EventSource,
    FeatureService,
    FeatureView,
    JSONLines,
    KafkaTopic,
    Parquet,
    agg,
)
from featurestore.errors import DefinitionError

CARD = Entity("card", key="card")


def source(**parts: Any) -> EventSource:
    return EventSource(**{"name": "tx", "log": Parquet("data/*.parquet"), "event_time": "ts", **parts})


def view(*features: Any, name: str = "v", **parts: Any) -> FeatureView:
    return FeatureView(name, **{"entity": CARD, "source": source(), "features": [*features], **parts})


def refused(declare: Callable[[], object]) -> str:
    """The first line of the error of a declaration; it has a hint."""
    with pytest.raises(DefinitionError) as caught:
        declare()
    assert caught.value.hint
    return str(caught.value).splitlines()[0]


@pytest.mark.parametrize(
    ("feature", "names"),
    [
        (agg.count(windows=["5m", "1h"]), ["count_5m", "count_1h"]),
        (agg.count(), ["count"]),
        (agg.count("amount", windows="7d"), ["amount_count_7d"]),
        (agg.sum("amount", windows=["7d"]), ["amount_sum_7d"]),
        (agg.mean("amount"), ["amount_mean"]),
        (agg.variance("amount"), ["amount_variance"]),
        (agg.variance("amount", sample=True), ["amount_variance_sample"]),
        (agg.variance("amount", sample=False), ["amount_variance"]),
        (agg.stddev("amount", sample=True, windows="1d"), ["amount_stddev_sample_1d"]),
        (agg.skew("amount"), ["amount_skew"]),
        (agg.kurtosis("amount"), ["amount_kurtosis"]),
        (agg.min("amount"), ["amount_min"]),
        (agg.max("amount"), ["amount_max"]),
        (agg.first("country"), ["country_first"]),
        (agg.last("country"), ["country_last"]),
        (agg.first_k("country", k=3), ["country_first_3"]),
        (agg.last_k("country", k=5, windows="1d"), ["country_last_5_1d"]),
        (agg.min_by("country", order="amount"), ["country_min_by_amount"]),
        (agg.max_by("country", order="amount", windows="1d"), ["country_max_by_amount_1d"]),
        (agg.top_k("amount", k=2), ["amount_top_2"]),
        (agg.bottom_k("amount", k=2), ["amount_bottom_2"]),
        (agg.count_distinct("country"), ["country_count_distinct"]),
        (agg.distinct_k("country", k=2), ["country_distinct_2"]),
        (agg.mode("country"), ["country_mode"]),
        (agg.histogram("country"), ["country_histogram"]),
        (agg.histogram("country", k=4), ["country_histogram_4"]),
        (agg.percentile("amount", q=0.95, windows="7d"), ["amount_p95_7d"]),
        (agg.percentile("amount", q=0.999), ["amount_p99_9"]),
        (agg.percentile("amount", q=0), ["amount_p0"]),
        (agg.percentile("amount", q=1), ["amount_p100"]),
        (agg.percentile("amount", q=1e-7), ["amount_p0_00001"]),
        (agg.time_since_first(), ["time_since_first"]),
        (agg.time_since_last("amount"), ["amount_time_since_last"]),
        (agg.bool_any("flag"), ["flag_bool_any"]),
        (agg.bool_all("flag", windows="1d"), ["flag_bool_all_1d"]),
        (agg.count(windows=["1d"], where="status = 'declined'", name="declines"), ["declines_1d"]),
        (agg.sum("amount * 2", name="twice"), ["twice"]),
        (agg.count(windows=timedelta(minutes=90)), ["count_90m"]),
        (agg.count(windows=[timedelta(days=14), "05m"]), ["count_2w", "count_5m"]),
        (agg.count(windows="250us", delay="1h"), ["count_250us"]),
    ],
)
def test_a_feature_is_named_by_column_operation_parameter_and_window(feature: Any, names: list[str]) -> None:
    assert [name for name, _ in feature.feature_names()] == names


@pytest.mark.parametrize(
    ("windows", "fact"),
    [
        ("5 minutes", 'window "5 minutes" is not a span of time'),
        ("0m", 'window "0m" is empty'),
        ("-1h", 'window "-1h" is not a span of time'),
        ("5M", 'window "5M" is not a span of time'),
        ("1.5h", 'window "1.5h" is not a span of time'),
        ("\u0665m", 'window "\u0665m" is not a span of time'),
        ("", 'window "" is not a span of time'),
        ("999999999999999999d", 'window "999999999999999999d" is longer than time itself'),
        ("9" * 5000 + "d", f'window "{"9" * 40}..." is longer than time itself'),
        (timedelta.max, 'window "999999999 days, 23:59:59.999999" is longer than time itself'),
        (timedelta(0), 'window "0s" is empty'),
        (timedelta(days=-1), 'window "-1d" is empty'),
        (1e30, "windows=1e+30 is not a list of windows"),
        (5, "windows=5 is not a list of windows"),
        ({"5m"}, "windows={'5m'} is not a list of windows"),
        ([], "windows=[] names no window"),
        ([None], "window None is not a span of time"),
        (["5m", "05m"], "a window is named twice"),
    ],
)
def test_what_is_no_window_is_refused(windows: Any, fact: str) -> None:
    assert refused(lambda: agg.count(windows=windows)) == fact


@pytest.mark.parametrize(
    ("declare", "fact"),
    [
        (lambda: agg.count(delay="-1h"), 'delay "-1h" is not a span of time'),
        (lambda: agg.count(delay=timedelta(hours=-1)),
         "agg.count: delay=datetime.timedelta(days=-1, seconds=82800) is negative"),
        (lambda: agg.count(delay=timedelta.max),
         'delay "999999999 days, 23:59:59.999999" is longer than time itself'),
        (lambda: agg.count(delay=5), "delay 5 is not a span of time"),
        (lambda: agg.percentile("a"), "agg.percentile needs q="),
        (lambda: agg.percentile("a", q=2), "agg.percentile: q=2 is not a quantile"),
        (lambda: agg.percentile("a", q="0.5"), "agg.percentile: q='0.5' is not a quantile"),
        (lambda: agg.percentile("a", q=True), "agg.percentile: q=True is not a quantile"),
        (lambda: agg.percentile("a", q=float("nan")), "agg.percentile: q=nan is not a quantile"),
        (lambda: agg.last_k("a"), "agg.last_k needs k="),
        (lambda: agg.last_k("a", k=0), "agg.last_k: k=0 is not a number of values"),
        (lambda: agg.last_k("a", k=1.5), "agg.last_k: k=1.5 is not a number of values"),
        (lambda: agg.last_k("a", k=True), "agg.last_k: k=True is not a number of values"),
        (lambda: agg.variance("a", sample=1), "agg.variance: sample=1 is not a boolean"),
        (lambda: agg.max_by("a"), "agg.max_by needs order="),
        (lambda: agg.max_by("a", order=5), "agg.max_by: order=5 is not an expression"),
        (lambda: agg.sum("a", k=5), "agg.sum has no parameter k="),
        (lambda: agg.sum("a", window="5m"), "agg.sum has no parameter window="),
        (lambda: agg.sum(), "agg.sum needs a column"),
        (lambda: agg.sum(5), "agg.sum: column=5 is not an expression"),
        (lambda: agg.sum(" "), "agg.sum: column=' ' is not an expression"),
        (lambda: agg.count(where=5), "agg.count: where=5 is not an expression"),
        (lambda: agg.count(name="a b"), "feature name 'a b' can't be used"),
        (lambda: agg.count(name="5m"), "feature name '5m' can't be used"),
        (lambda: agg.count(name=5), "feature name 5 can't be used"),
        (lambda: agg.count(name="x" * 201), f"feature name {'x' * 40}... is longer than 200 characters"),
    ],
)  # fmt: skip
def test_parameters_of_an_operation_are_checked(declare: Callable[[], object], fact: str) -> None:
    assert refused(declare) == fact


def test_an_unknown_operation_is_answered_with_those_there_are() -> None:
    with pytest.raises(AttributeError, match=r'no operation "summ"; operations are .*did you mean "sum"'):
        agg.summ  # noqa: B018


@pytest.mark.parametrize(
    ("declare", "fact"),
    [
        (lambda: view(agg.sum("a"), agg.sum("a")), 'feature view "v" has two features named "a_sum"'),
        (lambda: view(agg.sum("a"), agg.count(name="a_sum")),
         'feature view "v" has two features named "a_sum"'),
        (lambda: view(agg.sum("a + 1")), 'feature view "v": agg.sum("a + 1") needs a name of its own'),
        (lambda: view(agg.max_by("a", order="b + 1")),
         'feature view "v": agg.max_by("b + 1") needs a name of its own'),
        (lambda: view(), 'feature view "v" has no features'),
        (lambda: view(features=None), 'feature view "v": features=None is not a list'),
        (lambda: view(5), 'feature view "v": 5 is not a feature'),
        (lambda: view(agg.count(), entity="card"), "feature view \"v\": entity 'card' is not an Entity"),
        (lambda: view(agg.count(), source="tx"), "feature view \"v\": source 'tx' is not a source"),
        (lambda: view(agg.count(), name="a__b"), 'feature view "a__b" has __ in its name'),
        (lambda: view(agg.count(), name="a_"), 'feature view "a_" ends with _'),
        (lambda: view(agg.count(), name="a-b"), "feature view name 'a-b' can't be used"),
        (lambda: view(agg.count(), name="v@1"), "feature view name 'v@1' can't be used"),
        (lambda: view(agg.count(), tags=5), 'feature view "v": tags=5 are not names with texts'),
        (lambda: view(agg.count())["cuont"], 'feature view "v" has no feature "cuont"'),
        (lambda: view(agg.count())[0], 'feature view "v" has no feature "0"'),
        (lambda: FeatureService("s", features=[]), 'feature service "s" has no features'),
        (lambda: FeatureService("s", features=None), 'feature service "s": None is not a feature'),
        (lambda: FeatureService("s", features=[5]), 'feature service "s": 5 is not a feature'),
        (lambda: FeatureService("s", features=[(5,)]), 'feature service "s": (5,) is not a feature'),
        (lambda: FeatureService("s", features=["v"], owner=5), 'feature service "s": owner=5 is not text'),
        (lambda: Entity("e", key=[]), 'entity "e" has no key'),
        (lambda: Entity("e", key=None), 'entity "e" has no key'),
        (lambda: Entity("e", key=5), 'entity "e": 5 is not a column name'),
        (lambda: Entity("e", key=["a", ""]), "entity \"e\": '' is not a column name"),
        (lambda: Entity("e", key=["a", "a"]), 'entity "e": a column is named twice in a, a'),
        (lambda: Entity("a b", key="a"), "entity name 'a b' can't be used"),
        (lambda: Entity("e", key="a", tags={"a": 5}), "entity \"e\": tags={'a': 5} are not names with texts"),
        (lambda: source(event_time=""), 'source "tx" has no event_time'),
        (lambda: source(event_time=5), 'source "tx" has no event_time'),
        (lambda: source(log=None), 'source "tx" has no log'),
        (lambda: source(log="data/*.parquet"), "source \"tx\": log 'data/*.parquet' is not a log"),
        (lambda: source(id=5), 'source "tx", id: 5 is not a column name'),
        (lambda: source(id=["a", "a"]), 'source "tx", id: a column is named twice in a, a'),
        (lambda: source(order_by=["n"]), "source \"tx\": order_by=['n'] is not a column name"),
        (lambda: source(version=5), 'source "tx": version=5 is not a column name'),
        (lambda: source(time_unit="x"), "source \"tx\": time_unit='x' is not a unit"),
        (lambda: source(timezone=None), 'source "tx": timezone=None is not a time zone'),
        (lambda: source(columns="n"), 'source "tx": columns is text'),
        (lambda: source(columns=5), 'source "tx", columns: 5 is not a column name'),
        (lambda: source(columns={"n": 5}), "source \"tx\": columns={'n': 5} are not names with types"),
        (lambda: source(columns={5: "int64"}),
         "source \"tx\": columns={5: 'int64'} are not names with types"),
        (lambda: source(id="id", topic="t"), "source \"tx\": topic 't' is not a topic"),
        (lambda: source(topic=KafkaTopic("t")), 'source "tx" has a topic but no id'),
        (lambda: source(tags={"a": object}),
         "source \"tx\": tags={'a': <class 'object'>} are not names with texts"),
        (lambda: source(description=5), 'source "tx": description=5 is not text'),
        (lambda: KafkaTopic(""), "topic name '' can't be used"),
        (lambda: Parquet(""), "Parquet: path='' is not a path"),
        (lambda: Parquet([]), "Parquet: path=[] is not a path"),
        (lambda: JSONLines(None), "JSONLines: path=None is not a path"),
        (lambda: Parquet("x", hive_partitioning="x"), "Parquet: hive_partitioning='x' is not a choice"),
        (lambda: CSV("x", delimiter=";;"), "CSV: delimiter=';;' is not one ASCII character"),
        (lambda: CSV("x", header=False), "CSV: without a header the columns have no names"),
        (lambda: DuckDBTable("x", ""), "DuckDBTable: table='' is not a table's name"),
    ],
)  # fmt: skip
def test_declarations_are_checked_when_they_are_made(declare: Callable[[], object], fact: str) -> None:
    assert refused(declare) == fact


def test_no_two_features_share_a_result_column() -> None:
    # A view's name has no __ and no _ at its end, so the first __ of a column is where the feature begins.
    named = view(agg.count(name="_b"), agg.count(name="b__c"), name="a")
    assert [f"a__{name}".partition("__")[2] for name in named.feature_names()] == ["_b", "b__c"]
