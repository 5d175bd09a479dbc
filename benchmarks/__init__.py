"""Benchmarks: ratios side by side in one run, each checked against the oracle; never a timed test."""
