"""Stream workers: a thin shell that polls, decodes, steps and writes; not built yet (see
docs/architecture.md)."""
