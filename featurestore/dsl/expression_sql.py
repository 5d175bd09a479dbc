"""The part of SQL that is an expression: text to sqlglot's tree, and what to say of one that is none of ours.

sqlglot knows hundreds of functions and rewrites many while it parses; the dialect here knows none, so a call
arrives as it was written. Nothing is simplified or transpiled; no clock and no setting is within reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import sqlglot.errors
import sqlglot.parser
from sqlglot import Dialect, Token, TokenType, exp

from featurestore.errors import ExpressionError
from featurestore.kernel.expression import DEEPEST

LANGUAGE = (
    "an expression has columns, literals, + - * / % ||, = <> < <= > >=, and, or, not, is null, in, between, "
    "like, case, coalesce, cast and the functions of docs/expressions.md"
)
_NAMES = {
    exp.Query: "a sub-select",
    exp.Subquery: "a sub-select",
    exp.Exists: "a sub-select",
    exp.Window: "a window function",
    exp.Filter: "an aggregate's filter",
    exp.Star: "a star",
    exp.Parameter: "a parameter",
    exp.SessionParameter: "a setting",
    exp.Placeholder: "a parameter",
    exp.Interval: "an interval",
    exp.Distinct: "distinct",
    exp.Dot: "a qualified name",
    exp.Bracket: "a subscript",
    exp.Tuple: "a list of values",
    exp.Concat: "two strings side by side",
    exp.Alias: "an alias",
}
_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END}
_PREFIXES = {TokenType.NOT, TokenType.DASH, TokenType.PLUS, TokenType.TILDE}


class _Expressions(Dialect):
    """SQL without functions of its own: what is called arrives as a name and its arguments."""

    class Parser(sqlglot.parser.Parser):
        FUNCTIONS: ClassVar = {}
        NO_PAREN_FUNCTIONS: ClassVar = {}
        FUNCTION_PARSERS: ClassVar = {"CAST": sqlglot.parser.Parser.FUNCTION_PARSERS["CAST"]}
        NO_PAREN_FUNCTION_PARSERS: ClassVar = {
            "CASE": sqlglot.parser.Parser.NO_PAREN_FUNCTION_PARSERS["CASE"]
        }

        def _parse_paren(self) -> exp.Expr | None:
            # sqlglot also makes up parentheses; only written ones settle which operator takes what.
            if (paren := super()._parse_paren()) is not None:
                paren.meta["written"] = True
            return paren


def tree_of(text: str) -> exp.Expr:
    """sqlglot's tree of the one expression that ``text`` is."""
    dialect = _Expressions()
    try:
        tokens = dialect.tokenize(text)
        _check_tokens(tokens)
        (tree,) = dialect.parser().parse_into(exp.Condition, tokens, text) or [None]
    except sqlglot.errors.TokenError as error:
        raise ExpressionError(f"{shown(text)}: {str(error).splitlines()[0]}", hint=LANGUAGE) from None
    except sqlglot.errors.ParseError as error:
        raise _syntax_error(text, error) from None
    if tree is None:
        raise ExpressionError("the expression is empty", hint=LANGUAGE)
    return tree


def _check_tokens(tokens: Sequence[Token]) -> None:
    depth = prefixes = 0
    for token in tokens:
        kind = token.token_type
        if kind == TokenType.SEMICOLON:
            raise ExpressionError(
                "an expression has no semicolon: several statements are not one value",
                hint="write one expression a feature",
            )
        depth += (kind in _OPENING) - (kind in _CLOSING)
        prefixes = prefixes + 1 if kind in _PREFIXES else 0
        if depth > DEEPEST or prefixes > DEEPEST:
            raise too_deep()


def _syntax_error(text: str, error: sqlglot.errors.ParseError) -> ExpressionError:
    found = error.errors[0] if error.errors else {}
    what = found.get("highlight")
    at = (found.get("col") or 0) - len(what or "") + 1
    fact = f"no SQL expression at {what!r} (character {at})" if what else "no SQL expression"
    hint = f'{LANGUAGE}; a name that is a keyword or has other characters is quoted: "order"'
    return ExpressionError(f"{shown(text)}: {fact}", hint=hint)


def too_deep() -> ExpressionError:
    """The error of an expression that walks would not come back from."""
    return ExpressionError(
        "the expression is nested too deeply",
        hint=f"up to {DEEPEST} levels are read; derive a column in the log instead",
    )


def refusal(tree: exp.Expr, part: str | None = None) -> ExpressionError:
    """The error of ``tree``, or of its ``part``, that is no part of the language."""
    name = next((name for kind, name in _NAMES.items() if isinstance(tree, kind)), None)
    if isinstance(tree, exp.Column):
        name = "a star" if isinstance(tree.this, exp.Star) else "a qualified name"
    elif isinstance(tree, exp.In) and tree.args.get("query"):
        name = "a sub-select"
    found = name or (f"{tree.key} with {part}" if part else tree.key)
    return ExpressionError(f"{shown(tree.sql())}: {found} is not part of an expression", hint=LANGUAGE)


def shown(text: str) -> str:
    """``text`` on one line of an error."""
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:97]}..."
