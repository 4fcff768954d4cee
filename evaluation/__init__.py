"""Scores of a detector on a manifest, and the metrics of a table of scores."""
