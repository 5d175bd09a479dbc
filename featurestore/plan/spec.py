"""Plans as JSON text and back: how the registry keeps what was applied.

Expressions are kept bound, node by node, so a stored plan means the same under a later parser.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from featurestore.dsl import log
from featurestore.dsl.source import KafkaTopic
from featurestore.dsl.table_source import TableSource
from featurestore.dtypes import DType
from featurestore.errors import StoreVersionError
from featurestore.kernel import expression
from featurestore.kernel.feature import Feature
from featurestore.kernel.roles import ChangeRoles, Roles
from featurestore.plan.nodes import ChangeFormat, EntityPlan, LookupPlan, ServicePlan, SourcePlan, ViewPlan

_CLASSES: Mapping[str, type] = {
    made.__name__: made
    for made in (
        *(value for value in vars(expression).values() if isinstance(value, type) and is_dataclass(value)),
        *(value for value in vars(log).values() if isinstance(value, type) and is_dataclass(value)),
        DType, Feature, TableSource, KafkaTopic, Roles, ChangeRoles, ChangeFormat,
        EntityPlan, SourcePlan, ServicePlan, LookupPlan, ViewPlan,
    )
}  # fmt: skip


def encode(plan: ViewPlan | ServicePlan | SourcePlan) -> str:
    """A plan as JSON text."""
    return json.dumps(_encoded(plan), ensure_ascii=False, separators=(",", ":"))


def decode(text: str) -> Any:
    """The plan that ``encode`` made the text of; StoreVersionError where this version doesn't know a part of
    it."""
    return _decoded(json.loads(text))


def _encoded(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: _encoded(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, ViewPlan) and not value.lookups:
            # As written before there were lookups: a definition that means the same has the same text.
            del parts["lookups"]
        if isinstance(value, ViewPlan) and value.retention_us is None:
            del parts["retention_us"]
        return {"$": type(value).__name__, **parts}
    match value:
        case tuple():
            return {"$": "tuple", "items": [_encoded(item) for item in value]}
        case dict():
            return {"$": "dict", "items": [[key, _encoded(item)] for key, item in value.items()]}
        case list():
            return [_encoded(item) for item in value]
        case float():
            return {"$": "float", "text": repr(value)}
        case Decimal():
            return {"$": "Decimal", "text": str(value)}
        case datetime():
            return {"$": "datetime", "text": value.isoformat()}
        case date():
            return {"$": "date", "text": value.isoformat()}
        case bytes():
            return {"$": "bytes", "text": value.hex()}
        case None | bool() | int() | str():
            return value
    raise TypeError(f"{type(value).__name__} is no part of a plan")


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value["$"]
    match kind:
        case "tuple":
            return tuple(_decoded(item) for item in value["items"])
        case "dict":
            return {key: _decoded(item) for key, item in value["items"]}
        case "float":
            return float(value["text"])
        case "Decimal":
            return Decimal(value["text"])
        case "datetime":
            return datetime.fromisoformat(value["text"])
        case "date":
            return date.fromisoformat(value["text"])
        case "bytes":
            return bytes.fromhex(value["text"])
    if kind not in _CLASSES:
        raise StoreVersionError(
            f"the store holds a definition with a part this version doesn't know: {kind}",
            hint="it was applied by a newer featurestore; upgrade the package",
        )
    return _CLASSES[kind](**{key: _decoded(item) for key, item in value.items() if key != "$"})
