"""Tables of scores -> what people read: an HTML page in one file, and a model card."""
