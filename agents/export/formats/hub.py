"""A folder for the Hugging Face Hub: weights, a card with the score, an ONNX model, the checkpoint and a replay."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import save as save_tensors

from graft.agents.checkpoints.checkpoint import UNSPECIFIED, Checkpoint
from graft.agents.checkpoints.files import write_durably
from graft.agents.export.contract import beside
from graft.agents.export.exporter import EXPORTERS, Agent, Exporter, write_folder
from graft.agents.training.evaluate import evaluate
from graft.envs.factory import make

MODEL = "model"
SNIPPET = """import json, numpy, onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
contract, vectors = (json.load(open(f"model.onnx.{kind}.json")) for kind in ("contract", "vectors"))
inputs = {port["name"]: numpy.array(vectors["inputs"][port["name"]], port["dtype"]) for port in contract["inputs"]}
print(session.run(["action"], inputs)[0])
"""

KNOWN = (
    "afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 "
    "cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 ecl-2.0 epl-1.0 "
    "epl-2.0 etalab-2.0 eupl-1.1 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa "
    "odbl ofl-1.1 osl-3.0 pddl postgresql unlicense wtfpl zlib"
)
"""Licences that the Hub has ids of; others are ``other`` there, with a name."""


class Score(NamedTuple):
    """Mean and standard deviation of returns, as the Hub writes them, and of how many episodes."""

    text: str
    episodes: int


class HubExporter(Exporter):
    """The folder is complete; `huggingface-cli upload NAME FOLDER` pushes it."""

    suffix = ""
    marker = beside(Path(f"{MODEL}.onnx"), "contract").name

    def write(self, agent: Agent, out: Path) -> list[str]:
        onnx_exporter = EXPORTERS["onnx"]
        score = _score(agent)
        lines: list[str] = []

        def fill(folder: Path) -> None:
            saved = replace(agent, checkpoint=_saved(agent.checkpoint, folder / "checkpoint"))
            lines.extend(onnx_exporter.write(saved, folder / f"{MODEL}.onnx")[1:])
            write_durably(folder / f"{MODEL}.safetensors", save_tensors(_weights(agent)))
            replay = agent.replay(folder)
            write_durably(folder / "README.md", card(saved, score, replay).encode())
            lines.append(f"replay: {replay}" if replay else "no replay: the task cannot be drawn")
            if replay and not replay.endswith(".mp4"):
                lines.append("the Hub's own player needs replay.mp4; `pip install imageio-ffmpeg` brings its encoder")

        write_folder(out, self.marker, fill)
        return [f"{out}: mean_reward {score.text} in {score.episodes} episodes, greedy", *lines]


def _saved(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """Save a checkpoint; one of an older version gets another id, and its own comes first in the lineage."""
    identity = checkpoint.save(folder)
    if identity != checkpoint.id and checkpoint.id is not None:
        checkpoint = replace(checkpoint, lineage=(checkpoint.id, *checkpoint.lineage))
        identity = checkpoint.save(folder)
    return replace(checkpoint, id=identity)


def _score(agent: Agent) -> Score:
    """The returns of greedy play; raises GraftError where the task cannot be made."""
    generator = torch.Generator().manual_seed(agent.seed)
    shown = agent.network.schemas.observation
    with closing(make(agent.checkpoint.task, min(8, agent.episodes), agent.seed, observation=shown)) as env:
        returns = evaluate(agent.network, env, agent.episodes, generator, deterministic=True, seed=agent.seed).returns
    return Score(f"{returns.mean():.2f} +/- {returns.std():.2f}", len(returns))


def _weights(agent: Agent) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in agent.checkpoint.tensors.items()}


def card(agent: Agent, score: Score, replay: str | None) -> str:
    """The README: front matter as the Hub reads it, then what the agent is and how it is played."""
    checkpoint = agent.checkpoint
    task, licence = checkpoint.task, checkpoint.record.get("licence") or UNSPECIFIED
    algorithm = ((checkpoint.record.get("stage") or {}).get("algorithm") or {}).get("name", "agent")
    metric = {"type": "mean_reward", "value": score.text, "name": "mean_reward", "verified": False}
    front: dict[str, Any] = {
        "library_name": "graft",
        "tags": [task.id, "reinforcement-learning", "deep-reinforcement-learning", "graft", algorithm],
        "model-index": [
            {
                "name": f"{algorithm}-{task}",
                "results": [
                    {
                        "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
                        "dataset": {"name": str(task), "type": task.id},
                        "metrics": [metric],
                    }
                ],
            }
        ],
    }
    front |= _licence(licence)
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n",
        f"# {algorithm} on {task}\n",
        f"Mean return {score.text} (standard deviation) in {score.episodes} episodes of greedy play. "
        f"Graft {agent.version}, checkpoint `{str(checkpoint.id)[:12]}`, {_origin(checkpoint)}. Licence: {licence}.\n",
        *([f"![replay]({replay})\n"] if replay and replay.endswith(".gif") else []),
        f"`{MODEL}.onnx` takes raw observations and gives actions, as `{MODEL}.onnx.contract.json` says:\n",
        f"```python\n{SNIPPET}```\n",
        f"`{MODEL}.safetensors` holds the weights by name, and `checkpoint/` is what Graft plays and transfers: "
        f"`graft watch checkpoint --gif play.gif`.",
    ]
    return "\n".join(lines) + "\n"


def _licence(name: str) -> dict[str, str]:
    """The entries of the front matter; the Hub's ids are SPDX ids in small letters, where it has one."""
    if name == UNSPECIFIED:
        return {}
    known = name.lower().removesuffix("-only")
    return {"license": known} if known in KNOWN.split() else {"license": "other", "license_name": name}


def _origin(checkpoint: Checkpoint) -> str:
    if checkpoint.lineage:
        return f"made from {checkpoint.lineage[0][:12]}"
    return "trained from scratch" if checkpoint.record.get("stage") else "origin not recorded"


EXPORTERS.add("hub", HubExporter())
