"""A squad's decisions: those of the network, for every kind of agent, spread over frames, in time, and swapped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from support.export_cases import ACTS, BOUNDED, NETWORKS, V, network_of, recorded, varied, with_masks
from support.tiny_tasks import TASK

from graft.agents import Checkpoint, Squad
from graft.agents.export.contract import beside
from graft.agents.export.exporter import EXPORTERS, Agent
from graft.agents.export.parity import tied
from graft.agents.networks.encoders.mlp import MLP
from graft.agents.serving import squad as module
from graft.agents.serving.model import Model
from graft.envs.core.schema import Schemas
from graft.errors import GraftError

FAST = ("discrete",)


def of(network):
    return Checkpoint.of(network, TASK)


def exported(network, path, to="onnx"):
    EXPORTERS[to].write(Agent(of(network), network, recorded(network, 50), "0"), path)
    return path


@pytest.fixture(scope="module")
def agent():
    return network_of(V, ACTS, normalise=True)


@pytest.fixture(scope="module")
def model(agent):
    """Loaded once: a `Squad` of it takes no time."""
    return Model.of(of(agent))


@pytest.fixture
def squad(model, monkeypatch):
    """Makes squads of `model`."""

    def make(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(Model, "of", lambda _: model)
            return Squad("agent", *args, **options)

    return make


def observations(network, n, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *network.schemas.observation.shape)).astype(np.float32)


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c in FAST else pytest.mark.slow) for c in NETWORKS])
def test_decisions_are_the_networks(case):
    network = NETWORKS[case]()
    states = recorded(network, 1000)
    actions = Squad(of(network)).decide(states.observations)
    assert len(np.unique(states.actions, axis=0)) > 1
    clear = ~tied(states.scores, network.schemas.action)
    assert clear.mean() > 0.9
    if network.schemas.action.kind == "box":
        np.testing.assert_allclose(actions, states.actions, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(actions[clear], states.actions[clear])


def test_each_npc_is_decided_in_every_fourth_frame_and_keeps_its_action_between(squad, agent):
    npcs = squad(n=10, frames=4)
    assert npcs.due.tolist() == list(range(10))  # nobody has an action yet
    kept, seen = np.full(10, -1), []
    for frame in range(9):
        obs, due = observations(agent, 10, frame), npcs.due
        expected = agent.act(obs, None, deterministic=True).numpy()
        kept[due] = expected[due]
        unread = np.setdiff1d(np.arange(10), due)
        obs[unread] = np.nan  # and no warning
        np.testing.assert_array_equal(npcs.decide(obs), kept)
        seen.append(due)
    for first in range(1, 6):
        assert sorted(np.concatenate(seen[first : first + 4])) == list(range(10))
    assert npcs.stats()["decided"] == 10 + sum(map(len, seen[1:]))


def test_a_frame_ends_within_its_budget_and_the_others_come_first(squad, agent, model, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    npcs = squad(n=5 * module.CHUNK, budget_ms=2.5)

    class Slow:
        """A millisecond for each chunk."""

        schemas, version, inputs, fits = model.schemas, model.version, model.inputs, model.fits

        def decide(self, *given):
            now[0] += 0.001 * -(-len(given[0]["obs"]) // module.CHUNK)
            return model.decide(*given)

    npcs._model = Slow()
    obs = observations(agent, npcs.n)
    assert (npcs.decide(obs) == agent.act(obs, None, deterministic=True).numpy()).all()  # the first has no limit
    fresh = observations(agent, npcs.n, 1)
    expected = agent.act(fresh, None, deterministic=True).numpy()
    half = npcs.decide(fresh)
    size = 2 * module.CHUNK
    np.testing.assert_array_equal(half[:size], expected[:size])
    assert npcs.due[0] == size
    assert npcs.stats() == {
        "frames": 2,
        "decided": npcs.n + size,
        "over_budget": 0,  # the first has no limit
        "late": npcs.n - size,
        "failed": [],
        "p50_ms": 3.5,
        "p99_ms": 4.97,
        "model": model.version,
    }
    npcs.decide(fresh)
    np.testing.assert_array_equal(npcs.decide(fresh), expected)


def test_drawn_actions_have_the_policys_frequencies(squad, agent):
    npcs, obs = squad(n=4000, sampled=True, seed=3), np.repeat(observations(agent, 1), 4000, 0)
    chances = agent(torch.as_tensor(obs[:1])).action.double().softmax(-1)[0].detach().numpy()
    found = np.bincount(npcs.decide(obs), minlength=3)
    assert stats.chisquare(found, 4000 * chances / chances.sum()).pvalue > 1e-3
    same, other = (squad(n=4000, sampled=True, seed=seed).decide(obs) for seed in (3, 4))
    np.testing.assert_array_equal(squad(n=4000, sampled=True, seed=3).decide(obs), same)
    assert (other != same).any()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["squashed", "bounded", "box"])
def test_drawn_reals_are_distributed_as_the_networks(case):
    network = NETWORKS[case]()
    obs = np.repeat(observations(network, 1), 4000, 0)
    theirs = network.act(obs, torch.Generator().manual_seed(0)).numpy()
    drawn = Squad(of(network), 4000, sampled=True).decide(obs)
    for mine, own in zip(drawn.T, theirs.T, strict=True):
        assert stats.ks_2samp(mine, own).pvalue > 1e-3


def test_masks_forbid_also_where_they_come_beside_the_observations():
    network = varied(network_of(with_masks(V, ACTS), ACTS))
    plain, masks = observations(network_of(V, ACTS), 500), np.ones((500, 3))
    masks[np.arange(500), np.random.default_rng(0).integers(3, size=500)] = 0
    whole = np.concatenate([plain, 1 - masks], 1).astype(np.float32)
    expected = network.act(whole, None, deterministic=True).numpy()
    checkpoint = of(network)
    np.testing.assert_array_equal(Squad(checkpoint, 500).decide(plain, masks), expected)
    np.testing.assert_array_equal(Squad(checkpoint, 500).decide(whole), expected)
    wrong = masks.copy()
    wrong[3], wrong[5] = 0, (0.3, 1, 1)
    npcs = Squad(checkpoint, 500)
    with pytest.warns(RuntimeWarning, match="NPC 3 keeps"):
        npcs.decide(plain, wrong)
    assert npcs.stats()["failed"] == [3, 5]
    drawn = Squad(checkpoint, 500, sampled=True).decide(plain, masks)
    assert masks[np.arange(500), drawn].all()
    assert len(np.unique(drawn)) == 3


def test_a_model_of_the_same_contract_takes_over_and_others_are_refused(agent, tmp_path):
    npcs, obs = Squad(exported(agent, tmp_path / "old.onnx"), 50), observations(agent, 50)
    new = varied(network_of(V, ACTS), 7)
    identity = of(new).save(tmp_path / "new")
    before = npcs.decide(obs)
    npcs.swap(tmp_path / "new")
    assert npcs.stats()["model"] == identity
    after = npcs.decide(obs)
    np.testing.assert_array_equal(after, new.act(obs, None, deterministic=True).numpy())
    assert (before != after).any()
    other = replace(V, names=("a", "b", "c", "e"))
    for schemas, words in [
        (Schemas(other, ACTS), "observations (names: +e -d)"),
        (Schemas(V, BOUNDED), "actions (kind"),
    ]:
        with pytest.raises(GraftError, match=r"same contract") as caught:
            npcs.swap(of(network_of(*schemas)))
        assert words in str(caught.value)
    assert npcs.stats()["model"] == identity


def test_an_npc_whose_observation_is_not_finite_keeps_its_action_and_all_others_are_decided(squad, agent):
    npcs, kept = squad(n=10, frames=2), agent.act(observations(agent, 10), None, deterministic=True).numpy()
    npcs.decide(observations(agent, 10))
    for frame in range(1, 7):
        obs, due = observations(agent, 10, frame), npcs.due
        expected = agent.act(obs, None, deterministic=True).numpy()
        obs[6, 1] = np.inf if frame > 4 else np.nan
        kept[np.setdiff1d(due, [6])] = expected[np.setdiff1d(due, [6])]
        if frame == 2:
            assert 6 in due
            with pytest.warns(RuntimeWarning, match="NPC 6 keeps its last action"):
                found = npcs.decide(obs)
        else:
            found = npcs.decide(obs)
        np.testing.assert_array_equal(found, kept)
        assert npcs.stats()["failed"] == ([6] if frame > 1 else [])
    for _ in range(2):
        npcs.decide(observations(agent, 10))
    assert npcs.stats()["failed"] == []


def test_numbers_that_the_input_does_not_hold_are_no_decisions():
    network = NETWORKS["pixels"]()
    npcs, shape = Squad(of(network), 3), (3, *network.schemas.observation.shape)
    with pytest.raises(GraftError, match="Observations of float64 are not allowed; this agent reads uint8"):
        npcs.decide(np.full(shape, 0.5))
    obs = np.ones(shape, np.int64)
    obs[1].flat[0], obs[2].flat[-1] = 256, -1
    with pytest.warns(RuntimeWarning, match="NPC 1 keeps"):
        npcs.decide(obs)
    assert npcs.stats()["failed"] == [1, 2]


def test_an_agent_whose_traced_model_plays_something_else_is_refused(agent, squad, monkeypatch):
    suffix = MLP.suffix

    def branching(self, x, d):
        y = suffix(self, x, d)
        return y if float(x.sum()) <= 0 else y.flip(-1)

    monkeypatch.setattr(MLP, "suffix", branching)
    with pytest.raises(
        GraftError, match=r"cannot be played by onnxruntime\. The traced model differs from the network"
    ):
        Squad(of(agent))
    with pytest.raises(GraftError, match="differs from the network"):
        squad(4).swap(of(agent))


def test_policies_of_q_values_are_not_drawn():
    with pytest.raises(GraftError, match="no distribution"):
        Squad(of(network_of(V, ACTS, "greedy")), 4, sampled=True)


def test_what_cannot_be_played_is_refused(squad, agent, tmp_path):
    obs = observations(agent, 4)
    for bad, words in [
        ({"n": 0}, "n=0 and frames=1"),
        ({"n": 4, "frames": 5}, "frames=5"),
        ({"n": 4, "budget_ms": 0}, "budget_ms=0"),
        ({"n": 2.5}, r"n=2\.5, frames=1 and seed=0 have to be whole"),
        ({"n": 4, "frames": 1.5}, "whole numbers"),
        ({"n": 4, "sampled": True, "seed": -1}, "seed=-1"),
    ]:
        with pytest.raises(GraftError, match=words):
            squad(**bad)
    npcs = squad(n=4)
    for given, words in [
        ((obs[:3],), r"\(3, 4\) are not allowed; this squad reads \(4, 4\)"),
        ((obs, np.ones((4, 3))), "without action masks"),
        (([["a"] * 4] * 4,), "Observations of <U1 are not allowed"),
        (([[0] * 4, [0]],), "have to be an array of numbers"),
    ]:
        with pytest.raises(GraftError, match=words):
            npcs.decide(*given)
    assert npcs.decide(obs).shape == (4,)
    path = exported(agent, tmp_path / "npc.onnx", "godot")
    with pytest.raises(GraftError, match="an export --to godot; give a checkpoint"):
        Squad(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(GraftError, match="truncated or edited"):
        Squad(path)
    beside(path, "contract").unlink()
    with pytest.raises(GraftError, match="is missing"):
        Squad(path)
