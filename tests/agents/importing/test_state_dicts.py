"""State dicts of other libraries with a mapping of names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graft.agents.importing.agent import import_agent
from graft.agents.importing.parity import compare
from graft.agents.importing.source import Request
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.errors import GraftError

SEEN = ObservationSchema("vector", tuple("abcde"), ((),) * 5, (5,), "float32", (-np.inf,) * 5, (np.inf,) * 5)
BOX = ActionSchema("box", ("x", "y"), (-np.inf,) * 2, (np.inf,) * 2)
ROTATED = ActionSchema("box", ("x", "y"), (-0.5,) * 2, (0.2,) * 2)
FOUR = ActionSchema("discrete", tuple("nesw"))
OBS = np.random.default_rng(0).normal(size=(1000, 5)).astype(np.float32) * 4


def tower(outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 16), activation(), nn.Linear(16, 16), activation(), nn.Linear(16, outputs))


class CleanRL(nn.Module):
    """Layout of CleanRL's agents for continuous actions."""

    def __init__(self) -> None:
        super().__init__()
        self.critic, self.actor_mean = tower(1, nn.Tanh), tower(2, nn.Tanh)
        self.actor_logstd = nn.Parameter(torch.tensor([[-0.5, 0.5]]))


CLEANRL = {
    "kind": "gaussian",
    "activation": "tanh",
    "policy": "actor_mean",
    "value": "critic",
    "log_std": "actor_logstd",
}


def read(state: Any, path: Any, actions: ActionSchema, names: dict[str, Any]) -> Any:
    torch.save(state, path / "agent.pt")
    return import_agent(Request(path / "agent.pt", Schemas(SEEN, actions), names=names))


@pytest.mark.parametrize("actions", [BOX, ROTATED])
def test_cleanrl(actions, tmp_path):
    torch.manual_seed(0)
    model = CleanRL()
    imported = read(model.state_dict(), tmp_path, actions, CLEANRL)
    network = imported.assembly.network
    with torch.no_grad():
        theirs = model.actor_mean(torch.tensor(OBS)).clamp(torch.tensor(actions.low), torch.tensor(actions.high))
        torch.testing.assert_close(network.act(OBS, None, deterministic=True), theirs, rtol=0, atol=1e-5)
        torch.testing.assert_close(network(torch.tensor(OBS)).value, model.critic(torch.tensor(OBS)).squeeze(1))
    assert compare(imported.policy, network, OBS).holds
    assert {row.tensor for row in imported.assembly.rows} == model.state_dict().keys()
    assert not imported.assembly.unused
    assert not imported.assembly.made
    scale = 1.0 if actions is BOX else 0.35  # deviations are in the policy's units, -1 to 1 between bounds
    expected = model.actor_logstd.flatten() - np.log(scale)
    torch.testing.assert_close(network.policy.log_std, nn.Parameter(expected))


def test_rsl_rl_with_its_normaliser(tmp_path):
    torch.manual_seed(0)
    actor, critic = tower(2, nn.ELU), tower(1, nn.ELU)
    mean, std = torch.randn(1, 5), torch.rand(1, 5) + 0.1
    state = {f"actor.{k}": v for k, v in actor.state_dict().items()} | {"std": torch.tensor([0.5, 2.0])}
    state |= {f"critic.{k}": v for k, v in critic.state_dict().items()}
    state |= {"actor_obs_normalizer._mean": mean, "actor_obs_normalizer._var": std**2, "actor_obs_normalizer._std": std}
    saved = {"model_state_dict": state, "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}}, "iter": 3}
    model = "model_state_dict"
    names = {
        "kind": "gaussian",
        "activation": "elu",
        "policy": f"{model}.actor",
        "value": f"{model}.critic",
        "std": f"{model}.std",
        "statistics": {
            "mean": f"{model}.actor_obs_normalizer._mean",
            "std": f"{model}.actor_obs_normalizer._std",
            "epsilon": 0.01,
        },
        "unused": ["optimizer_state_dict", f"{model}.actor_obs_normalizer"],
    }
    imported = read(saved, tmp_path, BOX, names)
    with torch.no_grad():
        theirs = actor((torch.tensor(OBS) - mean) / (std + 0.01))
    ours = imported.assembly.network.act(OBS, None, deterministic=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert compare(imported.policy, imported.assembly.network, OBS).holds
    assert "optimizer_state_dict.state.0.exp_avg" in imported.assembly.unused


def test_a_shared_trunk_and_q_values(tmp_path):
    torch.manual_seed(0)
    net = tower(4, nn.ReLU)
    imported = read(
        {f"q.{k}": v for k, v in net.state_dict().items()},
        tmp_path,
        FOUR,
        {
            "kind": "greedy",
            "activation": "relu",
            "trunk": ["q.0"],
            "policy": ["q.2", "q.4"],
        },
    )
    with torch.no_grad():
        theirs = net(torch.tensor(OBS))
        torch.testing.assert_close(imported.assembly.network(torch.tensor(OBS)).action, theirs)
    assert imported.assembly.network.config.options["widths"] == [16]


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ({}, "no known format"),
        ({"kind": "greedy"}, "policy: field required"),
        ({**CLEANRL, "polcy": "x"}, "polcy"),
        ({**CLEANRL, "policy": "actor"}, "no layers actor.0"),
        ({**CLEANRL, "value": []}, "says nothing of 6 tensors"),
        ({**CLEANRL, "statistics": {"mean": "actor_logstd"}}, "either var or std"),
    ],
)
def test_wrong_names_are_a_sentence(names, match, tmp_path):
    with pytest.raises(GraftError, match=match):
        read(CleanRL().state_dict(), tmp_path, BOX, names)
