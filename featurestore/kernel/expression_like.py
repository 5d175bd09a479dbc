"""``like`` patterns: ``%`` is any run of code points (line ends too), ``_`` is one.

Every other character is itself, whatever its case; there is no time in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def parts(pattern: str, escape: str | None) -> list[tuple[str, bool]] | None:
    """The characters of ``pattern``, each with whether it is a wildcard; None: ``escape`` escapes nothing."""
    found: list[tuple[str, bool]] = []
    characters = iter(pattern)
    for character in characters:
        if character == escape:
            plain = next(characters, "")
            if plain not in ("%", "_", escape):
                return None
            found.append((plain, False))
        else:
            found.append((character, character in "%_"))
    return found


def regex(pattern: str, escape: str | None) -> str:
    """``pattern`` for RE2: anchored at both ends of the text, a dot matching every code point."""
    found = parts(pattern, escape)
    assert found is not None
    wildcards = {"%": ".*", "_": "."}
    body = "".join(wildcards[c] if wild else _plain(c) for c, wild in found)
    return rf"\A(?s:{body})\z"


def _plain(character: str) -> str:
    if character.isalnum() or not character.isascii():
        return character
    return f"\\x{ord(character):02x}"


def matches(pattern: str, escape: str | None) -> Callable[[pa.Array], pa.Array]:
    """Whether each string of an array matches."""
    import pyarrow.compute as pc

    found = parts(pattern, escape)
    assert found is not None
    ends = "".join("%" if wild else "." for _, wild in found if _ != "_" or not wild)
    text = "".join(c for c, wild in found if not wild)
    if not any(wild and c == "_" for c, wild in found):
        match ends.replace(".", ""), ends[:1] == "%", ends[-1:] == "%":
            case "", _, _:
                return lambda array: pc.equal(array, text)
            case "%", False, True:
                return lambda array: pc.starts_with(array, pattern=text)
            case "%", True, False:
                return lambda array: pc.ends_with(array, pattern=text)
            case "%%", True, True:
                return lambda array: pc.match_substring(array, pattern=text)
    return lambda array: pc.match_substring_regex(array, pattern=regex(pattern, escape))
