"""JSON lines files as cells: each value keeps its digits until ``cast`` knows the declared type.

Time: none is interpreted here.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec
import pyarrow as pa

from featurestore.dsl.log import JSONLines
from featurestore.errors import LogError
from featurestore.log.cells import cells_of_json
from featurestore.log.files import LogFile, opened, unreadable

_BLOCK_BYTES = 1 << 24
_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_BOM = b"\xef\xbb\xbf"


def tables(log: JSONLines, file: LogFile, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    """The file's rows in order, as columns of cells; None for all keys that the rows of a table have. A key
    that none of them has is no column of that table."""
    for rows in _rows(file):
        present = dict.fromkeys(chain.from_iterable(rows))
        wanted = list(present) if columns is None else [name for name in columns if name in present]
        arrays = [cells_of_json([row.get(name) for row in rows]) for name in wanted]
        if arrays:
            yield pa.Table.from_arrays(arrays, names=wanted)
        else:
            yield pa.table({"": pa.nulls(len(rows))}).select([])


def _rows(file: LogFile) -> Iterator[list[dict[str, msgspec.Raw]]]:
    if file.size == 0:
        raise LogError(
            f'log file "{file.shown}" is empty (0 bytes)',
            hint="move it out of the log's path, or write its rows",
        )
    line = 1
    for block in _blocks(file):
        try:
            rows = _DECODER.decode_lines(block)
        except (msgspec.DecodeError, RecursionError):
            raise _malformed(file, block, line) from None
        line += block.count(b"\n")
        if rows:
            yield rows


def _blocks(file: LogFile) -> Iterator[bytes]:
    """The file in pieces that end where a line ends."""
    try:
        with opened(file) as data:
            rest = data.read(len(_BOM))
            rest = b"" if rest == _BOM else rest
            while block := data.read(_BLOCK_BYTES):
                end = block.rfind(b"\n") + 1
                if end:
                    yield rest + block[:end]
                    rest = block[end:]
                else:
                    rest += block
            if rest:
                yield rest
    except (EOFError, gzip.BadGzipFile) as error:
        raise LogError(f'log file "{file.shown}" is cut off: {error}', hint=_WAY_OUT) from error
    except OSError as error:
        raise unreadable(file.shown, error) from error


def _malformed(file: LogFile, block: bytes, first_line: int) -> LogError:
    for number, line in enumerate(block.split(b"\n"), first_line):
        try:
            _DECODER.decode_lines(line)
        except (msgspec.DecodeError, RecursionError) as error:
            said = str(error).removeprefix("JSON is malformed: ").replace(" - at `$[0]`", "")
            return LogError(f'log file "{file.shown}", line {number}: no JSON object ({said})', hint=_WAY_OUT)
    return LogError(f'log file "{file.shown}" from line {first_line} on holds no JSON objects', hint=_WAY_OUT)


_WAY_OUT = (
    'one JSON object a line; write NaN as text, "NaN"; repair the file or move it out of the log\'s path'
)
