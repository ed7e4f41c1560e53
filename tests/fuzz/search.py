"""Looks for inputs that Graft does not refuse by a sentence, for some minutes: `make fuzz`.

Each kind gets broken inputs in turn. What is found is written into `corpus/`, where the default tests give it again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.fuzz_guard import guarded
from support.fuzz_kinds import CORPUS, KINDS, lab


def fault(kind: str, data: bytes, place: Path) -> str | None:
    """What came of an input other than sentences, by where it was raised; None where nothing did."""
    try:
        with warnings.catch_warnings(), guarded(place):
            warnings.simplefilter("ignore")
            KINDS[kind].read(data, place)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        own = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
        return f"{type(error).__name__}: {str(error)[:300]!r}\n    {' < '.join(own[::-1][:6])}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round (default: the clock)")
    parser.add_argument("--keep", type=Path, default=CORPUS, help="folder for what is found")
    parser.add_argument("kinds", nargs="*", default=[], metavar="KIND", help=f"of {', '.join(KINDS)} (default: all)")
    options = parser.parse_args()
    place = lab(Path(tempfile.mkdtemp(prefix="fuzz-")))
    os.chdir(place)
    chosen, found, counts = options.kinds or list(KINDS), dict[str, str](), Counter[str]()
    for kind in chosen:
        KINDS[kind].read(KINDS[kind].good(), place)  # which imports and compiles what later ones need
        for path in sorted((CORPUS / kind).glob("*")):
            counts[kind] += 1
            if text := fault(kind, path.read_bytes(), place):
                found[path.name] = text
                print(f"{kind} {path.name} of the corpus: {text}", flush=True)
    end, number = time.monotonic() + 60 * options.minutes, options.seed
    while time.monotonic() < end:
        for kind in chosen:
            data = KINDS[kind].broken(Random(f"{kind} {number}"))
            text, counts[kind] = fault(kind, data, place), counts[kind] + 1
            where = f"{kind} {text.partition(':')[0]} {text.rpartition('    ')[2][:120]}" if text else ""
            if text and where not in found:
                found[where] = text
                path = options.keep / kind / hashlib.sha256(data).hexdigest()[:12]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                print(f"{kind} {number} {path.name}: {text}", flush=True)
        number += 1
        if (number - options.seed) % 10 == 0:
            print(f"{counts.total():,} inputs, {len(found)} faults", flush=True)
    print(f"{counts.total():,} inputs, {len(found)} faults: {dict(counts)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
