"""CSV files as columns of text; ``cast`` and ``infer`` give the text its types.

Time: none is interpreted here.

RFC 4180, by a loop of our own, as engines differ in what they let pass: a file that ends inside quotes is an
error here, and records may be of any length. Lines end in LF, CRLF or CR; empty lines are skipped.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.dsl.log import CSV
from featurestore.errors import LogError
from featurestore.kernel.compiled import compiled
from featurestore.log.files import LogFile, opened, unreadable

I32 = NDArray[np.int32]
Codes = NDArray[np.uint8]

_BLOCK_BYTES = 1 << 24
# A record of this length is a quote that is never closed; its block is still addressed by int32.
_LONGEST_RECORD_BYTES = 1 << 30
_BOM = b"\xef\xbb\xbf"
DONE, MORE_FIELDS_OR_FEWER, AFTER_QUOTE, OPEN_QUOTE = range(4)


def names(log: CSV, file: LogFile) -> list[str]:
    """The names of the file's columns in order, from its header or the declaration; "" for a column without
    one."""
    if log.columns is not None:
        if file.size == 0:
            raise LogError(f'log file "{file.shown}" is empty (0 bytes)', hint=_EMPTY)
        return list(log.columns)
    header = _header(log, file)
    if not header:
        raise LogError(f'log file "{file.shown}" is empty: no header', hint=_EMPTY)
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise LogError(f'log file "{file.shown}" has two columns "{twice}"', hint="give each its own name")
    return header


def tables(log: CSV, file: LogFile, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The file's rows in order, as columns of text, null where the text is one of the declared
    ``null_values``."""
    header = names(log, file)
    present = [name for name in columns if name and name in header]
    nulls = pa.array(log.null_values, pa.string())
    skip = int(log.header)
    for data, starts, ends in _records(log, file, len(header)):
        rows = len(starts) - skip
        if rows <= 0:
            skip -= len(starts)
            continue
        arrays = []
        for name in present:
            at = header.index(name)
            text = _column(data, starts[skip:, at], ends[skip:, at], ord(log.quote))
            if not _is_utf8(text):
                raise _not_utf8(file)
            arrays.append(pc.if_else(pc.is_in(text, nulls), pa.scalar(None, pa.string()), text))
        skip = 0
        yield (
            pa.Table.from_arrays(arrays, names=present)
            if arrays
            else pa.table({"": pa.nulls(rows)}).select([])
        )


def _records(
    log: CSV, file: LogFile, width: int
) -> Iterator[tuple[Codes, NDArray[np.int32], NDArray[np.int32]]]:
    """Runs of whole records: their bytes, and where each field starts and ends in them (rows x columns; a
    doubled quote inside is given by a negative end)."""
    line = 1
    rest = b""
    for block, final in _blocks(file):
        data = np.frombuffer(rest + block, np.uint8)
        most = int(np.count_nonzero(data == 10)) + int(np.count_nonzero(data == 13)) + 1
        starts, ends = np.empty((most, width), np.int32), np.empty((most, width), np.int32)
        end, rows, line, code, fields = _split(
            data, ord(log.delimiter), ord(log.quote), final, line, starts, ends
        )
        if code == MORE_FIELDS_OR_FEWER:
            raise _malformed(file, f"line {line}: {fields} fields where the header has {width}")
        if code == AFTER_QUOTE:
            raise _malformed(file, f"line {line}: something follows a closing quote")
        if code == OPEN_QUOTE or len(data) - end > _LONGEST_RECORD_BYTES:
            raise _malformed(file, f"line {line}: a quote is not closed")
        if rows:
            yield data, starts[:rows], ends[:rows]
        rest = data[end:].tobytes()


def _blocks(file: LogFile) -> Iterator[tuple[bytes, bool]]:
    """The file's bytes after a byte order mark, and whether they are the last."""
    try:
        with opened(file) as data:
            block = data.read(_BLOCK_BYTES).removeprefix(_BOM)
            while following := data.read(_BLOCK_BYTES):
                yield block, False
                block = following
            yield block, True
    except (EOFError, gzip.BadGzipFile) as error:
        raise _malformed(file, str(error)) from error
    except OSError as error:
        raise unreadable(file.shown, error) from error


def _header(log: CSV, file: LogFile) -> list[str]:
    try:
        with opened(file) as data, io.TextIOWrapper(data, "utf-8-sig", newline="") as text:
            records = csv.reader(text, delimiter=log.delimiter, quotechar=log.quote, strict=True)
            return next((record for record in records if record), [])
    except UnicodeDecodeError as error:
        raise _not_utf8(file) from error
    except (csv.Error, EOFError, gzip.BadGzipFile) as error:
        raise _malformed(file, str(error)) from error
    except OSError as error:
        raise unreadable(file.shown, error) from error


def _column(data: Codes, starts: I32, ends: I32, quote: int) -> pa.Array:
    starts, ends = np.ascontiguousarray(starts), np.ascontiguousarray(ends)
    lengths = np.abs(ends) - starts
    out = np.empty(int(lengths.sum(dtype=np.int64)), np.uint8)
    offsets = np.zeros(len(starts) + 1, np.int32)
    _gather(data, starts, ends, quote, out, offsets)
    return pa.Array.from_buffers(pa.string(), len(starts), [None, pa.py_buffer(offsets), pa.py_buffer(out)])


def _is_utf8(text: pa.Array) -> bool:
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _not_utf8(file: LogFile) -> LogError:
    return LogError(f'log file "{file.shown}" is not UTF-8', hint="convert it to UTF-8")


def _malformed(file: LogFile, said: str) -> LogError:
    return LogError(
        f'log file "{file.shown}", {said}',
        hint="is it cut off, or of another delimiter or quote? repair it, or move it out of the log's path",
    )


_EMPTY = "write the header even when there are no rows, or move the file out of the log's path"


@compiled(
    "UniTuple(int64, 5)"
    "(Array(uint8, 1, 'C', True), int64, int64, boolean, int64, int32[:, ::1], int32[:, ::1])"
)
def _split(
    data: Codes,
    delimiter: int,
    quote: int,
    final: bool,
    line: int,
    starts: NDArray[np.int32],
    ends: NDArray[np.int32],
) -> tuple[int, int, int, int, int]:
    # -> (end of the last whole record, records, line behind it or of the fault, code, fields found).
    size, width = len(data), starts.shape[1]
    at, done, rows = 0, 0, 0
    while at < size:
        if data[at] == 10 or data[at] == 13:  # an empty line
            if data[at] == 13:
                if at + 1 == size and not final:
                    break
                if at + 1 < size and data[at + 1] == 10:
                    at += 1
            at += 1
            line += 1
            done = at
            continue
        field, lines, whole = 0, 0, False
        while not whole:
            low, high, doubled = at, at, False
            if at < size and data[at] == quote:
                low = at + 1
                at = low
                closed = False
                while at < size and not closed:
                    if data[at] != quote:
                        lines += data[at] == 10
                        at += 1
                    elif at + 1 < size and data[at + 1] == quote:
                        doubled = True
                        at += 2
                    else:
                        closed = True
                if not closed:
                    return (done, rows, line, 3, 0) if final else (done, rows, line, 0, 0)
                high = at
                at += 1
                if at < size and data[at] != delimiter and data[at] != 10 and data[at] != 13:
                    return done, rows, line, 2, 0
            else:
                while at < size and data[at] != delimiter and data[at] != 10 and data[at] != 13:
                    at += 1
                high = at
            if at == size and not final:
                return done, rows, line, 0, 0
            if field < width:
                starts[rows, field] = low
                ends[rows, field] = -high if doubled else high
            field += 1
            if at == size:
                whole = True
            elif data[at] == delimiter:
                at += 1
            else:
                if data[at] == 13:
                    if at + 1 == size and not final:
                        return done, rows, line, 0, 0
                    if at + 1 < size and data[at + 1] == 10:
                        at += 1
                at += 1
                lines += 1
                whole = True
        if field != width:
            return done, rows, line, 1, field
        rows += 1
        line += lines
        done = at
    return done, rows, line, 0, 0


@compiled("void(Array(uint8, 1, 'C', True), int32[::1], int32[::1], int64, uint8[::1], int32[::1])")
def _gather(data: Codes, starts: I32, ends: I32, quote: int, out: Codes, offsets: I32) -> None:
    at = 0
    for i in range(len(starts)):
        doubled = ends[i] < 0
        k, high = starts[i], abs(ends[i])
        while k < high:
            out[at] = data[k]
            k += 2 if doubled and data[k] == quote else 1
            at += 1
        offsets[i + 1] = at
