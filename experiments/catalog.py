"""The command ``graft catalog``: what can be played."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graft.command import command, command_parser
from graft.errors import GraftError

EXAMPLES = """examples:
  graft catalog                          what is installed, games, mechanics with their ranges, and views
  graft catalog --game Graft/Maze-v0     one game: what it shows, its mechanics and their defaults
  graft catalog --game Hopper-v5         the same of an environment of Gymnasium whose dynamics can be changed
  graft catalog --sheet worlds.png       every game in every view, as a picture
  graft catalog --game Graft/Generated-v0 --sheet levels.png   thirty levels of one game
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser(
        "catalog", "Lists what is installed, the built-in games, their mechanics with ranges, and the views.", EXAMPLES
    )
    parser.add_argument("--game", metavar="ID", help="one game in detail")
    parser.add_argument("--sheet", metavar="PNG", type=Path, help="draw every game in every view, or levels of --game")
    options = parser.parse_args(arguments)
    sheet: Path | None = options.sheet
    if sheet is not None and not sheet.parent.is_dir():
        raise GraftError(f"There is no folder {sheet.parent} to write {sheet.name} into.")
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise GraftError(f"--sheet {sheet} is not allowed; give a name that ends in .png.")
    from graft.envs import catalog

    if sheet is None:
        print("\n".join(catalog.detail(options.game) if options.game else catalog.overview()))
    elif options.game:
        catalog.draw_levels(options.game, sheet)
        print(f"{sheet}: levels of {options.game}")
    else:
        catalog.draw_sheet(sheet)
        print(f"{sheet}: every game in every view")
    return 0
