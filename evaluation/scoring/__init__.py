"""Detectors and images -> a table of scores."""
