"""Prototypes: how they are reduced from embeddings, and the bank that holds them."""
