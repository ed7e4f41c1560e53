"""The exception that users meet: a sentence that says what was given, what is allowed and what is nearest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GraftError(ValueError):
    """Bad input. Its text is one sentence for the person who gave it; the command line exits with 2."""


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that is most like ``given``, or None where nothing is close."""
    by_folded = {name.casefold(): name for name in allowed}
    found = difflib.get_close_matches(given.casefold(), by_folded, n=1, cutoff=0.5)
    return by_folded[found[0]] if found else None


def unknown(kind: str, given: str, allowed: Iterable[str], limit: int = 24) -> GraftError:
    """The error for a name that is not one of ``allowed``.

    Args:
        kind: what the name is of, as a noun: "method", "task".
        given: the name as the user wrote it.
        allowed: the valid names; above ``limit`` only their count is printed, beside the nearest one.
    """
    names = sorted(allowed)
    listing = ", ".join(names) if len(names) <= limit else f"one of {len(names)} names"
    if not names:
        return GraftError(f"Unknown {kind} '{given}'; it takes none.")
    close = nearest(given, names)
    hint = f" Did you mean '{close}'?" if close else ""
    return GraftError(f"Unknown {kind} '{given}'; allowed: {listing}.{hint}")
