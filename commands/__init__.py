"""The subcommands of benchmarks.py, one file each: add_arguments declares the options, run does the work.

A module here is imported to parse its options, so it imports torch, pandas and the like only inside functions.
"""
