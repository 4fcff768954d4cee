"""Where images come from: files, folders, archives, shards, tables of paths, videos, URLs and stdin.

scan.py finds them all. Each is an Input (input.py): a name, and a way to read its encoded bytes.
"""
