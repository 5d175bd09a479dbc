"""Stream workers: topics into the store, each message exactly once. Started by ``featurestore stream``, or as
``python -m streaming``."""
