"""Parquet shards of encoded images: their index, their rows, and streams of batches.

files.py finds shards, scan.py reads what the rows of one are, index.py holds that for many, order.py and stream.py
make training batches, plan.py chooses a part. gapl/shards opens a shard and reads its images.
"""
