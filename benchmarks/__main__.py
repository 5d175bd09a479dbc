"""All benchmarks, one after the other: ``python -m benchmarks [NAME ...]``; each says its own options with
--help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = (
    "training_set",
    "changes",
    "backfill",
    "serving",
    "store_io",
    "compaction",
    "postgres",
    "stream",
    "store_payload",
    "kernel_sums",
    "kernel_ranked",
    "startup",
)


def main() -> int:
    wanted = sys.argv[1:] or [name for name in NAMES if (Path(__file__).parent / f"{name}.py").exists()]
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        print(f"no benchmark {unknown[0]}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    failed = 0
    for name in wanted:
        print(f"== {name}", flush=True)
        failed |= subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
