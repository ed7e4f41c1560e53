"""The command ``graft export``: an agent as a file for an engine, a robot, another library or a hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from graft.command import at_least, command, command_parser

EXAMPLES = """examples:
  graft export runs/mechanics/stages/27ab12 --to onnx --out gather.onnx
  graft export runs/mechanics/stages/27ab12 --to unity --out Assets/Models/gather.onnx
  graft export runs/mechanics/stages/27ab12 --to hub --out gather-agent
  graft export --verify gather.onnx

{formats}docs/export.md says what each format reads and gives.
Nothing is written unless the file does what the agent does in evaluation, in all the states that it is checked on.
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    about = "Write an agent in a format that other programs read, or check one."
    parser = command_parser("export", about, EXAMPLES.format(formats=_formats()))
    parser.add_argument("checkpoint", nargs="?", help="folder of a checkpoint or of its stage")
    parser.add_argument("--to", metavar="FORMAT", help="what to write")
    parser.add_argument("--out", type=Path, metavar="PATH", help="file, or folder, to write")
    parser.add_argument("--states", type=int, default=1000, metavar="N", help="states to check it in, at least 1000")
    parser.add_argument(
        "--episodes", type=int, default=20, metavar="N", help="of evaluations: a hub's card, int8, distilling (20)"
    )
    parser.add_argument("--quantise", choices=["int8"], help="weights in bytes; says what is kept of the agent")
    parser.add_argument(
        "--distill-to", dest="distil_to", metavar="mlp:64x64", help="a smaller network that learns to play the same"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the states and the evaluation (0)")
    parser.add_argument("--force", action="store_true", help="replace the file or folder where it exists")
    parser.add_argument("--verify", type=Path, metavar="FILE", help="check a model with its contract and vectors")
    options = parser.parse_args(arguments)
    at_least(1, episodes=options.episodes)
    at_least(0, seed=options.seed)
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # pygame, which draws for Gymnasium, looks for a sound card
    import torch
    from rich.console import Console

    from graft.experiments.playback.export import run

    torch.set_num_threads(1)
    run(Console(highlight=False, markup=False), options)
    return 0


def _formats() -> str:
    """What each format is, a line for each: the first line of its file, as importing them takes seconds."""
    folder = Path(__file__).parents[1] / "agents" / "export" / "formats"
    lines = {
        path.stem: path.read_text(encoding="utf-8").split('"""')[1].replace("``", "")
        for path in sorted(folder.glob("[!_]*.py"))
    }
    return "formats:\n" + "".join(f"  {name:12} {line}\n" for name, line in lines.items())
