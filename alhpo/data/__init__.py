"""Image data sets, where they come from, their batches, and the pool that is labelled."""
