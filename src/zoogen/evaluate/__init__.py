"""Tasks on weights: targets, splits that do not leak, readers, and how they compare."""
