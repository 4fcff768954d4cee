"""Random views and degradations of images."""
