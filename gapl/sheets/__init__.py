"""One page for each image that explains its verdict, and an index of them."""
