"""Modules of RLlib's PPO: layers, units and what a checkpoint says of observations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_tasks import discrete, vector
from torch import nn

from graft.agents.importing.assemble import assemble
from graft.agents.importing.formats.rllib import HARMLESS, _policy
from graft.agents.importing.parity import compare
from graft.agents.importing.source import Request
from graft.envs.core.schema import ActionSchema, Schemas
from graft.errors import GraftError

SEEN = vector("abc")
ROTATED = ActionSchema("box", ("x", "y"), (-0.5, 0.0), (0.2, 4.0))
FOUR = discrete(*"nesw")
OBS = torch.tensor(np.random.default_rng(0).normal(size=(300, 3)), dtype=torch.float32) * 2


def connectors(normalise: bool = True, clip: bool = False) -> dict[str, Any]:
    """What the process says of the pieces that RLlib puts around a module by default."""
    scaling = {"NormalizeAndClipActions": {"normalize_actions": normalise, "clip_actions": clip}}
    return {
        place: [[f"ray.rllib.connectors.x.{name}", scaling.get(name, {})] for name in names]
        for place, names in HARMLESS.items()
    }


def towers(outputs: int, head: int = 0) -> dict[str, nn.Sequential]:
    """Encoders, policy and value of a module without shared layers."""
    torch.manual_seed(0)

    def encoder() -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh())

    def last(n: int) -> nn.Sequential:
        hidden = [nn.Linear(8, head), nn.ReLU()] if head else []
        return nn.Sequential(*hidden, nn.Linear(head or 8, n))

    names = ("encoder.actor_encoder.net.mlp", "encoder.critic_encoder.net.mlp", "pi.net.mlp", "vf.net.mlp")
    return dict(zip(names, (encoder(), encoder(), last(outputs), last(1)), strict=True))


def read(made: dict[str, nn.Sequential], actions: ActionSchema, said: dict[str, Any], **names: str) -> Any:
    tensors = {f"{place}.{k}": v.detach() for place, net in made.items() for k, v in net.state_dict().items()}
    tensors["pi.log_std_clip_param_const"] = torch.tensor([20.0])
    return _policy(tensors, said, Request(Path("x"), Schemas(SEEN, actions), names=names), {})


@pytest.mark.parametrize("head", [0, 6])
def test_logits_and_values_are_the_module_s(head):
    made = towers(4, head)
    policy = read(made, FOUR, connectors())
    network = assemble(policy, Schemas(SEEN, FOUR)).network
    actor, critic, pi, vf = made.values()
    with torch.no_grad():
        if not head:  # heads of another activation keep the policy only
            torch.testing.assert_close(network(OBS).value, vf(critic(OBS)).squeeze(1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(network(OBS).action, pi(actor(OBS)), rtol=1e-5, atol=1e-5)
    assert compare(policy, network, OBS.numpy()).holds


@pytest.mark.parametrize(("normalise", "clip"), [(True, False), (False, True)])
def test_means_are_scaled_as_the_checkpoint_says(normalise, clip):
    made = towers(4)
    network = assemble(read(made, ROTATED, connectors(normalise, clip)), Schemas(SEEN, ROTATED)).network
    low, high = torch.tensor(ROTATED.low), torch.tensor(ROTATED.high)
    with torch.no_grad():
        mean = made["pi.net.mlp"](made["encoder.actor_encoder.net.mlp"](OBS))[:, :2]
    theirs = (low + (mean + 1) * (high - low) / 2 if normalise else mean).clamp(low, high)
    torch.testing.assert_close(network.act(OBS, None, deterministic=True), theirs, rtol=1e-5, atol=1e-5)


FILTER = connectors()
FILTER["env_to_module_connector"] = [["ray.rllib.connectors.env_to_module.mean_std_filter.MeanStdFilter", {}]]
OWN = connectors()
OWN["module_to_env_connector"] = [["own.NormalizeAndClipActions", {"normalize_actions": True}]]


@pytest.mark.parametrize(
    ("said", "match"),
    [
        (FILTER, "connector 'MeanStdFilter', which is not read"),
        (OWN, "connector 'NormalizeAndClipActions', which is not read"),
        ({}, "no env_runner/env_to_module_connector"),
        (connectors(False, False), "normalize_actions=False and clip_actions=False"),
        ({**connectors(), "fcnet_activation": None}, "fcnet_activation is None"),
        ({**connectors(), "fcnet_activation": "linear"}, "linear"),
    ],
)
def test_what_is_not_known_is_refused(said, match):
    with pytest.raises(GraftError, match=match):
        read(towers(4), ROTATED, said)


def test_the_user_says_what_the_folder_does_not():
    assert read(towers(4), ROTATED, {}, units="environment", observations="environment").units == "environment"
    assert read(towers(4), ROTATED, FILTER, observations="environment").units == "scaled"


def test_a_module_without_layers_is_a_sentence():
    made = {name: net for name, net in towers(4).items() if name.startswith("pi.")}
    with pytest.raises(GraftError, match="no layers that are known"):
        read(made, FOUR, connectors())
