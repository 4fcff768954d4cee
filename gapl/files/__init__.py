"""How files are kept: written whole or not at all, and read as input that is not trusted."""
