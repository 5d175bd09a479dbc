"""What a start costs: ``import featurestore`` and ``featurestore --help`` beside an interpreter that does
nothing.

    python -m benchmarks.startup [--rounds 15]

Each is a process of its own, in turn with the others. Prints medians of the processor's time (user and
system, which other work on the machine changes less) and of the time on the clock, and the ratios to ``python
-c pass`` in the same run. Instants play no part.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

CONTENDERS = {
    "python -c pass": "pass",
    "import featurestore": "import featurestore",
    "featurestore --help": "import sys; sys.argv = ['featurestore', '--help']; "
    "from featurestore.cli import main; main()",
}
# Seconds on the clock of an idle machine.
TARGETS_S = {"import featurestore": 0.3, "featurestore --help": 0.4}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=15)
    rounds = arguments.parse_args().rounds
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds + 1):
        for name, code in CONTENDERS.items():
            taken[name].append(start(code))
    # The first round fills the caches: of bytecode, and of the disk.
    medians = {
        name: tuple(statistics.median(part) for part in zip(*found[1:], strict=True))
        for name, found in taken.items()
    }
    bare_cpu_s, bare_clock_s = medians["python -c pass"]
    print(f"medians of {rounds}, load {os.getloadavg()[0]:.1f}")
    for name, (cpu_s, clock_s) in medians.items():
        target = f"   target {TARGETS_S[name]} s" if name in TARGETS_S else ""
        print(
            f"{name:20} cpu {cpu_s:6.3f} s ({cpu_s / bare_cpu_s:5.1f} x)"
            f"   clock {clock_s:6.3f} s ({clock_s / bare_clock_s:5.1f} x){target}"
        )


def start(code: str) -> tuple[float, float]:
    """Seconds of the processor and on the clock that a fresh interpreter takes for ``code``."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, begun_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=environment)
    clock_s, after = time.perf_counter() - begun_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return cpu_s, clock_s


if __name__ == "__main__":
    main()
