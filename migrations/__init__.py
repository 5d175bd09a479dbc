"""The store's schema, one revision a file; ``featurestore migrate`` brings a store to the newest."""
