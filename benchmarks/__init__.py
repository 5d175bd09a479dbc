"""Benchmarks: ratios side by side in one run, each checked against the oracle; never a timed test."""

import featurestore  # noqa: F401  first, as a user's program does: it chooses Arrow's allocator
