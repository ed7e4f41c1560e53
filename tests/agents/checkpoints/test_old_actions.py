"""Checkpoints of policies that played boxes in the environment's numbers: they play what they played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_tasks import assert_same, observations, scrambled, small_config, vector

from graft.agents.checkpoints.checkpoint import MANIFEST, Checkpoint, sealed
from graft.agents.networks.box_units import KEY
from graft.agents.networks.policy_network import PolicyNetwork, build_network
from graft.agents.networks.progressive import ProgressiveNetwork
from graft.envs.core.schema import ActionSchema, Schemas
from graft.envs.core.task import Task
from graft.transfer.methods.ewc import EWC
from graft.transfer.transplant import transplant

SEEN = vector(["a", "b", "c"])
WIDE = Schemas(SEEN, ActionSchema("box", ("x", "y", "z"), (0.0, -0.3, -float("inf")), (1000.0, 0.9, 2.0)))
UNIT = Schemas(SEEN, ActionSchema("box", ("x", "y"), (-1.0, -1.0), (1.0, 1.0)))
OBS = observations(SEEN, 400)


def spread(network: PolicyNetwork) -> PolicyNetwork:
    """Weights of an old version: means and deviations are of the size of the environment's numbers."""
    scrambled(network)
    size, middle = torch.tensor([100.0, 0.1, 0.3]), torch.tensor([300.0, 0.1, -1.0])
    with torch.no_grad():
        network.policy.out.weight.sub_(1.0).mul_(size.unsqueeze(1))
        network.policy.out.bias.sub_(1.0).mul_(size).add_(middle)
        network.policy.log_std.copy_(torch.tensor([5.0, -1.0, 0.2]))
    return network


def loaded_as_old(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """Loaded from what an earlier version would have saved."""
    checkpoint.save(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest[KEY]
    (folder / MANIFEST).write_bytes(sealed(manifest)[1])
    return Checkpoint.load(folder)


def played_before(network: PolicyNetwork, obs: torch.Tensor, seed: int) -> torch.Tensor:
    """Actions of a raw Gaussian policy, clipped: what earlier versions played."""
    outputs, schema = network(obs), network.schemas.action
    noise = torch.randn(outputs.action.shape, generator=torch.Generator().manual_seed(seed))
    drawn = outputs.action + noise * outputs.log_std.exp()
    return drawn.clamp(torch.tensor(schema.low), torch.tensor(schema.high)).detach()


def test_it_plays_what_it_played(tmp_path: Path) -> None:
    network = spread(build_network(WIDE, small_config("vector"), 0))
    back = loaded_as_old(Checkpoint.of(network, Task("tiny/Source-v0")), tmp_path / "old").build()
    expected = played_before(network, OBS, 7)
    assert len(expected[:, 0].unique()) > 50  # not all are clipped
    torch.testing.assert_close(back.act(OBS, torch.Generator().manual_seed(7)), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(back(OBS).value, network(OBS).value, rtol=0, atol=0)


def test_from_minus_one_to_one_it_is_the_same_to_the_bit(tmp_path: Path) -> None:
    network = scrambled(build_network(UNIT, small_config("vector"), 0))
    back = loaded_as_old(Checkpoint.of(network, Task("tiny/Source-v0")), tmp_path / "old")
    assert_same(dict(back.tensors), dict(network.state_dict()))


def test_what_is_saved_today_is_loaded_as_it_is(tmp_path: Path) -> None:
    network = spread(build_network(WIDE, small_config("vector"), 0))
    Checkpoint.of(network, Task("tiny/Source-v0")).save(tmp_path / "new")
    assert_same(dict(Checkpoint.load(tmp_path / "new").tensors), dict(network.state_dict()))


def test_the_transplanted_policy_begins_where_the_old_one_was(tmp_path: Path) -> None:
    network = spread(build_network(WIDE, small_config("vector"), 0))
    source = loaded_as_old(Checkpoint.of(network, Task("tiny/Source-v0")), tmp_path / "old")
    options: dict[str, Any] = {"heads": "by_name", "new_channels": "zero", "rename": {}, "strict": True, "seed": 1}
    moved, report = transplant(source, WIDE, **options)
    assert not report.partial
    actions = moved.act(OBS, torch.Generator().manual_seed(7))
    torch.testing.assert_close(actions, played_before(network, OBS, 7), rtol=1e-5, atol=1e-4)


def test_every_column_plays_what_it_played(tmp_path: Path) -> None:
    earlier = spread(build_network(WIDE, small_config("vector"), 0))
    network = ProgressiveNetwork.beside(earlier, WIDE, small_config("vector"), 1)
    scrambled(network)
    spread(network.earlier)
    back = loaded_as_old(Checkpoint.of(network, Task("tiny/Source-v0")), tmp_path / "old").build()
    assert isinstance(back, ProgressiveNetwork)
    for now, before in zip(back.columns, network.columns, strict=True):
        played = now.act(OBS, torch.Generator().manual_seed(7))
        torch.testing.assert_close(played, played_before(before, OBS, 7), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("key", ["", "1/"])
def test_a_penalty_is_what_it_was(tmp_path: Path, key: str) -> None:
    """Around anchors in raw numbers, of a method alone and in a chain."""
    network, other = (spread(build_network(WIDE, small_config("vector"), s)) for s in (0, 1))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    names = [name for name, _ in network.named_parameters() if name.startswith("policy.")]
    omega = {
        name: torch.rand(t.shape, generator=generator) for name, t in network.state_dict().items() if name in names
    }
    state = EWC().anchored(network, {}, omega, 0)

    def penalty(state: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum(
            (state[f"{key}omega.0.{n}"] * (tensors[n] - state[f"{key}anchor.0.{n}"]).square()).sum() for n in names
        )

    old = {f"{key}{name}": t for name, t in state.items()}
    task = Task("tiny/Source-v0")
    of_network = loaded_as_old(Checkpoint.of(network, task, parts={"method": old}), tmp_path / "old")
    of_other = loaded_as_old(Checkpoint.of(other, task), tmp_path / "other")
    before = penalty(old, dict(other.state_dict()))
    assert before > 1
    torch.testing.assert_close(
        penalty(dict(of_network.parts["method"]), dict(of_other.tensors)), before, rtol=1e-4, atol=0
    )
