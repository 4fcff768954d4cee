"""Find labelled images in every layout that users have, and make batches of them."""
