"""How the embedded DuckDB reads logs: what it may do, and how much at once.

Time: its zone is UTC, and it interprets no time of a log.
"""

from __future__ import annotations

# A million rows of four columns are about 32 MB: small beside a file, large beside the cost of a call.
BATCH_ROWS = 1 << 20

# Nothing is fetched over a network, nothing is spilled beside the caller's files, and no name in a query is a
# variable of this program.
ENGINE: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "memory_limit": "1GB",
    "temp_directory": "",
    "python_enable_replacements": False,
    # Rows come as they were inserted, whatever the number of threads: "the first n rows" means something.
    "preserve_insertion_order": True,
}
