"""Every error that this library raises on purpose, as one tree.

FeatureStoreError                 what all of them are
├── DefinitionError               a declaration that can't be planned (author's input)
│   └── ExpressionError           an input expression or predicate outside the closed language
├── SettingsError                 featurestore.toml, an environment variable or a project's layout
├── LogError                      a source's log: a file missing, truncated, of another schema
├── RowError                      a row that breaks the rules of its source (ingest, strict)
├── SpineError                    a training set's spine
├── ManifestError                 a manifest that a training set can't be made again from
├── RequestError                  a question to serving that can't be answered as asked
│   ├── UnknownNameError          a feature, view, service, source or entity that isn't there
│   └── OutsideRetentionError     a question older than the store's horizon
└── StoreError                    the store itself
    ├── StoreVersionError         a store from another version of the schema
    ├── StoreUnavailableError     can't open, read-only, disk full, locked for too long
    │   └── StoreInterruptedError the database ended a transaction: nothing was kept, it may be tried again
    ├── BackfillError             a backfill that can't go on
    └── StreamError               a topic, or a position in it, that a worker can't go on from
        ├── BrokersAwayError      brokers that don't answer, or let nobody in
        ├── FencedError           a worker whose partition was given to another
        ├── StalePositionError    a batch that doesn't begin where the store stands
        └── SchemasUnavailableError  a schema registry that doesn't answer now

The first line names the thing and the fact; ``hint`` tells the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FeatureStoreError(Exception):
    """The base of the tree: ``str(error)`` is the fact, ``error.hint`` the way out (or None)."""

    def __init__(self, fact: str, *, hint: str | None = None) -> None:
        super().__init__(fact)
        self.fact = fact
        self.hint = hint

    def __str__(self) -> str:
        return self.fact if self.hint is None else f"{self.fact}\nhint: {self.hint}"


class DefinitionError(FeatureStoreError):
    """A declaration that can't be planned."""


class ExpressionError(DefinitionError):
    """An expression outside the closed language, or of the wrong types."""


class SettingsError(FeatureStoreError):
    """A setting or the project's layout."""


class LogError(FeatureStoreError):
    """A source's log that can't be read."""


class RowError(FeatureStoreError):
    """Rows that break the rules of their source; ``rows`` holds (line number, reason) pairs."""

    def __init__(self, fact: str, *, hint: str | None = None, rows: Iterable[tuple[int, str]] = ()) -> None:
        super().__init__(fact, hint=hint)
        self.rows = tuple(rows)


class SpineError(FeatureStoreError):
    """A spine that a training set can't be made of."""


class ManifestError(FeatureStoreError):
    """A manifest that a training set can't be made again from; ``differences`` holds (name, fact, way out) of
    each thing that is missing or has changed."""

    def __init__(
        self, fact: str, *, hint: str | None = None, differences: Iterable[tuple[str, str, str]] = ()
    ) -> None:
        super().__init__(fact, hint=hint)
        self.differences = tuple(differences)


class RequestError(FeatureStoreError):
    """A question that can't be answered as asked."""


class UnknownNameError(RequestError):
    """A name that nothing declared has."""


class OutsideRetentionError(RequestError):
    """A question older than what the store still answers exactly."""


class StoreError(FeatureStoreError):
    """The store."""


class StoreVersionError(StoreError):
    """A store whose schema is not this version's."""


class StoreUnavailableError(StoreError):
    """A store that can't be opened, read or written now."""


class StoreInterruptedError(StoreUnavailableError):
    """A transaction that the database ended; nothing of it was kept, and the same may be tried again."""


class BackfillError(StoreError):
    """A backfill that can't go on."""


class StreamError(StoreError):
    """A stream that can't go on."""


class BrokersAwayError(StreamError):
    """Brokers that can't be used now."""


class FencedError(StreamError):
    """A commit of a worker that has lost its partition: nothing of it was written."""

    def __init__(self, fact: str, *, hint: str | None = None, topic: str = "", partition: int = -1) -> None:
        super().__init__(fact, hint=hint)
        self.topic = topic
        self.partition = partition


class StalePositionError(StreamError):
    """A batch that doesn't begin where the store stands: nothing of it was written."""


class SchemasUnavailableError(StreamError):
    """Messages whose schemas can't be had now: nothing was read of them, and the same may be tried again."""


def suggestion(name: str, known: Iterable[str], *, what: str = "names") -> str:
    """The hint that lists what exists and the closest match: ``columns are a, b; did you mean "a"?``

    Names that begin with two underscores are the library's own: told to those only who ask for such a one.
    """
    own = name.startswith("__")
    names = sorted(one for one in known if own or not one.startswith("__"))
    shown = ", ".join(names[:30]) + (f", ... ({len(names)} in all)" if len(names) > 30 else "")
    text = f"{what} are {shown}" if names else f"there are no {what}"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f'{text}; did you mean "{near[0]}"?' if near else text
