"""Parquet shards of encoded images: their index, their rows, and streams of batches."""
