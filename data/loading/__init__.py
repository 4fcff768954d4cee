"""Make batches of records, in worker processes."""
