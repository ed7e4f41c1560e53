"""States that a policy meets, and what it did in them."""

from __future__ import annotations

import pytest
import torch
from support.tiny_tasks import (
    MATCH,
    REACH,
    TASK,
    ClockEnv,
    NormEncoder,
    ReachEnv,
    box,
    small_config,
    small_network,
    vector,
    weights,
)

from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.training.rollouts import collect
from graft.envs.core.schema import Schemas
from graft.envs.factory import make

pytestmark = pytest.mark.usefixtures("tiny_tasks")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def played(network: PolicyNetwork, states: int = 40, seed: int = 0):
    return collect(network, make(TASK, 4, 0), states, seeded(seed))


@pytest.mark.parametrize(("states", "count"), [(1, 3), (3, 3), (4, 6), (30, 30), (31, 33)])
def test_as_many_states_as_asked_for_rounded_up_to_whole_steps(states, count):
    env = ClockEnv([2, 3, 5])
    network = small_network(env.schemas)
    observations, actions = collect(network, env, states, seeded(0))
    assert observations.shape == (count, 2)
    assert actions.shape == (count,)
    assert len(env.played) == count // 3


def test_states_come_in_the_order_of_time_with_the_actions_taken_in_them():
    env = ClockEnv([2, 3, 5])
    env.reset()
    env.step([0, 0, 0])  # it is reset first
    env.played.clear()
    observations, actions = collect(small_network(env.schemas), env, 9, seeded(0))
    expected = [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1], [0, 0], [1, 2], [2, 2]]
    assert observations.tolist() == expected
    assert observations.dtype == torch.float32
    assert actions.view(3, 3).tolist() == [list(map(int, step)) for step in env.played]


def test_the_actions_are_samples():
    """Of a policy that plays one of four actions with probability 3/4: 900 of 1200, give or take 5 deviations of 15."""
    network = small_network(MATCH)
    with torch.no_grad():
        network.policy.out.weight.zero_()
        network.policy.out.bias.copy_(torch.tensor([9.0, 1.0, 1.0, 1.0]).log())
    assert abs(int((played(network, 1200).actions == 0).sum()) - 900) < 75


def test_the_same_generator_gives_the_same_states_and_leaves_the_process_alone():
    network = small_network(MATCH)
    before = torch.get_rng_state()
    one, again, other = played(network), played(network), played(network, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one.actions, other.actions)


def test_states_are_raw_and_kept_apart_from_the_environments_own_arrays():
    class Reused(ClockEnv):
        """Writes every observation into the same array."""

        buffer = torch.zeros(2, 2).numpy()

        def _observe(self):
            self.buffer[:] = super()._observe()
            return self.buffer

    env = Reused([4, 4])
    assert collect(small_network(env.schemas), env, 6, seeded(0)).observations[:, 1].tolist() == [0, 0, 1, 1, 2, 2]


def test_box_actions_are_within_their_bounds():
    network = small_network(Schemas(vector(["x", "y"]), box(["move_x", "move_y"], -0.5, 0.5)))
    actions = collect(network, make(REACH, 4, 0), 100, seeded(0)).actions
    assert actions.shape == (100, 2)
    assert float(actions.abs().max()) == 0.5


def test_greedy_networks_play_their_best_action():
    schemas = MATCH
    network = PolicyNetwork(schemas, NetworkConfig(**(vars(small_config("vector")) | {"distribution": "greedy"})), 0)
    observations, actions = played(network)
    assert torch.equal(actions, network(observations).action.argmax(-1))


@pytest.mark.parametrize("training", [True, False])
def test_the_network_stays_as_it_was(training, monkeypatch):
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    network = PolicyNetwork(MATCH, NetworkConfig("norm"), 0).train(training)
    network.encoder.freeze(1)
    network.train(training)
    before, modes = weights(network), [m.training for m in network.modules()]
    played(network)
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_the_network_is_put_back_when_the_environment_fails():
    class Broken(ReachEnv):
        def _outcome(self, actions):
            raise RuntimeError("broken")

    env = Broken(2, 0)
    network = small_network(env.schemas).train()
    with pytest.raises(RuntimeError, match="broken"):
        collect(network, env, 4, seeded(0))
    assert network.training
