"""The revisions in their order; ``featurestore.store.schema.REVISIONS`` lists them."""
