"""The command ``graft serve``: decisions of an agent over HTTP and WebSocket."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graft.command import at_least, command, command_parser
from graft.errors import GraftError

DESCRIPTION = """Answers observations with actions, over HTTP and WebSocket, for engines that cannot load ONNX.
Requests of several clients are decided in one forward pass. docs/serve.md has the messages.

  POST /decide    {"obs": [[...], ...]} -> {"action": [...], "model": hash}
  GET  /ws        a WebSocket: the same messages, one answer to each
  GET  /contract  inputs, with names, shapes and bounds, and actions
  GET  /health, /stats
  POST /swap      reads CHECKPOINT again, and lets it decide from then on"""

EXAMPLES = """examples:
  graft serve runs/mechanics/stages/27ab12 --port 8000
  graft serve npc.onnx --port 8000 --sampled
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("serve", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "checkpoint", type=Path, help="folder of a checkpoint or of its stage, or a file of graft export --to onnx"
    )
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="0 takes a free one (default: 8000)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; the default is this machine alone")
    parser.add_argument("--queue", type=int, default=512, metavar="N", help="requests that may wait (512)")
    parser.add_argument("--max-bytes", type=int, default=2**20, metavar="N", help="of a message (1048576)")
    parser.add_argument("--sampled", action="store_true", help="draw actions instead of playing the most likely one")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of drawn actions (0)")
    options = parser.parse_args(arguments)
    at_least(1, queue=options.queue, max_bytes=options.max_bytes)
    at_least(0, port=options.port, seed=options.seed)
    if options.port > 65535:
        raise GraftError(f"--port {options.port} is not allowed; ports are from 0 to 65535.")
    if options.seed and not options.sampled:
        raise GraftError("--seed is of drawn actions; add --sampled, or leave it out.")
    import asyncio

    import numpy as np

    from graft.experiments.playback.agent import find_checkpoint
    from graft.experiments.serving.batcher import Batcher

    try:
        from graft.experiments.serving.server import Server, serve
    except ImportError as error:
        raise GraftError(
            f"graft serve needs the package aiohttp ({error}): `pip install 'graft-rl[serve]'`."
        ) from error
    rng = np.random.default_rng(options.seed) if options.sampled else None
    batcher = Batcher(find_checkpoint(options.checkpoint), options.queue, rng)

    def say(address: str) -> None:
        print(f"{options.checkpoint} ({batcher.model.version[:12]}) at {address}; Ctrl-C ends", flush=True)

    asyncio.run(serve(Server(batcher, options.max_bytes), options.host, options.port, say))
    return 0
