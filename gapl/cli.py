"""What all command lines of the project share: one-line errors, and the log."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from gapl import interrupts

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


def run(main: Callable[[], int | None]) -> None:
    """Run a command, and end with the exit code that it returns, if it does.

    A user's mistake, or a refusal of the system, is one line on stderr and exit code 2.
    A package that is missing is such a mistake: what judges images without torch installs few of them.
    """
    if sys.stderr is None:  # closed; libraries write to it, and print() would write to stdout instead
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    logging.basicConfig(format="[%(levelname)s] %(message)s", level=logging.WARNING, stream=sys.stderr)
    for name in (*FOLDERS, "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it prints its warnings itself
    if sys.stdout is None:
        print("error: stdout is closed; give the command somewhere to write to", file=sys.stderr)
        sys.exit(2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names hold what an old console cannot show
    try:
        interrupts.raise_again()
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in FOLDERS:
            raise
        print(f"error: {error}; install it: pip install -r requirements.txt -c requirements.lock", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    else:
        sys.exit(code)


def printable(text: object) -> str:
    """Return a text, such as a path, with escapes for what cannot be shown: a name must not forge a line."""
    return "".join(each if each.isprintable() else _escaped(each) for each in str(text))


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a name that is not UTF-8
        return f"\\x{os.fsencode(character)[0]:02x}"
    return character.encode("unicode_escape").decode()
