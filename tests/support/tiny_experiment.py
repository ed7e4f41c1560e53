"""A real experiment that takes a second: two methods on a game with short episodes, a small network."""

from __future__ import annotations

from pathlib import Path

import yaml

TINY = {
    "name": "tiny",
    "sources": "Graft/Dodge-v0",
    "targets": [{"id": "Graft/Dodge-v0", "kwargs": {"slip": 0.3}}],
    "methods": ["frozen", {"finetune": {"heads": "by_name"}}],
    "seeds": 2,
    "pretrain": {"steps": 256},
    "transfer": {"steps": 256},
    "network": {
        "options": {"channels": [4], "kernels": [3], "strides": [2], "pools": [1], "features": 16},
        "head": [8],
    },
    "algorithm": {"name": "ppo", "num_envs": 8, "num_steps": 16, "minibatch": 64, "epochs": 1},
    "evaluation": {"every": 128, "episodes": 8, "num_envs": 8},
    "recall": 8,
}


def write_config(folder: Path, **changes: object) -> Path:
    """The tiny experiment with ``changes`` at its top level, as a file; None leaves a key out."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in {**TINY, **changes}.items() if value is not None}))
    return path


def one_method(folder: Path, **changes: object) -> Path:
    """The tiny experiment with one method on another game, as a file: as little as can show who trains it."""
    fewer = {
        "sources": "Graft/Gather-v0",
        "targets": {"id": "Graft/Gather-v0", "kwargs": {"slip": 0.3}},
        "methods": {"finetune": {"heads": "by_name"}},
        "seeds": 1,
        "evaluation": {"every": 1000, "episodes": 8, "num_envs": 8},
        "recall": 4,
    }
    return write_config(folder, **{**fewer, **changes})
