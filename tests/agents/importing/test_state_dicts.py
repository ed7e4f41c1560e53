"""State dicts of other libraries with a mapping of names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_tasks import box, discrete, pixels, vector
from torch import nn

from graft.agents.importing.agent import import_agent
from graft.agents.importing.parity import compare
from graft.agents.importing.source import Request
from graft.envs.core.schema import ActionSchema, Schemas
from graft.errors import GraftError

SEEN, FOUR = vector("abcde"), discrete(*"nesw")
BOX, ROTATED = box("xy", -np.inf, np.inf), box("xy", -0.5, 0.2)
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


def test_convolutions(tmp_path):
    """Of a picture whose sides no two are alike, with a stride and a padding."""
    torch.manual_seed(0)
    space = pixels("rgb", 12, 17)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 5 * 8, 10),
        nn.ReLU(),
        nn.Linear(10, 4),
    )
    torch.save(net.state_dict(), tmp_path / "agent.pt")
    names = {
        "kind": "categorical",
        "convolutions": [{"place": "0", "stride": 2, "padding": 1}, {"place": "2"}],
        "features": ["5"],
        "policy": ["7"],
    }
    imported = import_agent(Request(tmp_path / "agent.pt", Schemas(space, FOUR), names=names))
    obs = np.random.default_rng(0).integers(0, 256, (50, 3, 12, 17)).astype(np.uint8)
    with torch.no_grad():
        theirs = net(torch.tensor(obs).float() / 255)
        torch.testing.assert_close(imported.assembly.network(torch.tensor(obs)).action, theirs, rtol=1e-4, atol=1e-5)
    assert compare(imported.policy, imported.assembly.network, obs).holds


def test_after_a_tanh_means_are_between_the_bounds(tmp_path):
    torch.manual_seed(0)
    actor = tower(2, nn.ReLU)
    state = {f"actor.{k}": v for k, v in actor.state_dict().items()}
    names = {"kind": "squashed", "activation": "relu", "policy": "actor"}
    low, high = torch.tensor(ROTATED.low), torch.tensor(ROTATED.high)
    with torch.no_grad():
        theirs = low + (actor(torch.tensor(OBS)).tanh() + 1) / 2 * (high - low)
    for more in ({}, {"units": "scaled"}):
        network = read(state, tmp_path, ROTATED, {**names, **more}).assembly.network
        torch.testing.assert_close(network.act(OBS, None, deterministic=True), theirs, rtol=0, atol=1e-5)
    with pytest.raises(GraftError, match="does not go with kind: squashed"):
        read(state, tmp_path, ROTATED, {**names, "units": "environment"})


@pytest.mark.parametrize(
    ("change", "names", "match"),
    [
        ({"actor_logstd": torch.zeros(3)}, {}, "needs 2 finite deviations; it has 3"),
        ({"actor_logstd": torch.full((2,), torch.nan)}, {}, "needs 2 finite deviations"),
        ({}, {"kind": "squashed"}, "squashed actions do not have"),
        ({}, {"spread": "actor_mean.4", "log_std": None, "unused": ["actor_logstd"]}, "Only squashed actions"),
        (
            {"s.weight": torch.zeros(3, 16)},
            {"kind": "squashed", "spread": "s", "log_std": None, "unused": ["actor_logstd"]},
            r"\(2, 16\) is needed",
        ),
    ],
)
def test_deviations_that_do_not_fit_are_a_sentence(change, names, match, tmp_path):
    with pytest.raises(GraftError, match=match):
        read({**CleanRL().state_dict(), **change}, tmp_path, BOX, {**CLEANRL, **names})


def test_outputs_that_are_no_numbers_are_no_parity(tmp_path):
    imported = read(CleanRL().state_dict(), tmp_path, BOX, CLEANRL)
    layers = imported.policy.policy
    broken = layers[-1]._replace(bias=torch.full((2,), torch.inf), weight=torch.zeros_like(layers[-1].weight))
    wrong = replace(imported.policy, policy=(*layers[:-1], broken))
    assert not compare(wrong, imported.assembly.network, OBS[:10]).holds


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ({}, "give a mapping with --names"),
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
