"""A folder for the Hugging Face Hub: weights, a card with the score, an ONNX model, the checkpoint and a replay."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save as save_tensors

from graft.agents.checkpoints.files import write_durably
from graft.agents.export.exporter import EXPORTERS, Agent, Exporter, write_folder
from graft.agents.training.evaluate import evaluate
from graft.envs.factory import make

MODEL = "model"
SNIPPET = """import json, numpy, onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
contract, vectors = (json.load(open(f"model.{kind}.json")) for kind in ("contract", "vectors"))
inputs = {port["name"]: numpy.array(vectors["inputs"][port["name"]], port["dtype"]) for port in contract["inputs"]}
print(session.run(["action"], inputs)[0])
"""


class HubExporter(Exporter):
    """The folder is complete; `huggingface-cli upload NAME FOLDER` pushes it."""

    meaning = "the Hugging Face Hub: weights, card, ONNX model, checkpoint and replay"
    suffix = ""

    def write(self, agent: Agent, out: Path) -> list[str]:
        score = _score(agent)
        said: list[str] = []

        def fill(folder: Path) -> None:
            said.extend(EXPORTERS["onnx"].write(agent, folder / f"{MODEL}.onnx")[1:])
            write_durably(folder / f"{MODEL}.safetensors", save_tensors(_weights(agent)))
            agent.checkpoint.save(folder / "checkpoint")
            replay = agent.replay(folder)
            write_durably(folder / "README.md", card(agent, score, replay).encode())
            said.append(f"replay: {replay}" if replay else "no replay: the task cannot be drawn")
            if replay and not replay.endswith(".mp4"):
                said.append("the Hub shows replay.mp4; `pip install imageio-ffmpeg` brings an encoder for it")

        write_folder(out, fill)
        return [f"{out}: mean_reward {score} in {agent.episodes} episodes, greedy", *said]


def _score(agent: Agent) -> str:
    """Mean and standard deviation of the returns of greedy play; raises GraftError where the task cannot be made."""
    generator = torch.Generator().manual_seed(agent.seed)
    shown = agent.network.schemas.observation
    with closing(make(agent.checkpoint.task, min(8, agent.episodes), agent.seed, observation=shown)) as env:
        returns = evaluate(agent.network, env, agent.episodes, generator, deterministic=True, seed=agent.seed).returns
    return f"{returns.mean():.2f} +/- {returns.std():.2f}"


def _weights(agent: Agent) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in agent.checkpoint.tensors.items()}


def card(agent: Agent, score: str, replay: str | None) -> str:
    """The README: front matter as the Hub reads it, then what the agent is and how it is played."""
    checkpoint = agent.checkpoint
    task, licence = checkpoint.task, checkpoint.record.get("licence", "unspecified")
    algorithm = checkpoint.record.get("stage", {}).get("algorithm", {}).get("name", "agent")
    metric = {"type": "mean_reward", "value": score, "name": "mean_reward", "verified": False}
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
    if licence != "unspecified":
        front["license"] = licence
    origin = f"made from {checkpoint.lineage[0][:12]}" if checkpoint.lineage else "trained from scratch"
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n",
        f"# {algorithm} on {task}\n",
        f"Mean return {score} (standard deviation) in {agent.episodes} episodes of greedy play. Graft {agent.version}, "
        f"checkpoint `{str(checkpoint.id)[:12]}`, {origin}. Licence: {licence}.\n",
        *([f"![replay]({replay})\n"] if replay and replay.endswith(".gif") else []),
        f"`{MODEL}.onnx` takes raw observations and gives actions, as `{MODEL}.contract.json` says:\n",
        f"```python\n{SNIPPET}```\n",
        f"`{MODEL}.safetensors` holds the weights by name, and `checkpoint/` is what Graft plays and transfers: "
        f"`graft watch checkpoint --gif play.gif`.",
    ]
    return "\n".join(lines) + "\n"


EXPORTERS.add("hub", HubExporter())
