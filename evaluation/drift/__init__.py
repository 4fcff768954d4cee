"""Two tables of one detector's verdicts -> whether the stream of images has changed, and which images to label."""
