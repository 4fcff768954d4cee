"""What the files of a benchmark give away about the label."""
