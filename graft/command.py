"""What all commands share: their parser, exit codes, errors as sentences, and output for any terminal or pipe."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import functools
import io
import os
import sys
import unicodedata
from collections.abc import Callable
from typing import ParamSpec

from graft.errors import GraftError, disk_error

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes."""
PLAIN = {
    "→": "->",
    "±": "+-",
    "≥": ">=",
    "≤": "<=",
    "·": "-",
    "━": "-",
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{MULTIPLICATION SIGN}": "x",
}
"""What stands for a character that a terminal's encoding lacks. Accents are dropped; the rest is a question mark."""

Arguments = ParamSpec("Arguments")


def command_parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """The parser of ``graft NAME``, whose help ends with examples."""
    return argparse.ArgumentParser(
        prog=f"graft {name}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def at_least(minimum: int, **options: int | None) -> None:
    """Raise GraftError for an option of the command line that is given and below ``minimum``."""
    for name, count in options.items():
        if count is not None and count < minimum:
            raise GraftError(f"--{name.replace('_', '-')} {count} is not allowed; at least {minimum} is needed.")


def command(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """Make the main function of a command, which returns the exit code, behave as all do.

    A GraftError is printed as a sentence, Ctrl-C ends without a traceback, as does a reader that closes the pipe
    (``| head``), and characters that the terminal can't show are replaced.
    """

    @functools.wraps(main)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        for stream in sys.stdout, sys.stderr:
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=_plain.__name__)
        try:
            code = main(*args, **kwargs)
            sys.stdout.flush()
        except GraftError as error:
            print(f"error: {error}", file=sys.stderr)
            return BAD_INPUT
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            with contextlib.suppress(OSError):  # or Python complains when it flushes at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except OSError as error:
            if (sentence := disk_error(error)) is None and error.filename is None:
                raise
            of_path = GraftError(f"{error.filename} cannot be used ({error.strerror}).")
            print(f"error: {sentence or of_path}", file=sys.stderr)
            return FAILED if sentence else BAD_INPUT
        return code

    return run


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = (PLAIN.get(letter) or _ascii(letter) for letter in error.object[error.start : error.end])
    return "".join(letters), error.end


def _ascii(letter: str) -> str:
    return unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?"


codecs.register_error(_plain.__name__, _plain)
