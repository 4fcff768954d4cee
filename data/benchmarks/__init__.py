"""Benchmarks: their descriptions, where they are, and whether they are whole."""
