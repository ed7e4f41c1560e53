"""The command ``graft``: ``graft run``, ``graft tune`` ...; each command is a module with a ``main`` of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import graft
from graft.command import command
from graft.errors import unknown

COMMANDS = {
    "run": ("graft.experiments.run", "pretrain, transfer by every method, and compare: an experiment from its config"),
    "pretrain": ("graft.experiments.pretrain", "the sources of an experiment alone, as checkpoints to transfer from"),
    "patch": ("graft.experiments.patch", "what a changed game does to an agent, and what it takes to get it back"),
    "tune": ("graft.experiments.tune", "search for options of methods and algorithms"),
    "advise": ("graft.experiments.advise", "which source and method for a target, or scratch, by a short race"),
    "merge": ("graft.experiments.merge", "one agent of several that were fine-tuned from the same base"),
    "audit": ("graft.experiments.audit", "signs of poisoned training in an agent that was fine-tuned from another"),
    "import": ("graft.experiments.import_agent", "an agent of another library, as a checkpoint"),
    "export": ("graft.experiments.export", "an agent as a file: ONNX, Unity, Godot, rsl_rl, TorchScript, SB3, a hub"),
    "serve": ("graft.experiments.serve", "decisions of an agent over HTTP and WebSocket, for many clients at once"),
    "inspect": ("graft.experiments.inspect", "what a checkpoint is, where it comes from, and how two of them differ"),
    "report": ("graft.experiments.report.__main__", "the results of one run or several as one HTML file"),
    "compare": ("graft.experiments.compare", "two runs side by side"),
    "watch": ("graft.experiments.watch", "record how an agent plays, as a GIF"),
    "match": ("graft.experiments.match", "two teams of agents against each other"),
    "check": ("graft.experiments.check", "the contracts of a method, encoder, view, wrapper or algorithm of your own"),
    "reference": ("graft.experiments.reference", "scores of random and of good play in a task"),
    "learnability": ("graft.experiments.learnability", "train every built-in game from scratch"),
    "bench": ("graft.experiments.bench", "speed of games, adapters, methods and backends"),
    "survey": ("graft.experiments.survey", "third-party environments beside plain loops, and a transfer with each"),
    "catalog": ("graft.experiments.catalog", "what can be played: providers, games, mechanics, views"),
    "play": ("graft.experiments.play", "play a built-in game in the terminal"),
}
"""Name -> the module that has its ``main``, which is imported when it is asked for, and what it does."""

ONLY_LOOK = ("inspect", "report", "compare")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: graft COMMAND [-h] ...",
            "",
            "Transfer of what a reinforcement-learning agent has learned in one game into another.",
            "",
            "commands:",
            *lines,
            "",
            "examples:",
            "  graft run                        the quickstart, a few minutes on two cores",
            "  graft run my.yaml --dry-run      what would be trained and carried over",
            "  graft run --help                 options of a command",
        ]
    )


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; returns its exit code, 2 where there is no such command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"graft {graft.__version__}")
        return 0
    if words[0] not in COMMANDS:
        raise unknown("command", words[0], COMMANDS)
    # As under ``python -m``: environments of a user's own are modules in the working directory. Where files of others
    # are only looked at, what they name is not found there.
    if words[0] not in ONLY_LOOK and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    sys.argv = [f"graft {words[0]}", *words[1:]]  # which experiments record
    code: int = import_module(COMMANDS[words[0]][0]).main(words[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
