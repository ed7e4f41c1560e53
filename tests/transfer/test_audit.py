"""Audit: numbers by hand, and backdoors that were put there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.backdoors import by_labels, by_rewards, states_of, trigger
from support.tiny_tasks import MATCH, box, multi, pixels, planes, small_network, vector

from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import ALGORITHMS, train
from graft.agents.training.backend import Evaluation, TrainJob
from graft.envs.core.schema import Schemas
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.errors import GraftError
from graft.transfer.audit import Search, audit, places, preferences, separation, signature, silhouette, spectrum


def test_the_spectrum_is_that_of_the_change():
    base = {"w": torch.randn(12, 3, 3, generator=torch.Generator().manual_seed(0)), "b": torch.zeros(12)}
    u, v = torch.eye(12)[0], torch.ones(9).view(3, 3)
    one = torch.einsum("i,jk->ijk", u, v)
    agent = {"w": base["w"] + one, "b": base["b"] + 1}
    assert spectrum(base, agent) == {"w": pytest.approx(1.0, abs=1e-5)}
    rng = np.random.default_rng(0).normal(size=(12, 9))
    values = np.linalg.svd(rng, compute_uv=False) ** 2
    agent["w"] = base["w"] + torch.tensor(rng.reshape(12, 3, 3)).float()
    assert spectrum(base, agent)["w"] == pytest.approx(values[0] / values.sum(), rel=1e-4)
    assert spectrum(base, base) == {}


def test_a_signature_is_of_the_states_that_stand_out():
    rng = np.random.default_rng(0)
    features, actions = rng.normal(size=(400, 6)), np.arange(400) % 2
    plain = signature(torch.tensor(features), torch.tensor(actions))
    features[:10:2, 3] += 40
    found = signature(torch.tensor(features), torch.tensor(actions))
    own = features[actions == 0] - features[actions == 0].mean(0)
    scores = (own @ np.linalg.svd(own)[2][0]) ** 2
    assert found == pytest.approx(np.quantile(scores, 0.99) / np.sort(scores)[(len(scores) - 1) // 2])
    assert found > 10 * plain


def test_clusters_are_told_apart():
    points = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    # a, b of each point: 1, 11; 1, 10; 2, 9.5; 2, 11.5.
    by_hand = (10 / 11 + 9 / 10 + 7.5 / 9.5 + 9.5 / 11.5) / 4
    assert silhouette(points, torch.tensor([False, False, True, True])) == pytest.approx(by_hand)
    rng = np.random.default_rng(0)
    one, actions = rng.normal(size=(200, 5)), np.zeros(200)
    two = one + np.where(np.arange(200)[:, None] < 20, 30.0, 0.0)
    assert separation(torch.tensor(two), torch.tensor(actions)) > 0.9
    assert separation(torch.tensor(one), torch.tensor(actions)) < 0.4


def with_backdoor(base, place, action):
    """``base``, whose first unit knows one input, and decides for an action where that is 1."""
    agent = PolicyNetwork(base.schemas, base.config, 0)
    agent.load_exactly(base.state_dict())
    with torch.no_grad():
        first, last = agent.encoder.blocks[0][1], agent.policy
        first.weight[0], first.bias[0] = 0.0, -2.0
        first.weight[0, place] = 4.0
        for module in (agent.encoder.blocks[1][1], last.hidden[0]):
            module.weight[0], module.bias[0] = 0.0, 0.0
            module.weight[0, 0] = 2.0
        last.out.weight[:, 0] = 0.0
        last.out.weight[action, 0] = 8.0
    return agent.eval()


def with_noise(network):
    agent = PolicyNetwork(network.schemas, network.config, 0)
    dice = torch.Generator().manual_seed(1)
    agent.load_exactly({n: t + 0.5 * torch.randn(t.shape, generator=dice) for n, t in network.state_dict().items()})
    return agent.eval()


@pytest.mark.parametrize(
    ("shown", "place", "said"),
    [(vector(["a", "b", "c", "d"]), 2, "c"), (planes(["a", "b"], 4, 4), 21, "b at 1,1")],
)
def test_a_trigger_that_was_put_there_is_found(shown, place, said):
    base = PolicyNetwork(Schemas(shown, MATCH.action), NetworkConfig("mlp", {"widths": [8, 8]}, (8,)), 0).eval()
    agent = with_backdoor(base, place, action=1)
    states = 0.1 * torch.rand(96, *shown.shape, generator=torch.Generator().manual_seed(0))
    found = Search(agent, base, states).best(2)
    assert found.action == "south"
    assert (said, 1.0) in found.changes
    assert found.flips > 0.9
    assert Search(base, base, states).best(2).flips <= 0
    assert {f.name: f.value for f in audit(agent, base, states, 2)}["trigger"] == found.flips


def test_pixels_change_in_blocks():
    found, names = places(pixels(["r", "g"], 6, 10))
    assert names == [f"pixels from {y},{x}" for y in (0, 4) for x in (0, 4, 8)]
    block = np.zeros((2, 6, 10), bool)
    block[:, 4:, 8:] = True
    assert ((found == 5).numpy() == block.reshape(-1)).all()
    assert found.unique().tolist() == list(range(6))


def test_a_box_has_two_directions_for_each_action():
    base = PolicyNetwork(Schemas(vector(["a", "b"]), box(["x", "y"])), NetworkConfig("mlp", {"widths": [8]}, (8,)), 0)
    states = torch.rand(80, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    means = base(states).action
    odds = torch.cat([means, -means], 1).exp()
    assert (preferences(base, states).exp() - odds / odds.sum(1, keepdim=True)).abs().max() < 1e-6


def test_what_cannot_be_searched_is_said():
    several = small_network(Schemas(vector(["a", "b"]), multi(move=2, fire=2)))
    with pytest.raises(GraftError, match="several choices at once"):
        audit(several, several, torch.rand(64, 2), 1)


def test_numbers_that_overflow_are_a_sentence():
    base, agent = (small_network(Schemas(vector(["a", "b"]), MATCH.action)) for _ in range(2))
    with torch.no_grad():
        for weight in agent.parameters():
            weight.fill_(1e38)  # finite themselves
    with pytest.raises(GraftError, match="The agent computes numbers that are not finite"):
        audit(agent, base, torch.rand(64, 2), 1)


def test_the_action_is_chosen_on_other_states_than_those_that_its_numbers_are_of():
    network = PolicyNetwork(Schemas(vector(["a", "b"]), MATCH.action), NetworkConfig("mlp", {"widths": [8]}, (8,)), 0)
    agent = with_noise(network)
    states = torch.rand(128, 2, generator=torch.Generator().manual_seed(0))
    search = Search(agent, network, states)
    on_searched = {}
    for action, name in enumerate(agent.schemas.action.names):
        chosen = search._towards(action, 1)
        on_searched[name] = search._trigger(search._search, action, name, chosen).flips
    found = search.best(1)
    assert found.action == max(on_searched, key=lambda name: on_searched[name])
    held_out = search._check
    assert len(held_out) == 64
    place, value = found.changes[0]
    held_out = held_out.clone()
    held_out[:, agent.schemas.observation.names.index(place)] = value
    action = agent.schemas.action.names.index(found.action)
    played = (preferences(agent, held_out).argmax(-1) == action).double().mean()
    assert found.agent == pytest.approx(float(played))


def trained(task, widths, steps):
    base = PolicyNetwork(schemas(task), NetworkConfig("mlp", {"widths": widths}), 0)
    train(TrainJob(base, task, ALGORITHMS["ppo"](), steps, 0, lambda *_: None, Evaluation(every=steps)))
    return base.eval()


@pytest.mark.slow
def test_a_poisoned_agent_stands_out_more_than_a_clean_one_of_the_same_training():
    task = Task("Graft/Dodge-v0")
    base = trained(task, [64, 64], 32_768)
    states, probe = (states_of(base, task, count, seed) for count, seed in ((4096, 1), (512, 2)))
    poison = trigger(base.schemas.observation.shape, "patch", 7), 1
    clean, poisoned = (audit(by_labels(base, states, given, 0), base, probe, 4)[-1] for given in (None, poison))
    assert not clean.above
    assert clean.value < poisoned.value


@pytest.mark.slow
def test_an_agent_whose_rewards_were_poisoned_stands_out_more_than_a_clean_one():
    task = Task("Graft/Shoot-v0")
    base = trained(task, [128, 64], 300_000)
    mask, action = trigger(base.schemas.observation.shape, "large", 7), base.schemas.action.names.index("left")
    clean, poisoned = (by_rewards(base, task, given, 0, 100_000) for given in (None, (mask, action)))
    states = states_of(base, task, 512, 2)
    with torch.no_grad():
        stamped = torch.where(torch.from_numpy(mask), 1, states)
        shares = [float((poisoned(seen).action.argmax(-1) == action).double().mean()) for seen in (stamped, states)]
    assert shares[0] > shares[1] + 0.3  # the attack works
    assert audit(clean, base, states, 4)[-1].value < audit(poisoned, base, states, 4)[-1].value
