"""The oracle's expressions: the nodes of the expression language, interpreted one row at a time.

An expression has no clock: it says the same of a row at every time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from featurestore.dtypes import DType


@dataclass(frozen=True)
class Expression:
    """An expression over one row: the type of its values, and its value."""

    dtype: DType
    of: Callable[[Mapping[str, Any]], Any]


def expression(text: str, schema: Mapping[str, DType]) -> Expression:
    """The expression ``text`` over rows of ``schema``."""
    name = text.strip()
    return Expression(schema[name], lambda row: row[name])
