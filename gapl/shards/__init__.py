"""Parquet shards of encoded images, one by one: which column holds the images, and their rows in little memory."""
