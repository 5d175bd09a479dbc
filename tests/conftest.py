"""What every test shares: Hypothesis profiles. `ci` repeats itself exactly, `dev` explores, `slow` explores
for long."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# No deadline anywhere: the first example of a property may read compiled loops from disk.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("dev", deadline=None, print_blob=True)
settings.register_profile(
    "slow", deadline=None, print_blob=True, max_examples=5000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
