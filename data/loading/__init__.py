"""Records -> batches, in worker processes."""
