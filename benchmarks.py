"""Scores detectors on every benchmark below a folder: per-image scores to parquet, then tables.

    python benchmarks.py --model_path runs/stage2/detector.safetensors --data-root DIR
    python benchmarks.py run --model_path A.safetensors B.safetensors --data-root DIR --benchmarks GenImage,UFD
    python benchmarks.py list --data-root DIR           what is there, beside what was published
    python benchmarks.py verify --data-root DIR         every image read: broken and doubled ones, formats, sizes
    python benchmarks.py merge OUT1 OUT2 --out OUT      the parts of `run --shard 1/2` and `--shard 2/2`
    python benchmarks.py report scores.parquet          tables of this or another tool's scores
    python benchmarks.py report scores.parquet --html report.html
    python benchmarks.py compare A.parquet B.parquet    two detectors on the same images
    python benchmarks.py audit --data-root DIR          what file format, size and compression tell of the label
    python benchmarks.py card scores.parquet --model_path FILE --licence mit --out README.md
    python benchmarks.py calibrate scores.parquet --model_path A.safetensors --out B.safetensors

A data root with a folder `bench` is searched there. `run`, which is meant when no command is named, scores every
image of every subset: <out>/scores.parquet has a row for each, <out>/metrics.csv, .md and .tex the table. A run
that was stopped is continued by the same command; under torchrun the processes share the images.
"""

from __future__ import annotations

import importlib
import sys

import cli

DEFAULT = "run"
COMMANDS = {  # module in commands/ -> its line in --help
    "run": "score detectors (the default)",
    "list": "what is there",
    "verify": "read every image",
    "merge": "parts of several machines -> a table",
    "report": "tables of scores",
    "compare": "two detectors on the same images",
    "audit": "what format, size and compression tell of the label",
    "calibrate": "thresholds and probabilities, from held-out scores",
    "card": "a model card for the Hugging Face hub",
}


def main() -> None:
    """Import the module of the command that is named, and no other."""
    words = sys.argv[1:]
    if not words or words[0] not in (*COMMANDS, "-h", "--help"):
        words = [DEFAULT, *words]
    parser = cli.Parser(__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, parser_class=cli.Parser)
    parsers = {name: subparsers.add_parser(name, help=text) for name, text in COMMANDS.items()}
    if words[0] not in COMMANDS:
        parser.parse_args(words)  # prints the help and exits
    command = importlib.import_module(f"commands.{words[0]}")
    command.add_arguments(parsers[words[0]])
    command.run(parser.parse_args(words))


if __name__ == "__main__":
    cli.run(main)
