"""The rule for names of entities, sources, views, services and features."""

from __future__ import annotations

import re

from featurestore.errors import DefinitionError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def checked(name: object, what: str) -> str:
    """``name`` when it can be a name: a letter or _, then letters, digits, _."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DefinitionError(
            f"{what} name {name!r} can't be used",
            hint="a name starts with a letter or _ and goes on with letters, digits and _",
        )
    if len(name) > 200:
        raise DefinitionError(
            f"{what} name {name[:40]}... is longer than 200 characters", hint="give it a shorter one"
        )
    return name


def column_names(value: object, what: str) -> tuple[str, ...]:
    """One column name or several as a tuple; None gives ()."""
    if value is None:
        return ()
    if not isinstance(value, str | list | tuple):
        raise DefinitionError(
            f"{what}: {value!r} is not a column name", hint="write one name, or a list of names"
        )
    names = (value,) if isinstance(value, str) else tuple(value)
    for name in names:
        if not isinstance(name, str) or not name:
            raise DefinitionError(
                f"{what}: {name!r} is not a column name", hint="column names are non-empty text"
            )
    if len(set(names)) != len(names):
        raise DefinitionError(
            f"{what}: a column is named twice in {', '.join(names)}", hint="name each column once"
        )
    return names


def check_cosmetics(what: str, *, description: object, tags: object, owner: object) -> None:
    """Refuse what the registry can't keep beside a declaration."""
    for part, text in (("description", description), ("owner", owner)):
        if not isinstance(text, str):
            raise DefinitionError(f"{what}: {part}={text!r} is not text", hint=f'write {part}="..."')
    if not isinstance(tags, dict) or not all(isinstance(text, str) for pair in tags.items() for text in pair):
        raise DefinitionError(
            f"{what}: tags={tags!r} are not names with texts", hint='write tags={"team": "fraud"}'
        )
