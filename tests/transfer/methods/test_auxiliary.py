"""Auxiliary objectives: losses against torch's modules, gradients by finite differences, pairs within episodes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_tasks import assert_same, discrete, multi, observations, small_network, vector, weights
from torch import nn

from graft.agents.checkpoints.snapshot import Snapshots
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.sb3 import ALGORITHMS, architecture_for, train
from graft.agents.sb3.algorithms.ppo import TransferPPO
from graft.agents.training.backend import Batch, Evaluation, NextSteps, TrainJob
from graft.envs import Task, make, schemas
from graft.envs.core.schema import ActionSchema, Schemas
from graft.transfer.method import METHODS
from graft.transfer.session import TransferSession
from graft.transfer.state import group

SEEN = vector(["a", "b", "c"])
DISCRETE, BOX, MULTI = (
    discrete("l", "r", "up"),
    ActionSchema("box", ("x", "y"), (-2.0, 0.0), (2.0, 1.0)),
    multi(move=2, turn=3),
)


def batch(network: PolicyNetwork, rows: list[int], count: int = 6) -> Batch:
    """Random states; those of ``rows`` have a next one."""
    schema, numbers = network.schemas.action, torch.Generator().manual_seed(1)
    if schema.kind == "box":
        actions = torch.rand(count, len(schema.names), generator=numbers)
    elif schema.sizes:
        actions = torch.stack([torch.randint(size, (count,), generator=numbers) for size in schema.sizes], 1)
    else:
        actions = torch.randint(len(schema.names), (count,), generator=numbers)
    after = observations(SEEN, len(rows), 5)
    taken = torch.tensor(rows, dtype=torch.long)
    following = lambda most: NextSteps(taken[:most], after[:most])  # noqa: E731
    return Batch(observations(SEEN, count, 4), actions, following=following)


def started(actions: Any, **options: Any) -> tuple[PolicyNetwork, Any, Any]:
    network = small_network(Schemas(SEEN, actions))
    method = METHODS["auxiliary"](**options)
    return network, method, method.init(network, None)


def module(state: Any, which: str) -> nn.Sequential:
    """The extra layers as torch's own."""
    found = {name: state[f"layers.{which}.{name}"].detach() for name in ("hidden.weight", "out.weight")}
    layers = nn.Sequential(*(m for w in found.values() for m in (nn.Linear(w.shape[1], w.shape[0]), nn.ReLU())))[:-1]
    keys = ("hidden.weight", "hidden.bias", "out.weight", "out.bias")
    own = dict(zip(layers.state_dict(), (state[f"layers.{which}.{key}"].detach() for key in keys), strict=True))
    layers.load_state_dict(own)
    return layers


def scaled(taken: torch.Tensor, actions: Any) -> torch.Tensor:
    """-1 at the lower bounds, 1 at the upper ones."""
    low, high = torch.tensor(actions.low), torch.tensor(actions.high)
    return 2 * (taken - low) / (high - low) - 1


@pytest.mark.parametrize("actions", [DISCRETE, BOX, MULTI], ids=["discrete", "box", "multi"])
@pytest.mark.parametrize(("inverse", "forward"), [(0.7, 0.0), (0.0, 0.3), (0.7, 0.3)])
def test_the_penalty_and_its_gradient(actions: Any, inverse: float, forward: float) -> None:
    """Of pairs by rows, with torch's modules, and autograd through them."""
    network, method, state = started(actions, inverse=inverse, forward=forward)
    given, rows = batch(network, [0, 2, 5]), [0, 2, 5]
    step = method.gradients({}, network, state, given)
    now, later = network.encoder(given.observations[rows]), network.encoder(given.following(9).observations)
    taken, loss = given.actions[rows], torch.zeros(())
    if inverse:
        output = module(state, "inverse")(torch.cat([now, later], 1))
        if actions.kind == "box":
            loss = loss + inverse * nn.MSELoss()(output, scaled(taken, actions))
        else:
            parts = output.split(list(actions.sizes) or output.shape[1], 1)
            columns = taken.view(3, -1).unbind(1)
            loss = loss + inverse * sum(nn.CrossEntropyLoss()(p, c) for p, c in zip(parts, columns, strict=True))
    if forward:
        eyes = [torch.eye(size) for size in (actions.sizes or [len(actions.names)])]
        if actions.kind == "box":
            shown = scaled(taken, actions)
        else:
            shown = torch.cat([eye[c] for eye, c in zip(eyes, taken.view(3, -1).unbind(1), strict=True)], 1)
        guess, target = module(state, "forward")(torch.cat([now, shown], 1)), later.detach()
        cosine = (guess * target).sum(1) / guess.norm(dim=1) / target.norm(dim=1)
        loss = loss + forward * (1 - cosine).mean()
    torch.testing.assert_close(step.penalty, loss.detach())
    names = [name for name, _ in network.encoder.named_parameters(prefix="encoder")]
    slopes = torch.autograd.grad(loss, list(network.encoder.parameters()))
    assert set(step.grads) == set(names)
    for name, slope in zip(names, slopes, strict=True):
        torch.testing.assert_close(step.grads[name], slope)


def test_the_gradient_by_finite_differences() -> None:
    """Of the inverse loss, in double precision; the forward loss's target moves too, so that its slope is another."""
    network, method, state = started(DISCRETE, inverse=1.0, forward=0.0)
    network.double().encoder.scale = lambda obs: obs.double()  # type: ignore[method-assign]
    state = {name: t.double() if t.is_floating_point() and name != "steps" else t for name, t in state.items()}
    given = batch(network, [1, 3, 4])
    grads = method.gradients({}, network, state, given).grads
    for name, parameter in network.encoder.named_parameters(prefix="encoder"):
        ends = []
        for way in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.view(-1)[0] += way
            ends.append(float(method.gradients({}, network, state, given).penalty))
            with torch.no_grad():
                parameter.view(-1)[0] -= way
        assert float(grads[name].view(-1)[0]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_the_extra_layers_learn_by_an_adam_of_their_own() -> None:
    """As a plain loop does."""
    network, method, state = started(DISCRETE, inverse=1.0, forward=0.0, learning_rate=0.01)
    layers = module(state, "inverse")
    optimiser = torch.optim.Adam(layers.parameters(), lr=0.01)
    given, before = batch(network, [0, 1, 2, 3]), {name: t.clone() for name, t in state.items()}
    first = state
    for _ in range(3):
        state = method.gradients({}, network, state, given).state
        features = [network.encoder(obs).detach() for obs in (given.observations[:4], given.following(9).observations)]
        optimiser.zero_grad()
        nn.CrossEntropyLoss()(layers(torch.cat(features, 1)), given.actions[:4]).backward()
        optimiser.step()
    assert_same(dict(first), before)
    for mine, theirs in zip(module(state, "inverse").parameters(), layers.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_it_is_plain_training_without_pairs_weights_or_a_source_to_watch() -> None:
    network, method, state = started(DISCRETE)
    given = {"policy.out.bias": torch.ones(3)}
    none = batch(network, [])
    for one, of, seen in (
        (METHODS["auxiliary"](inverse=0.0, forward=0.0), state, batch(network, [0])),
        (method, {}, batch(network, [0])),
        (method, state, none._replace(following=None)),
        (method, state, none),
    ):
        step = one.gradients(given, network, of, seen)
        assert step.grads is given
        assert step.state is of
        assert step.penalty is None
    assert "needs backend: sb3" in method.remarks(state)[0]
    assert method.remarks(method.gradients(given, network, state, batch(network, [0])).state) == []
    assert method.lasting(state) == {}


TASK = Task("Graft/Gather-v0")
SMALL = {"channels": [8], "kernels": [3], "strides": [2], "pools": [1], "features": 32}
BOARD = NetworkConfig("grid_cnn", SMALL, (16,))


def trained(
    method: Any, budget: int, records: Any = lambda *_: None, plan: Any = None, epochs: int = 1
) -> TransferSession:
    session = TransferSession.begin(method, None, schemas(TASK), BOARD, 0)
    algorithm = ALGORITHMS["ppo"](num_envs=64, num_steps=16, minibatch=256, epochs=epochs)
    evaluation = Evaluation(every=10**9, episodes=1, num_envs=1)
    if plan is not None:
        plan = plan(save=session.save, restore=lambda saved, _: session.restore(saved))
    train(TrainJob(session.network, TASK, algorithm, budget, 0, records, evaluation, session.hooks(), "cpu", plan))
    return session


def test_pairs_are_of_the_same_episode_and_a_step_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair of a rollout of a real game is where the rollout says that no episode ended between."""
    seen = 0
    original = TransferPPO._epoch

    def watch(self: Any, inputs: Any, order: Any, weights: Any) -> Any:
        nonlocal seen
        obs, starts = self._buffer.observations, self._buffer.episode_starts
        steps, envs = starts.shape
        rows, after = self._following(order, 10**9)
        wanted = {t * envs + e for t in range(steps - 1) for e in range(envs) if not starts[t + 1, e]}
        assert {int(k) for k in order[rows]} == wanted
        for k, following in zip(order[rows].tolist(), after.numpy(), strict=True):
            np.testing.assert_array_equal(following, obs[k // envs + 1, k % envs])
        seen += (starts[1:] != 0).sum()
        return original(self, inputs, order, weights)

    monkeypatch.setattr(TransferPPO, "_epoch", watch)
    trained(METHODS["auxiliary"](), 4096)
    assert seen > 0, "an episode ended within a rollout"


def test_a_real_game_teaches_the_inverse_model() -> None:
    """On new episodes of uniform actions, of which chance finds a sixth; `noop` and `act` are the same in this game."""
    method = METHODS["auxiliary"](inverse=1.0, forward=0.1)
    session = trained(method, 40_960, epochs=4)
    env, dice = make(TASK, 64, seed=999), np.random.default_rng(0)
    obs, _ = env.reset()
    found = []
    for _ in range(20):
        actions = dice.integers(6, size=64)
        after, _, terminated, truncated, _ = env.step(actions)
        goes_on = torch.from_numpy(~(terminated | truncated))
        pairs = [torch.from_numpy(np.array(each))[goes_on] for each in (obs, actions, after)]
        layers = group(session.state, "layers")
        found.append(float(method.penalty(session.network, layers, *pairs)[1]["inverse_accuracy"]))
        obs = after
    assert np.mean(found) > 0.4


class Stop(Exception):
    """As sudden as a kill."""


def test_a_killed_training_goes_on_equally(tmp_path: Any) -> None:
    def stop(env_steps: int, _: Any) -> None:
        if env_steps >= 2048:
            raise Stop

    plan = partial(Snapshots, tmp_path, seconds=1e9, env_steps=1)
    with pytest.raises(Stop):
        trained(METHODS["auxiliary"](), 4096, stop, plan)
    resumed, straight = trained(METHODS["auxiliary"](), 4096, plan=plan), trained(METHODS["auxiliary"](), 4096)
    assert_same(weights(resumed.network), weights(straight.network))
    assert_same(dict(resumed.state), dict(straight.state))
    finished = straight.finish().checkpoint(TASK)
    assert not finished.parts
    assert set(finished.tensors) == set(straight.network.state_dict())


REPLAYED = {
    "dqn": ("dqn", "Graft/Gather-v0", BOARD, {"target_update": 32}),
    "sac": ("sac", "Pendulum-v1", NetworkConfig("mlp", {"widths": [16]}, (8,)), {"critic": (16,)}),
    "sac, shared": ("sac", "Pendulum-v1", NetworkConfig("mlp", {"widths": [16]}, (8,)), {"encoder": "shared"}),
}


@pytest.mark.parametrize("which", REPLAYED)
def test_replay_buffers_give_pairs_too(which: str) -> None:
    name, task, config, more = REPLAYED[which]
    method = METHODS["auxiliary"](inverse=0.1, forward=0.1)
    options = {"num_envs": 8, "buffer": 256, "batch": 16, "learning_starts": 32, "gradient_steps": 1}
    algorithm = ALGORITHMS[name](**options, **more)
    session = TransferSession.begin(method, None, schemas(Task(task)), architecture_for(algorithm, config), 0)
    plan = Evaluation(every=10**9, episodes=1, num_envs=1)
    train(TrainJob(session.network, Task(task), algorithm, 200, 0, lambda *_: None, plan, session.hooks(), "cpu"))
    assert int(session.state["pairs"]) == 16 * int(session.state["steps"]) > 0
