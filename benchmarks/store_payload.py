"""What a payload costs in bytes and time, in each format that was considered (docs/design/0002-payload.md).

    python -m benchmarks.store_payload [--entities 100000]

Each entity has a timeline of 1, 10 or 100 versions of five columns. Instants are uniform over a year, to the
second. "encode" and "decode many" are per payload over all entities (at most 10,000 for the slow formats);
"decode one" is a call with a single payload. Medians of three.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from featurestore.store.payload import PayloadReader, encode_runs

MOST_SLOW = 10_000
ROUNDS = 3


def timelines(entities: int, versions: int) -> pa.Table:
    random = np.random.default_rng(7)
    rows = entities * versions
    seconds = np.sort(random.integers(0, 31_536_000, (entities, versions)), axis=1).reshape(-1)
    words = np.array(["groceries", "travel", "rent", "electronics"])
    hashes = pa.py_buffer(random.bytes(16 * rows))
    return pa.table(
        {
            "ts": pa.array((1_700_000_000 + seconds) * 1_000_000, pa.timestamp("us", "UTC")),
            "transaction_id": pa.array(random.integers(0, 10**9, rows)),
            "amount": pa.array(np.round(random.lognormal(3, 1, rows), 2)),
            "category": pa.array(words[random.integers(0, 4, rows)]),
            "__hash": pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), rows, [None, hashes]),
        }
    )


class Ipc:
    """An Arrow IPC record batch without its schema, compressed as a whole or not."""

    def __init__(self, schema: pa.Schema, codec: str | None) -> None:
        self.schema = schema
        self.codec = pa.Codec(codec) if codec else None

    def encode(self, table: pa.Table, bounds: np.ndarray) -> list[bytes]:
        (batch,) = table.to_batches()
        encoded = []
        for first, end in pairwise(bounds):
            plain = batch.slice(first, end - first).serialize().to_pybytes()
            if self.codec:
                plain = len(plain).to_bytes(4, "little") + self.codec.compress(plain, asbytes=True)
            encoded.append(plain)
        return encoded

    def decode(self, payloads: Sequence[bytes]) -> pa.Table:
        batches = []
        for payload in payloads:
            buffer = pa.py_buffer(payload)
            if self.codec:
                buffer = self.codec.decompress(buffer[4:], int.from_bytes(payload[:4], "little"))
            batches.append(pa.ipc.read_record_batch(buffer, self.schema))
        return pa.Table.from_batches(batches, self.schema).combine_chunks()


class Packed:
    """What the store uses."""

    def __init__(self, schema: pa.Schema) -> None:
        self.reader = PayloadReader(schema)

    def encode(self, table: pa.Table, bounds: np.ndarray) -> list[bytes]:
        return encode_runs(table, bounds)

    def decode(self, payloads: Sequence[bytes]) -> pa.Table:
        return self.reader.read(payloads)[0]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--entities", type=int, default=100_000)
    options = arguments.parse_args()
    print("versions  format             bytes  encode us  decode many us  decode one us")
    for versions in (1, 10, 100):
        for name in ("packed", "ipc", "ipc + lz4", "ipc + zstd"):
            entities = options.entities if name == "packed" else min(options.entities, MOST_SLOW)
            table = timelines(entities, versions)
            bounds = np.arange(entities + 1, dtype=np.int64) * versions
            codec = {"ipc + lz4": "lz4_raw", "ipc + zstd": "zstd"}.get(name)
            form = Packed(table.schema) if name == "packed" else Ipc(table.schema, codec)
            payloads = form.encode(table, bounds)
            assert form.decode(payloads) == table
            encode = median_us(lambda f=form, t=table, b=bounds: f.encode(t, b)) / entities
            many = median_us(lambda f=form, p=payloads: f.decode(p)) / entities
            one = median_us(lambda f=form, p=payloads: [f.decode(p[n : n + 1]) for n in range(1000)]) / 1000
            size = sum(map(len, payloads)) / entities
            print(
                f"{versions:8}  {name:14} {size:9.0f}  {encode:9.2f}  {many:14.2f}  {one:13.1f}", flush=True
            )


def median_us(once: Callable[[], object]) -> float:
    taken = []
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        once()
        taken.append((time.perf_counter() - began_s) * 1e6)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
