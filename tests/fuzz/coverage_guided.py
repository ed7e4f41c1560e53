"""Coverage-guided search on the loaders, by atheris: `make fuzz` runs it; it needs the extra ``fuzz``.

Inputs are broken as in `search.py`, and changed byte by byte so that they reach other lines of Graft.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from random import Random

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

LOADERS = (
    *("manifest", "weights", "snapshot", "snapshot_tensors", "results", "stage", "names", "search", "request"),
    *("sb3_zip", "torch_state", "onnx", "contract"),
)

PLAYED = ("contract",)
"""Kinds whose good input is made of a game's observations."""


def fuzz(kind: str, seconds: int) -> None:
    """Read inputs of one kind for so long; ends the process with 77 at the first that is no sentence."""
    if kind in PLAYED:  # Numba, which compiles the games, cannot read what is instrumented
        from graft.envs import Task, make

        make(Task("Graft/Gather-v0"), 1, 0).reset()
    with atheris.instrument_imports(include=["graft", "yaml"]):
        from support.fuzz_guard import guarded
        from support.fuzz_kinds import CORPUS, KINDS, lab

        place, inputs = lab(Path(tempfile.mkdtemp(prefix="fuzz-")) / "lab"), CORPUS / kind
        os.chdir(place)
        KINDS[kind].read(KINDS[kind].good(), place)  # which imports the rest
    warnings.simplefilter("ignore")

    def one(data: bytes) -> None:
        with guarded(place):
            KINDS[kind].read(data, place)

    def change(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)
        return atheris.Mutate(data, most) if rng.randrange(3) else KINDS[kind].broken(rng)

    work = Path(tempfile.mkdtemp(prefix="corpus-"))
    (work / "good").write_bytes(KINDS[kind].good())
    limits = [f"-max_total_time={seconds}", "-max_len=200000", "-rss_limit_mb=0", f"-artifact_prefix={place.parent}/"]
    folders = [str(work), *([str(inputs)] if inputs.is_dir() else [])]
    atheris.Setup([sys.argv[0], *limits, *folders], one, custom_mutator=change)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of all kinds together")
    parser.add_argument("--kind", choices=LOADERS, help="one kind, in this process (default: all, one after the other)")
    options = parser.parse_args()
    if options.kind:
        fuzz(options.kind, max(1, int(60 * options.minutes)))
    each = ["--minutes", str(options.minutes / len(LOADERS))]
    failed = [k for k in LOADERS if subprocess.run([sys.executable, __file__, "--kind", k, *each]).returncode]
    print(f"Faults in: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
