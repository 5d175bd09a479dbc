"""How the kernel's inner loops are compiled: explicit signatures, no GIL, a cache on disk.

``compiled`` compiles when its module is imported (signatures are explicit) and reads the result back from the
cache the next time. The cache lives in the user's cache directory, or where ``FEATURESTORE_KERNEL_CACHE_DIR``
says, in a folder named after the kernel's sources: a loop is compiled together with the helpers that it
calls, so a change to any of them must miss. Fast-math is never on: the order and rounding of every operation
is the one written.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


@cache
def cache_directory() -> Path:
    """Where compiled loops of exactly these sources are kept."""
    made = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        made.update(source.name.encode() + b"\x00" + source.read_bytes())
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "featurestore" / "kernel"
    place = Path(os.environ.get("FEATURESTORE_KERNEL_CACHE_DIR") or default) / made.hexdigest()[:16]
    if not place.exists():
        logging.getLogger(__name__).warning("compiling the kernel: once a release, about half a minute")
    return place


@contextmanager
def _caching() -> Iterator[None]:
    # Numba reads its cache directory when a function is decorated; others' functions keep theirs.
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(cache_directory())
    try:
        yield
    finally:
        config.CACHE_DIR = before


def compiled(signature: str | list[str]) -> Callable[[F], F]:
    """Compile a loop over arrays for ``signature``; it runs without the GIL, so threads share the entities
    out."""

    def decorate(function: F) -> F:
        with _caching():
            made: Any = numba.njit(signature, nogil=True, cache=True, error_model="numpy")(function)
        wrapped: F = made
        return wrapped

    return decorate


def inlined(function: F) -> F:
    """A helper of compiled loops, compiled into each caller that names it."""
    with _caching():
        made: Any = numba.njit(nogil=True, cache=True, error_model="numpy", inline="never")(function)
    wrapped: F = made
    return wrapped
