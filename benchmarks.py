"""Score detectors on every benchmark below a folder: a table of scores, an image a row, then tables of metrics.

    python benchmarks.py --model_path runs/stage2/detector.safetensors --data-root DIR
    python benchmarks.py run --model_path A.safetensors B.safetensors --data-root DIR --benchmarks GenImage,UFD
    python benchmarks.py list --data-root DIR           which benchmarks are there, beside the published counts
    python benchmarks.py verify --data-root DIR         read every image: broken and doubled ones, formats, sizes
    python benchmarks.py merge OUT1 OUT2 --out OUT      join what `run --shard 1/2` and `--shard 2/2` have scored
    python benchmarks.py report scores.parquet          tables of metrics, of our scores or another tool's
    python benchmarks.py report scores.parquet --html report.html
    python benchmarks.py compare A.parquet B.parquet    two detectors on the same images
    python benchmarks.py drift BEFORE.parquet NOW.parquet   has the stream of images changed?
    python benchmarks.py audit --data-root DIR          do file format, size and compression give the label away?
    python benchmarks.py card scores.parquet --model_path FILE --licence mit --out OUT/README.md
    python benchmarks.py calibrate scores.parquet --model_path A.safetensors --out B.safetensors

If the data root has a folder `bench`, only that is searched. Without a subcommand, `run` is meant: it scores every
image of every subset and writes <out>/scores.parquet and the tables <out>/metrics.csv, .md and .tex. The same
command continues a run that was stopped; under torchrun the processes share the images.
"""

from __future__ import annotations

import importlib
import sys

from gapl import cli

DEFAULT = "run"
COMMANDS = {  # module in commands/ -> its line in --help
    "run": "score detectors (the default)",
    "list": "show which benchmarks are there",
    "verify": "read every image and report what is wrong",
    "merge": "join the scores of several machines",
    "report": "make tables, or a page, from scores",
    "compare": "compare two detectors on the same images",
    "audit": "measure how format, size and compression give the label away",
    "calibrate": "fit thresholds and probabilities to scores of held-out images",
    "drift": "tell whether a stream of images has changed, and which to label first",
    "card": "write a model card for the Hugging Face hub",
}


def main() -> int | None:
    """Import the module of the command that is named, and no other; return its exit code, if it has one."""
    words = sys.argv[1:]
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        raise ValueError(f"unknown command {words[0]!r}; choose from {', '.join(COMMANDS)}")
    if not words or words[0] not in (*COMMANDS, "-h", "--help"):
        words = [DEFAULT, *words]
    parser = cli.Parser(__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, parser_class=cli.Parser)
    parsers = {name: subparsers.add_parser(name, help=text) for name, text in COMMANDS.items()}
    if words[0] not in COMMANDS:
        parser.parse_args(words)  # prints the help and exits
    command = importlib.import_module(f"commands.{words[0]}")
    command.add_arguments(parsers[words[0]])
    code: int | None = command.run(parser.parse_args(words))
    return code


if __name__ == "__main__":
    cli.run(main)
