"""The command ``graft survey``: third-party environments beside plain loops, and a small transfer with each."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.command import FAILED, at_least, command, command_parser
from graft.errors import GraftError, unknown

if TYPE_CHECKING:  # which take seconds to load
    from graft.experiments.environments.entries import Entry, Package
    from graft.experiments.environments.venvs import Venvs

EXAMPLES = """examples:
  graft survey --list                                 what is tried, and how
  graft survey --only highway-env minigrid            these packages; the table is printed
  graft survey --missing --page docs/environments.md  what the record lacks, then the table into a page
  graft survey --table                                the table of the record, without running anything
  graft survey --packages my.yaml --record my.json    packages of one's own

The list is experiments/environments/packages.yaml; one of your own has the same form. Packages are installed into
virtual environments, by uv where it is on the path, else by pip.
"""
RECORD = Path("docs/environments.json")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, or 1 where an environment that was tried differs, fails or was refused."""
    parser = command_parser(
        "survey",
        "Tries third-party environments: installs each package, plays beside a plain loop, transfers to a variant.",
        EXAMPLES,
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="packages, or ids that hold this")
    parser.add_argument("--missing", action="store_true", help="leave out what the record has")
    parser.add_argument("--list", action="store_true", help="say what would be tried, and do nothing")
    parser.add_argument("--table", action="store_true", help="make the table from the record, and try nothing")
    parser.add_argument("--packages", type=Path, metavar="YAML", help="what is tried (default: Graft's own list)")
    parser.add_argument("--record", type=Path, default=RECORD, metavar="JSON", help=f"results (default: {RECORD})")
    parser.add_argument("--page", type=Path, metavar="MD", help="write the table into this page (default: print it)")
    parser.add_argument(
        "--venvs", type=Path, default=Path("runs/survey"), metavar="DIR", help="virtual environments (runs/survey)"
    )
    parser.add_argument("--seconds", type=int, metavar="N", help="for each environment (default: as listed)")
    options = parser.parse_args(arguments)
    at_least(1, seconds=options.seconds)
    from graft.experiments.environments.entries import LISTED, read_packages
    from graft.experiments.environments.table import markdown, write_page
    from graft.experiments.environments.venvs import Venvs

    packages = read_packages(options.packages or LISTED)
    results = _read(options.record)
    chosen = _chosen(packages, options.only)
    if options.missing:
        chosen = [one for one in chosen if one[2].key not in results]
    if options.list:
        for name, _, entry in chosen:
            print(f"{name:28} {entry.key}")
        return 0
    good = True
    if not options.table:
        good = _run(chosen, results, Venvs(options.venvs), options.record, options.seconds)
    if options.page is not None:
        write_page(options.page, packages, results)
        print(f"{options.page}: the table")
    else:
        print(markdown(packages, results))
    return 0 if good else FAILED


def _read(record: Path) -> dict[str, Any]:
    if not record.exists():
        return {}
    try:
        results: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GraftError(f"{record} is no record of a survey: {error}.") from error
    return results


def _chosen(packages: dict[str, Package], only: Sequence[str]) -> list[tuple[str, Package, Entry]]:
    """Environments of the packages that are named, and those whose ids hold a word; raises GraftError for neither."""
    listed = [(name, package, entry) for name, package in packages.items() for entry in package.environments]
    for word in only:
        if not any(word == name or word in entry.key for name, _, entry in listed):
            raise unknown("package", word, packages)
    return [one for one in listed if not only or any(word == one[0] or word in one[2].key for word in only)]


def _run(
    chosen: Sequence[tuple[str, Package, Entry]],
    results: dict[str, Any],
    venvs: Venvs,
    record: Path,
    seconds: int | None,
) -> bool:
    """Try one environment after the other, and write the record after each; whether none failed or was refused."""
    good = True

    def keep(name: str, entry: Entry, found: dict[str, Any]) -> None:
        nonlocal good
        results[entry.key] = found
        record.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        summary = {key: value for key, value in found.items() if key not in ("graft", "python")}
        print(f"{name}: {entry.key}: {json.dumps(summary)}", flush=True)
        good &= not found.keys() & {"install", "error", "traceback", "timeout"}

    for venv in dict.fromkeys(package.venv for _, package, _ in chosen):
        ready = []
        for name, package, entry in (one for one in chosen if one[1].venv == venv):
            if (reason := venvs.install(name, package)) is None:
                ready.append((name, package, entry))
            else:
                keep(name, entry, {"install": reason})
        if ready:
            jobs = [_job(name, package, entry, seconds or entry.seconds) for name, package, entry in ready]
            for (name, _, entry), found in zip(ready, venvs.run(ready[0][1], jobs), strict=True):
                keep(name, entry, found)
    return good


def _job(name: str, package: Package, entry: Entry, seconds: int) -> dict[str, Any]:
    """What `check` is to do for an entry."""
    distribution = name.partition("[")[0]
    return {"entry": entry.model_dump(), "distribution": distribution, "module": package.module, "seconds": seconds}


if __name__ == "__main__":
    sys.exit(main())
