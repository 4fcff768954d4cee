"""What all command lines of the project share: one-line errors, and the log."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

# Our folders, whose log messages are for the user.
FOLDERS = (
    "commands",
    "data",
    "evaluation",
    "features",
    "gapl",
    "models",
    "prototype",
    "reporting",
    "training",
)


class Parser(argparse.ArgumentParser):
    """Show a description as it is written; report a wrong option in one line on stderr, with exit code 2."""

    def __init__(self, description: str | None = None, *, prog: str | None = None, **options: str) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, prog=prog, formatter_class=formatter, **options)  # type: ignore

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def run(main: Callable[[], None]) -> None:
    """Run a command. A user's mistake, or a refusal of the system, is one line on stderr and exit code 2.

    A package that is missing is such a mistake: what judges images without torch installs few of them.
    """
    logging.basicConfig(format="[%(levelname)s] %(message)s", level=logging.WARNING, stream=sys.stderr)
    for name in (*FOLDERS, "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it prints its warnings itself
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in FOLDERS:
            raise
        print(f"error: {error}; install it: pip install -r requirements.txt -c requirements.lock", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
