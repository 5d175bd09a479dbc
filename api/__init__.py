"""The HTTP service: a thin edge over ``featurestore``; no value is computed here."""
