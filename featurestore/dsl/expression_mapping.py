"""sqlglot's tree to the nodes of the expression language: every node of it becomes one of ours or is refused.

A part of a node that is not understood is refused too, so a new version of the parser can't change a meaning
silently. An expression has no time of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from sqlglot import exp

from featurestore import dtypes
from featurestore.dsl.expression_sql import refusal, shown, too_deep, tree_of
from featurestore.dtypes import BOOL, FLOAT64, INT64, STRING
from featurestore.errors import DefinitionError, ExpressionError, suggestion
from featurestore.kernel.expression import (
    DEEPEST,
    NULL,
    POINT,
    And,
    Arithmetic,
    Between,
    Call,
    Case,
    Cast,
    Coalesce,
    Column,
    Compare,
    In,
    IsNull,
    Like,
    Literal,
    Negate,
    Node,
    Not,
    Or,
)
from featurestore.kernel.expression_functions import FUNCTIONS
from featurestore.kernel.expression_like import parts
from featurestore.kernel.expression_meeting import WIDEST, decimal_literal

_AGGREGATES = frozenset({"sum", "count", "avg", "mean", "min", "max", "first", "last", "median", "stddev"})
_ARITHMETIC = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%"}
_COMPARISONS = {exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
_PREDICATES = (*_COMPARISONS, exp.Is, exp.In, exp.Between, exp.Like, exp.Escape, exp.Not)
_TYPES = {
    "int": "int64",
    "bigint": "int64",
    "float": "float64",
    "double": "float64",
    "boolean": "bool",
    "text": "string",
    "varchar": "string",
    "timestamp": "timestamp",
    "timestamptz": "timestamp",
    "datetime": "timestamp",
    "date": "date",
    "uuid": "uuid",
}
# What of a sqlglot node is understood; anything else that is set on one would change its meaning.
_PARTS = {
    exp.Column: {"this"},
    exp.Cast: {"to"},
    exp.In: {"expressions"},
    exp.Between: {"low", "high"},
    exp.Case: {"ifs", "default"},
    exp.Anonymous: {"expressions"},
    exp.Literal: {"is_string"},
}
_UNDERSTOOD = {"this", "expression", "negate", "typed", "safe"}
_POINT = re.compile(r"[0-9]*\.[0-9]*")


def parse(text: str) -> Node:
    """The nodes of ``text``, which ``dsl.expression.parse`` has found to be of a bearable length."""
    try:
        return _node(tree_of(text), 0)
    except RecursionError:
        raise too_deep() from None


def _node(tree: exp.Expr, depth: int) -> Node:
    """``tree`` in our nodes; ``depth`` is how many of ours are above it."""
    if depth > DEEPEST:
        raise too_deep()
    kind: type[Any] = type(tree)
    if kind is exp.Paren:
        return _node(tree.this, depth)
    if strange := _strange(tree):
        raise refusal(tree, strange)
    if kind in _ARITHMETIC:
        return Arithmetic(_ARITHMETIC[kind], *_operands(tree, depth))
    if kind in _COMPARISONS:
        return Compare(_COMPARISONS[kind], *_operands(tree, depth))
    if kind in (exp.And, exp.Or, exp.DPipe):
        operands = tuple(_node(part, depth + 1) for part in _chain(tree))
        if kind is exp.DPipe:
            return Call("concat", operands)
        return And(operands) if kind is exp.And else Or(operands)
    if reader := _READERS.get(kind):
        node = reader(tree, depth)
        return Not(node) if tree.args.get("negate") else node
    raise refusal(tree)


def _strange(tree: exp.Expr) -> str | None:
    """The part of ``tree`` that this language has no meaning for."""
    kind: type[Any] = type(tree)
    understood = _UNDERSTOOD | _PARTS.get(kind, set())
    return next((part for part, value in tree.args.items() if value and part not in understood), None)


def _chain(tree: exp.Expr) -> list[exp.Expr]:
    """``a and b and c`` as its operands, in order, however long."""
    parts, kind = [], type(tree)
    while type(tree) is kind:
        parts.append(tree.expression)
        tree = tree.this
    return [tree, *reversed(parts)]


def _operands(tree: exp.Expr, depth: int) -> tuple[Node, Node]:
    return _operand(tree, tree.this, depth), _operand(tree, tree.expression, depth)


def _operand(tree: exp.Expr, part: exp.Expr, depth: int) -> Node:
    """An operand that is a comparison needs parentheses: databases differ in what ``a = b is null`` means."""
    bare = part
    while type(bare) is exp.Paren and not bare.meta.get("written"):
        bare = bare.this
    if isinstance(bare, _PREDICATES):
        raise ExpressionError(
            f"{shown(tree.sql())}: a comparison of a comparison",
            hint="write parentheses, or join the two with and",
        )
    return _node(part, depth + 1)


def _negation(tree: exp.Expr, depth: int) -> Node:
    """A minus sign belongs to the number that it stands before, so that the least int64 can be written."""
    if isinstance(tree.this, exp.Literal) and not tree.this.is_string:
        return _literal(tree.this, depth, sign="-")
    operand = _operand(tree, tree.this, depth)
    return Negate(operand)


def _literal(tree: exp.Expr, depth: int, sign: str = "") -> Node:
    text = str(tree.this)
    if tree.is_string:
        return Literal(text, STRING)
    if text.isdecimal() and text.isascii():
        whole = int(sign + text) if len(text) < 30 else 2**63
        if not -(2**63) <= whole < 2**63:
            hint = f"write cast('{sign}{shown(text)}' as decimal(38, 0)), or a float64 with an exponent"
            raise ExpressionError(f"{sign}{shown(text)} is beyond int64", hint=hint)
        return Literal(whole, INT64)
    if _POINT.fullmatch(text) and len(text) > 1:
        value = Decimal(sign + text)
        if decimal_literal(value)[1].precision <= WIDEST:
            return Literal(value or abs(value), POINT)
    try:
        number = float(sign + text)
    except ValueError:
        raise refusal(tree, text) from None
    if number in (float("inf"), float("-inf")):
        raise ExpressionError(f"{sign}{shown(text)} is beyond float64", hint="cast('Infinity' as float64)")
    return Literal(number + 0.0, FLOAT64)


def _column(tree: exp.Expr, depth: int) -> Node:
    name = tree.this
    if not isinstance(name, exp.Identifier):
        raise refusal(name)
    if not name.args.get("quoted") and not str(name.this).isidentifier():
        raise ExpressionError(f"{shown(str(name.this))} is not a column's name", hint="quote it if it is one")
    return Column(str(name.this))


def _is(tree: exp.Expr, depth: int) -> Node:
    if not isinstance(tree.expression, exp.Null):
        raise refusal(tree, "is " + tree.expression.sql().lower())
    return IsNull(_operand(tree, tree.this, depth))


def _in(tree: exp.Expr, depth: int) -> Node:
    items = tuple(_operand(tree, item, depth) for item in tree.expressions)
    if not items:
        raise ExpressionError(f"{shown(tree.sql())}: in takes a list of values", hint="write x in (1, 2)")
    return In(_operand(tree, tree.this, depth), items)


def _between(tree: exp.Expr, depth: int) -> Node:
    return Between(*(_operand(tree, tree.args[part], depth) for part in ("this", "low", "high")))


def _escape(tree: exp.Expr, depth: int) -> Node:
    escape = tree.expression
    if not (isinstance(tree.this, exp.Like) and isinstance(escape, exp.Literal) and len(escape.this) == 1):
        raise ExpressionError(
            f"{shown(tree.sql())}: escape takes one character", hint="like '50!%' escape '!'"
        )
    if strange := _strange(tree.this):
        raise refusal(tree.this, strange)
    node = _like(tree.this, depth, str(escape.this))
    return Not(node) if tree.this.args.get("negate") else node


def _like(tree: exp.Expr, depth: int, escape: str | None = None) -> Node:
    pattern = tree.expression
    if not (isinstance(pattern, exp.Literal) and pattern.is_string):
        raise ExpressionError(
            f"{shown(tree.sql())}: like takes a string literal", hint="write the pattern itself there"
        )
    text = str(pattern.this)
    if parts(text, escape) is None:
        raise ExpressionError(
            f"{shown(tree.sql())}: {escape!r} escapes nothing", hint="it stands before %, _ or itself"
        )
    return Like(_operand(tree, tree.this, depth), text, escape)


def _case(tree: exp.Expr, depth: int) -> Node:
    subject = tree.this and _operand(tree, tree.this, depth + 1)
    branches = []
    for part in tree.args["ifs"]:
        when = _node(part.this, depth + 1)
        then = _node(part.args["true"], depth + 1)
        branches.append((when if subject is None else Compare("=", subject, when), then))
    if not branches:
        raise ExpressionError(
            f"{shown(tree.sql())}: case without when", hint="case when a > 0 then 1 else 0 end"
        )
    default = tree.args.get("default")
    return Case(tuple(branches), None if default is None else _node(default, depth + 1))


def _cast(tree: exp.Expr, depth: int) -> Node:
    to = tree.args["to"]
    name, params = to.this.name.lower(), to.expressions
    try:
        if name == "decimal" and params:
            dtype = dtypes.parse(f"decimal({', '.join(part.name for part in params)})")
        else:
            dtype = dtypes.parse(_TYPES[name] if name != "userdefined" else _scalar(str(to.args["kind"])))
            if params or to.args.get("nested"):
                raise KeyError(name)
    except (KeyError, DefinitionError) as error:
        hint = error.hint if isinstance(error, DefinitionError) else None
        hint = hint or "types are int64, float64, bool, string, timestamp, date, uuid, decimal(p, s)"
        raise ExpressionError(
            f"{shown(tree.sql())}: no type {to.sql().lower()} to cast to", hint=hint
        ) from None
    return Cast(_node(tree.this, depth + 1), dtype)


def _scalar(name: str) -> str:
    if name.lower() not in dtypes.SCALARS:
        raise KeyError(name)
    return name


def _call(tree: exp.Expr, depth: int) -> Node:
    if not isinstance(tree.this, str):
        raise refusal(tree, "a quoted function")
    name, args = tree.this.lower(), tree.expressions
    if name == "coalesce":
        usage, least, most = "coalesce(a, ...)", 1, None
    elif name in FUNCTIONS:
        usage, least, most = FUNCTIONS[name].usage, FUNCTIONS[name].least, FUNCTIONS[name].most
    else:
        hint = suggestion(name, [*FUNCTIONS, "coalesce", "cast"], what="functions")
        if name in _AGGREGATES:
            hint = f"an expression is of one row; agg.* aggregates; {hint}"
        raise ExpressionError(f'no function "{name}"', hint=hint)
    if len(args) < least or (most is not None and len(args) > most):
        raise ExpressionError(
            f"{shown(tree.sql())}: {name} does not take {len(args)} arguments", hint=f"write {usage}"
        )
    nodes = tuple(_node(part, depth + 1) for part in args)
    return Coalesce(nodes) if name == "coalesce" else Call(name, nodes)


_READERS: dict[type[Any], Callable[[exp.Expr, int], Node]] = {
    exp.Column: _column,
    exp.Literal: _literal,
    exp.Boolean: lambda tree, depth: Literal(bool(tree.this), BOOL),
    exp.Null: lambda tree, depth: Literal(None, NULL),
    exp.Neg: _negation,
    exp.Not: lambda tree, depth: Not(_node(tree.this, depth + 1)),
    exp.Is: _is,
    exp.In: _in,
    exp.Between: _between,
    exp.Like: _like,
    exp.Escape: _escape,
    exp.Case: _case,
    exp.Cast: _cast,
    exp.Anonymous: _call,
}
