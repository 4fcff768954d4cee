"""Tables of scores and of metrics."""
