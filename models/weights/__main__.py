"""`python -m models.weights`: converts and inspects detector files."""

import cli
from models.weights.convert import main

if __name__ == "__main__":
    cli.run(main)
