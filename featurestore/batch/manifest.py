"""Manifests: what a training set was made of, so that it can be checked and made again.

A manifest has no time of day and no machine in it: the same inputs give the same bytes.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FORMAT = 1
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


def text(manifest: dict[str, object]) -> str:
    """A manifest as JSON text, keys in order, a line each."""
    return json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def path_beside(path: Path) -> Path:
    """Where the manifest of a training set's file lies: ``train.parquet`` has ``train.manifest.json``."""
    return path.with_name(f"{path.stem}.manifest.json")
