"""Features of a frozen tower, computed once and kept on disk."""
