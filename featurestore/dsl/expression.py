"""SQL text to the nodes of the expression language.

A text is a scalar expression over one row's columns; there is no ``now()`` in it. A bare column name is read
here; all else by ``expression_mapping``, which brings the SQL parser along and is imported when first needed.
"""

from __future__ import annotations

import re

from featurestore.errors import ExpressionError
from featurestore.kernel.expression import Column, Node

LONGEST = 10_000
"""Characters that an expression may have: far beyond what is written by hand, parsed in under a second."""

_BARE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTED_NAME = re.compile(r'"((?:[^"]|"")+)"')
_CONSTANTS = ("null", "true", "false")


def parse(text: str) -> Node:
    """The nodes of ``text``; ExpressionError names what is outside the language.

    Names are case-sensitive, as written. One with other characters, or that is a keyword of SQL, is quoted:
    ``"order"``; a text that is nothing but a keyword is read as the column of that name.
    """
    if len(text) > LONGEST:
        raise ExpressionError(
            f"an expression of {len(text)} characters is too long",
            hint=f"up to {LONGEST} are read; derive a column in the log instead",
        )
    name = text.strip()
    if _BARE_NAME.fullmatch(name) and name.lower() not in _CONSTANTS:
        return Column(name)
    if m := _QUOTED_NAME.fullmatch(name):
        return Column(m[1].replace('""', '"'))

    from featurestore.dsl import expression_mapping

    return expression_mapping.parse(text)
