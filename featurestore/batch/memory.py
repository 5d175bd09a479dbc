"""Memory for batch work: Arrow's allocations come from the system's allocator while it runs.

Batch work allocates few arrays of tens of megabytes and fills each once. Arrow's default pool (mimalloc)
returns and faults in such pages again and again: on 10M rows a training set took 1.42 s with the system's
allocator and 1.72 s with the default (medians, interleaved runs on two cores, 2026-11-20).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa


@contextmanager
def large_arrays() -> Iterator[None]:
    """Arrow allocates from the system inside this block; what was allocated before or inside stays valid
    after."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
