"""Benchmarks: what was published, what is there, and whether it is whole."""
