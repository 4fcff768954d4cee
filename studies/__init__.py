"""Measure what a detector gains from each choice: the experiments behind docs/study.md."""
