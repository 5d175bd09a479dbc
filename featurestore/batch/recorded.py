"""Manifests read back: a file or a mapping, checked to be all that a training set can be made again from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from featurestore.batch import manifest as manifests
from featurestore.errors import FeatureStoreError, ManifestError
from featurestore.kernel.roles import KnownAt
from featurestore.plan.nodes import ViewPlan
from featurestore.plan.spec import decode

_A_MANIFEST = "it stands beside the training set: train.parquet has train.manifest.json"
_DAMAGED = "restore it as it was written"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class RecordedFile(_Part):
    """A file, of which the first ``size`` bytes were read."""

    model_config = ConfigDict(extra="forbid")
    path: str
    size: int = Field(ge=0)
    sha256: str


class RecordedTable(_Part):
    """A table of a DuckDB file, of which the first ``rows`` rows were read; ``sha256`` is of ``columns``."""

    model_config = ConfigDict(extra="forbid")
    path: str
    table: list[str]
    rows: int = Field(ge=0)
    columns: list[str]
    sha256: str


class RecordedArrivals(_Part):
    """Pushed rows, up to the number ``last``."""

    rows: int = Field(ge=0)
    last: int = Field(ge=0)
    sha256: str


class RecordedLog(_Part):
    files: list[RecordedFile | RecordedTable]
    arrivals: RecordedArrivals


class RecordedSource(_Part):
    log: RecordedLog


class RecordedKey(_Part):
    """A key that was forgotten by then."""

    columns: list[str]
    digest: str
    store_commit: int


class RecordedForgotten(_Part):
    list: list[RecordedKey]


class RecordedDefinition(_Part):
    fingerprint: str
    plan: dict[str, Any]


class RecordedSpine(_Part):
    """``files`` is empty for a table in memory; ``sha256`` is of the content."""

    files: list[RecordedFile]
    time: str
    timezone: str | None
    sha256: str


class RecordedContent(_Part):
    sha256: str
    columns: dict[str, str]


class Recorded(_Part):
    """A manifest; ``shown`` names it in messages, ``whole`` is all that it says."""

    shown: str
    whole: dict[str, Any]
    features: list[str] = Field(min_length=1)
    definitions: dict[str, RecordedDefinition]
    known_at: str | None
    spine: RecordedSpine
    rows: int
    sources: dict[str, RecordedSource]
    content: RecordedContent
    forgotten: RecordedForgotten = RecordedForgotten(list=[])
    packages: dict[str, str]

    def horizon(self) -> KnownAt:
        from featurestore.instants import horizon

        try:
            return horizon(self.known_at)
        except FeatureStoreError as error:
            raise self.damaged(error.fact) from None

    def views(self) -> dict[str, ViewPlan]:
        """The views' plans; a manifest's own, whatever is declared now."""
        made: dict[str, ViewPlan] = {}
        for name, definition in self.definitions.items():
            try:
                plan = decode(json.dumps(definition.plan))
            except FeatureStoreError as error:
                raise ManifestError(
                    f'{self.shown}: the definition of view "{name}" has a part that this release doesn\'t '
                    "know",
                    hint=f"{error.hint}; it was made with featurestore {self.packages.get('featurestore')}",
                ) from None
            # A plan of another shape: whatever building its parts raises is the manifest's damage.
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise self.damaged(f'the definition of view "{name}" can\'t be read ({error})') from None
            if not isinstance(plan, ViewPlan) or plan.name != name:
                raise self.damaged(f'the definition of view "{name}" is none of a view of that name')
            if plan.source.name not in self.sources:
                raise self.damaged(f'it says nothing of source "{plan.source.name}"')
            made[name] = plan
        return made

    def damaged(self, fact: str) -> ManifestError:
        return ManifestError(f"{self.shown} is damaged: {fact}", hint=_DAMAGED)


def read_manifest(manifest: str | Path | Mapping[str, Any]) -> Recorded:
    """A manifest from its file, or as a training set has it; ManifestError says what is wrong with it."""
    if isinstance(manifest, Mapping):
        return _checked(json.loads(json.dumps(manifest)), "the manifest")
    if not isinstance(manifest, str | Path):
        raise ManifestError(f"{manifest!r} is no manifest", hint="pass its path, or TrainingSet.manifest")
    shown = f'manifest "{manifest}"'
    try:
        text = Path(manifest).read_bytes().decode()
    except FileNotFoundError:
        raise ManifestError(f'there is no manifest "{manifest}"', hint=_A_MANIFEST) from None
    except OSError as error:
        raise ManifestError(f"{shown} can't be read: {error.strerror}", hint=_A_MANIFEST) from None
    except UnicodeDecodeError:
        raise ManifestError(f"{shown} is no text", hint=_A_MANIFEST) from None
    try:
        return _checked(json.loads(text), shown)
    except (json.JSONDecodeError, RecursionError) as error:
        cut = " (is it cut off?)" if text.lstrip().startswith("{") else ""
        raise ManifestError(f"{shown} is no JSON: {error}{cut}", hint=_A_MANIFEST) from None


def _checked(whole: object, shown: str) -> Recorded:
    if not isinstance(whole, dict) or not {"format", "content"} <= whole.keys():
        raise ManifestError(f"{shown} is no manifest of a training set", hint=_A_MANIFEST)
    if whole["format"] == 1:
        raise ManifestError(
            f"{shown} is of format 1, which lacks the definitions themselves, the features' order and the "
            "spine: a training set can't be made again from it",
            hint="make the training set once more with this release, from the inputs that it names",
        )
    if whole["format"] != manifests.FORMAT:
        raise ManifestError(
            f"{shown} is of format {whole['format']!r}; this release knows {manifests.FORMAT}",
            hint="a newer featurestore wrote it: upgrade the package",
        )
    try:
        return Recorded.model_validate({**whole, "shown": shown, "whole": whole})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        fact = f"{shown} is damaged: {where}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        raise ManifestError(fact, hint=_DAMAGED) from None
