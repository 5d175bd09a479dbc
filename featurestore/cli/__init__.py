"""The command ``featurestore``. Nothing heavy is imported before a command needs it, so help answers at once.

Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted. Results go to
stdout, everything else to stderr.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line of this process; the console script exits with what this returns."""
    from featurestore.cli.application import run

    return run(sys.argv[1:])
