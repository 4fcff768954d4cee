"""The open corpus: the list of its pictures, and what it takes to collect them from public git hosting."""
