"""The exception that users meet: a sentence that says what was given, what is allowed and what is nearest."""

from __future__ import annotations

import difflib
import errno
import unicodedata
from collections.abc import Iterable

DISK = {
    errno.ENOSPC: ("is full", "make room"),
    getattr(errno, "EDQUOT", errno.ENOSPC): ("is full", "make room"),
    errno.EFBIG: ("takes no file so large", "raise its limit (ulimit -f)"),
    errno.EROFS: ("can only be read", "make it writable"),
    errno.EIO: ("has an error", "check it"),
}
"""What a disk may have, and what to do about it, by error number."""


def disk_error(error: BaseException) -> str | None:
    """The sentence for a disk that is full or broken; None where ``error`` and its causes are something else."""
    cause: BaseException | None = error
    while cause is not None:
        # EIO without a file's name is of a terminal that has gone, or of a device.
        if isinstance(cause, OSError) and cause.errno in DISK and (cause.errno != errno.EIO or cause.filename):
            what, then = DISK[cause.errno]
            where = f" ({cause.filename})" if cause.filename else ""
            return f"The disk {what}{where}; {then}, then give the same command again, which goes on from there."
        cause = cause.__cause__ or cause.__context__
    return None


LONGEST = 4000
"""Letters of an error's text."""


class GraftError(ValueError):
    """Bad input. Its text is one sentence for the person who gave it; the command line exits with 2.

    What it quotes may be of somebody else's file: it is cut where it is long, and has nothing that a terminal obeys.
    """

    def __init__(self, text: str = "") -> None:
        text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
        super().__init__("".join(c if c in "\n\t" else printable(c) for c in text))


def printable(text: str, most: int = 80) -> str:
    """At most ``most`` characters, none of which a terminal would obey: control characters, marks of direction and
    line separators are "?"; spaces of any width and letters of any script are as they were.
    """
    return "".join("?" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text[:most])


def shown(value: object, most: int = 200) -> str:
    """``value`` as an error quotes it: its first letters where it is long, and none that a terminal would obey."""
    text = printable(repr(value), most + 1)
    return text if len(text) <= most else f"{text[:most]}..."


def some(names: Iterable[str], most: int = 8) -> str:
    """The first ``most`` names, and how many others there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def nearest(given: str, allowed: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The allowed name that is most like ``given``, or None where none is as close as ``cutoff`` (0 to 1)."""
    by_folded = {name.casefold(): name for name in allowed}
    found = difflib.get_close_matches(given.casefold(), by_folded, n=1, cutoff=cutoff)
    return by_folded[found[0]] if found else None


def unknown(
    kind: str, given: object, allowed: Iterable[str], limit: int = 24, cutoff: float = 0.5, meant: str | None = None
) -> GraftError:
    """The error for a name that is not one of ``allowed``.

    Args:
        kind: what the name is of, as a noun: "method", "task".
        given: the name as the user wrote it.
        allowed: the valid names; above ``limit`` only their count is printed, beside the nearest one.
        cutoff: how close that has to be, as of `nearest`.
        meant: the name to suggest instead, where it is known.
    """
    names, given = sorted(set(allowed)), printable(str(given), 200)
    listing = ", ".join(names) if len(names) <= limit else f"one of {len(names)} names"
    if not names:
        return GraftError(f"Unknown {kind} '{given}'; it takes none.")
    close = meant or nearest(given, names, cutoff)
    hint = f" Did you mean '{close}'?" if close else ""
    return GraftError(f"Unknown {kind} '{given}'; allowed: {listing}.{hint}")
