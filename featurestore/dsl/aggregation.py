"""``agg.*``: what a feature computes, declared. One function an operation, all made from the kernel's
definitions."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from featurestore.dsl.names import checked
from featurestore.dsl.window import Window, span_us, window
from featurestore.errors import DefinitionError, suggestion
from featurestore.kernel.operations import OPERATIONS, Operation

Spans = str | timedelta | Window | Sequence[str | timedelta | Window] | None

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Aggregation:
    """One operation over one input, in one or more windows: one feature a window, or one lifetime feature.

    ``column`` is a SQL scalar expression over the source's columns, ``where`` a predicate; both are parsed
    when a project is planned.
    """

    op: str
    column: str | None
    windows: tuple[Window, ...]
    where: str | None = None
    delay_us: int = 0
    default: object = field(default=None, hash=False)
    name: str | None = None
    parameters: tuple[tuple[str, object], ...] = ()

    @property
    def operation(self) -> Operation:
        return OPERATIONS[self.op]

    def stem(self) -> str:
        """The feature's name without its window."""
        if self.name is not None:
            return self.name
        label = self.operation.label_of(dict(self.parameters))
        parts = [self.column, *(str(value) for key, value in self.parameters if key == "order")]
        for part in parts:
            if part is not None and not _IDENTIFIER.fullmatch(part):
                raise DefinitionError(
                    f'agg.{self.op}("{part}") needs a name of its own',
                    hint='an expression gives no name: add name="..."',
                )
        return label if self.column is None else f"{self.column}_{label}"

    def feature_names(self) -> tuple[tuple[str, Window | None], ...]:
        """Each feature's name and window; a lifetime feature has None."""
        stem = self.stem()
        if not self.windows:
            return ((stem, None),)
        return tuple((f"{stem}_{window.text}", window) for window in self.windows)


def _spans(windows: Spans) -> tuple[Window, ...]:
    if windows is None:
        return ()
    if isinstance(windows, str | timedelta | Window):
        windows = [windows]
    if not isinstance(windows, list | tuple):
        # A set has no order, and the order of windows is the order of columns.
        raise DefinitionError(
            f"windows={windows!r} is not a list of windows", hint='write windows=["5m", "1h"]'
        )
    made = tuple(window(item) for item in windows)
    if not made:
        raise DefinitionError("windows=[] names no window", hint="leave windows out for a lifetime feature")
    if len({item.text for item in made}) != len(made):
        raise DefinitionError("a window is named twice", hint="name each window once")
    return made


def _checked_parameter(op: str, key: str, value: object) -> object:
    label = f"agg.{op}"
    if key == "k":
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
            raise DefinitionError(
                f"{label}: k={value!r} is not a number of values", hint="k is 1 to 1,000,000"
            )
    elif key == "q":
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value <= 1
            or math.isnan(value)
        ):
            raise DefinitionError(f"{label}: q={value!r} is not a quantile", hint="q is 0 to 1, as 0.95")
        return float(value)
    elif key == "sample":
        if not isinstance(value, bool):
            raise DefinitionError(
                f"{label}: sample={value!r} is not a boolean", hint="sample is True or False"
            )
    elif key == "order" and (not isinstance(value, str) or not value.strip()):
        raise DefinitionError(
            f"{label}: order={value!r} is not an expression", hint='name a column: order="ts"'
        )
    return value


def _aggregation(
    op: str,
    column: str | None,
    *,
    windows: Spans = None,
    where: str | None = None,
    delay: str | timedelta | None = None,
    default: object = None,
    name: str | None = None,
    by: str | None = None,
    **parameters: object,
) -> Aggregation:
    operation = OPERATIONS[op]
    label = f"agg.{op}"
    if by is not None:
        raise DefinitionError(f"{label}: by= is not built yet", hint="use one feature a value, with where=")
    for key, value in parameters.items():
        if key not in operation.parameters:
            known = ["windows", "where", "delay", "default", "name", *operation.parameters]
            raise DefinitionError(
                f"{label} has no parameter {key}=", hint=suggestion(key, known, what="parameters")
            )
        parameters[key] = _checked_parameter(op, key, value)
    for key in operation.required:
        if parameters.get(key) is None:
            raise DefinitionError(f"{label} needs {key}=", hint=operation.doc)
    if operation.column == "required" and column is None:
        raise DefinitionError(f"{label} needs a column", hint=f'as agg.{op}("amount")')
    for what, text in (("column", column), ("where", where)):
        if text is not None and (not isinstance(text, str) or not text.strip()):
            raise DefinitionError(
                f"{label}: {what}={text!r} is not an expression", hint="write it as SQL text"
            )
    if name is not None:
        checked(name, "feature")
    delay_us = 0
    if delay is not None:
        _, delay_us = span_us(delay, what="delay")
        if delay_us < 0:
            raise DefinitionError(
                f"{label}: delay={delay!r} is negative", hint="a delay looks back, never ahead"
            )
    # False and None are what leaving the parameter out means: they must not make another fingerprint.
    given = ((key, parameters.get(key)) for key in operation.parameters)
    kept = tuple((key, value) for key, value in given if value is not None and value is not False)
    return Aggregation(
        op=op,
        column=None if column is None else column.strip(),
        windows=_spans(windows),
        where=None if where is None else where.strip(),
        delay_us=delay_us,
        default=default,
        name=name,
        parameters=kept,
    )


class _Aggregations:
    """The namespace ``agg``: ``agg.count(windows=["5m"])``, ``agg.sum("amount", windows="1h")``, ..."""

    def __getattr__(self, op: str):  # type: ignore[no-untyped-def]
        if op not in OPERATIONS:
            raise AttributeError(f'no operation "{op}"; {suggestion(op, OPERATIONS, what="operations")}')

        def make(column: str | None = None, **options: object) -> Aggregation:
            return _aggregation(op, column, **options)  # type: ignore[arg-type]

        make.__name__ = op
        make.__doc__ = OPERATIONS[op].doc
        return make

    def __dir__(self) -> list[str]:
        return sorted(OPERATIONS)


agg = _Aggregations()
