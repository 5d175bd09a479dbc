"""Manifests: what a training set was made of, so that it can be checked and made again.

A manifest has no time of day and no machine in it: the same inputs give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from featurestore.batch.spine import Spine

FORMAT = 2
# The packages whose versions can change a byte of the values or of the file.
PACKAGES = ("featurestore", "numpy", "numba", "pyarrow", "duckdb", "sqlglot", "tzdata")


def packages() -> dict[str, str]:
    """The installed versions of the packages that values depend on."""
    made = {}
    for name in PACKAGES:
        try:
            made[name] = version(name)
        except PackageNotFoundError:
            made[name] = "unknown"
    return made


def spine_identity(spine: Spine, columns: Sequence[bytes]) -> dict[str, Any]:
    """A spine as manifests name it: the files that it was read from, how its times were read, and a hash of
    its content, whose columns have the digests ``columns``."""
    return {
        "files": [{"path": file.shown, "size": file.size, "sha256": file.sha256()} for file in spine.files],
        "time": spine.time,
        "timezone": spine.timezone,
        "sha256": content(spine.table.schema, columns),
    }


def content(schema: pa.Schema, columns: Sequence[bytes]) -> str:
    """A hash, in hex, of all of a table that reaches a written file: its columns' digests, which of them may
    be null, and what their fields say besides."""
    made = hashlib.sha256()
    for field, column in zip(schema, columns, strict=True):
        made.update(column)
        made.update(repr((field.nullable, sorted((field.metadata or {}).items()))).encode())
    return made.hexdigest()


def text(manifest: Mapping[str, Any]) -> str:
    """A manifest as JSON text, keys in order, a line each; a view's plan is one line."""
    plans: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for name, definition in manifest["definitions"].items():
        plans[f"plan of {len(plans)}"] = definition["plan"]
        definitions[name] = {**definition, "plan": f"plan of {len(plans) - 1}"}
    made = json.dumps({**manifest, "definitions": definitions}, indent=2, sort_keys=True, ensure_ascii=False)
    for mark, plan in plans.items():
        line = json.dumps(plan, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        made = made.replace(f'"plan": "{mark}"', f'"plan": {line}', 1)
    return made + "\n"


def path_beside(path: Path) -> Path:
    """Where the manifest of a training set's file lies: ``train.parquet`` has ``train.manifest.json``."""
    return path.with_name(f"{path.stem}.manifest.json")
