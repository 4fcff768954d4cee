"""Parquet shards of encoded images: their index, their rows, and streams of batches.

files.py opens a shard, scan.py and columns.py read what its rows are, index.py holds that for many shards, rows.py
and pages.py read images, order.py and stream.py make training batches, plan.py chooses a part.
"""
