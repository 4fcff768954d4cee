"""A page that shows the judged images: what goes into it, and how it looks."""
