"""Images on disk, in every layout users have, turned into labelled batches."""
