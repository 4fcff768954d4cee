"""Views and degradations of images."""
