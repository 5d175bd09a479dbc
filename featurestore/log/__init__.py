"""Readers of warehouse logs: files and pushed rows become versions. A log's order influences no value."""
