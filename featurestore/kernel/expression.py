"""The nodes of the expression language: small frozen values without behaviour, walked by all that read them.

An expression is a function of one row's columns; it has no clock and no state, so it says the same at every
time. ``featurestore.dsl.expression.parse`` makes nodes from SQL text; ``expression_types.bind`` gives every
literal the type of what it meets and makes each implicit conversion a ``Cast``; ``expression_eval.evaluate``
computes over Arrow. The rules are in docs/expressions.md. Declarations are made of these nodes, so nothing
heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

from featurestore.dtypes import DType

NULL = DType("null")
"""The type of a ``null`` that has not met anything yet; no bound node has it."""

POINT = DType("point")
"""The type of a number with a point that has not met anything yet: it becomes a decimal beside decimals,
else a float64. No bound node has it."""

DEEPEST = 100
"""Levels of nesting that an expression may have: a walk takes a few of Python's 1000 frames for each."""


@dataclass(frozen=True, slots=True)
class Column:
    """The row's value in the column of exactly this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant. ``value`` is None for a null, else by ``dtype``: int64 int, float64 float, decimal Decimal,
    bool bool, string and uuid str, timestamp int (microseconds since 1970 UTC), date int (days since 1970).

    The parser makes ``1.5`` a Decimal of dtype ``POINT``, ``null`` one of ``NULL``; ``bind`` settles them.
    """

    value: bool | int | float | Decimal | str | None
    dtype: DType


@dataclass(frozen=True, slots=True)
class Negate:
    """Minus ``operand``."""

    operand: Node


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """``left op right``, op one of ``+ - * / %``."""

    op: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Compare:
    """``left op right``, op one of ``= <> < <= > >=``."""

    op: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class And:
    """Three-valued and, two or more operands; from left to right, the first false is the answer."""

    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Three-valued or, two or more operands; from left to right, the first true is the answer."""

    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Three-valued not."""

    operand: Node


@dataclass(frozen=True, slots=True)
class IsNull:
    """Whether ``operand`` is null: never null itself."""

    operand: Node


@dataclass(frozen=True, slots=True)
class In:
    """``operand = item or operand = item or ...``, with the nulls of that."""

    operand: Node
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """``operand >= low and operand <= high``, with the nulls of that."""

    operand: Node
    low: Node
    high: Node


@dataclass(frozen=True, slots=True)
class Like:
    """Whether all of a string matches ``pattern``: ``%`` any run of code points, ``_`` exactly one.

    ``escape``, one character or None, stands only before ``%``, ``_`` or itself and makes it plain.
    """

    operand: Node
    pattern: str
    escape: str | None


@dataclass(frozen=True, slots=True)
class Case:
    """The value of the first (condition, value) whose condition is true, else ``otherwise`` (None: null).

    Pairs after the one that is taken are not evaluated, nor is ``otherwise``."""

    branches: tuple[tuple[Node, Node], ...]
    otherwise: Node | None


@dataclass(frozen=True, slots=True)
class Coalesce:
    """The first operand that is not null; those after it are not evaluated."""

    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Cast:
    """``operand`` as ``dtype``; null and flagged where it can't be held."""

    operand: Node
    dtype: DType


@dataclass(frozen=True, slots=True)
class Call:
    """A function of ``expression_functions.FUNCTIONS`` by its lower-case name."""

    function: str
    args: tuple[Node, ...]


Node: TypeAlias = (
    Column | Literal | Negate | Arithmetic | Compare | And | Or | Not | IsNull | In | Between | Like | Case
    | Coalesce | Cast | Call
)  # fmt: skip


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below ``node``, in the order that they are written."""
    match node:
        case Column() | Literal():
            return ()
        case Negate(x) | Not(x) | IsNull(x) | Like(x) | Cast(x):
            return (x,)
        case Arithmetic(_, left, right) | Compare(_, left, right):
            return (left, right)
        case And(operands) | Or(operands) | Coalesce(operands) | Call(_, operands):
            return operands
        case In(x, items):
            return (x, *items)
        case Between(x, low, high):
            return (x, low, high)
        case Case(branches, otherwise):
            below = tuple(part for branch in branches for part in branch)
            return below if otherwise is None else (*below, otherwise)
    raise AssertionError(node)


def walk(node: Node) -> Iterator[Node]:
    """``node`` and all below it."""
    waiting: list[Node] = [node]
    while waiting:
        yield (here := waiting.pop())
        waiting.extend(reversed(children(here)))


def columns(node: Node) -> frozenset[str]:
    """The names of the columns that ``node`` reads."""
    return frozenset(part.name for part in walk(node) if isinstance(part, Column))


def canonical(node: Node) -> str:
    """The text of ``node`` for fingerprints: equal nodes have equal texts, different nodes different ones.

    White space, comments, keyword case, redundant parentheses and an operator's spelling are gone by then."""
    match node:
        case Column(name):
            return '"' + name.replace('"', '""') + '"'
        case Literal():
            return _canonical_literal(node)
        case Negate(x):
            return f"(- {canonical(x)})"
        case Arithmetic(op, left, right) | Compare(op, left, right):
            return f"({canonical(left)} {op} {canonical(right)})"
        case And(operands):
            return "(" + " and ".join(map(canonical, operands)) + ")"
        case Or(operands):
            return "(" + " or ".join(map(canonical, operands)) + ")"
        case Not(x):
            return f"(not {canonical(x)})"
        case IsNull(x):
            return f"({canonical(x)} is null)"
        case In(x, items):
            return f"({canonical(x)} in ({', '.join(map(canonical, items))}))"
        case Between(x, low, high):
            return f"({canonical(x)} between {canonical(low)} and {canonical(high)})"
        case Like(x, pattern, escape):
            tail = "" if escape is None else f" escape {_quoted(escape)}"
            return f"({canonical(x)} like {_quoted(pattern)}{tail})"
        case Case(branches, otherwise):
            whens = "".join(f" when {canonical(when)} then {canonical(then)}" for when, then in branches)
            return f"(case{whens}{'' if otherwise is None else f' else {canonical(otherwise)}'} end)"
        case Coalesce(operands):
            return f"coalesce({', '.join(map(canonical, operands))})"
        case Cast(x, dtype):
            return f"cast({canonical(x)} as {dtype})"
        case Call(function, args):
            return f"{function}({', '.join(map(canonical, args))})"
    raise AssertionError(node)


def _canonical_literal(literal: Literal) -> str:
    value, dtype = literal.value, literal.dtype
    if value is None:
        return "null" if dtype == NULL else f"(null::{dtype})"
    match dtype.kind:
        case "string":
            return _quoted(str(value))
        case "bool":
            return "true" if value else "false"
        case "int64":
            return str(value)
        case "point" | "decimal":
            assert isinstance(value, Decimal)
            text = format(value, "f")  # 1.50 and 1.5 are decimals of different scale
            text = text if "." in text else f"{text}."  # 5. is no integer
            return text if dtype == POINT else f"({text}::{dtype})"
    return f"({_quoted(str(value))}::{dtype})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
