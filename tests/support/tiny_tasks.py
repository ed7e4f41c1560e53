"""Schemas, tasks and encoders made by hand, small enough to work out what should come of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import nn

from graft.agents.networks.encoder import ENCODERS, Encoder, Stem
from graft.agents.networks.policy_network import NetworkConfig, PolicyNetwork
from graft.agents.training.backend import Evaluation
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas, joined
from graft.envs.core.task import Adapter, BatchOptions, Bounds, Task, TaskVectorEnv
from graft.errors import GraftError, unknown
from graft.experiments.contracts.basics import assert_same, observations, scrambled, weights

__all__ = ["assert_same", "observations", "scrambled", "weights"]

NUM_STATES = 4
TASK = Task("tiny/Match-v0")
TINY = {"num_envs": 8, "num_steps": 16, "minibatch": 32, "epochs": 2, "anneal_lr": False}
"""Options of a PPO that updates 4 * 2 times per 128 env steps, at the same learning rate whatever the budget."""


def vector(names: Sequence[str], attributes: Sequence[Sequence[str]] | None = None) -> ObservationSchema:
    """Features in [-1, 1]."""
    return _observation("vector", names, (len(names),), "float32", -1.0, 1.0, attributes)


def planes(
    names: Sequence[str], height: int = 5, width: int = 5, attributes: Sequence[Sequence[str]] | None = None
) -> ObservationSchema:
    """Entity planes of zeros and ones."""
    return _observation("planes", names, (len(names), height, width), "uint8", 0.0, 1.0, attributes)


def pixels(names: Sequence[str], height: int = 36, width: int = 36) -> ObservationSchema:
    """Screens of bytes."""
    return _observation("pixels", names, (len(names), height, width), "uint8", 0.0, 255.0, None)


def parts(names: Sequence[str]) -> ObservationSchema:
    """A small board and a vector, of the same names."""
    return joined({"view": planes(names), "state": vector(names)})


OBSERVATIONS = {"vector": vector, "planes": planes, "pixels": pixels, "parts": parts}
"""Kind of observation -> a small schema of that kind from channel names."""


def _observation(
    kind: Any,
    names: Sequence[str],
    shape: tuple[int, ...],
    dtype: str,
    low: float,
    high: float,
    attributes: Sequence[Sequence[str]] | None,
) -> ObservationSchema:
    count = len(names)
    words = tuple(tuple(words) for words in attributes or [()] * count)
    return ObservationSchema(kind, tuple(names), words, shape, dtype, (low,) * count, (high,) * count)


def discrete(*names: str) -> ActionSchema:
    return ActionSchema("discrete", names)


def multi(**choices: int) -> ActionSchema:
    """Several choices at once: ``multi(move=3, fire=2)``."""
    names = tuple(f"{name}={i}" for name, count in choices.items() for i in range(count))
    return ActionSchema("multi", names, sizes=tuple(choices.values()))


def box(names: Sequence[str], low: float = -1.0, high: float = 1.0) -> ActionSchema:
    return ActionSchema("box", tuple(names), (low,) * len(names), (high,) * len(names))


class NormEncoder(Encoder):
    """Two blocks with batch normalisation: what has buffers that drift unless it is frozen."""

    kinds = ("vector", "planes")

    def __init__(self, schema: ObservationSchema, width: int = 6) -> None:
        super().__init__()
        inputs = math.prod(schema.shape)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.BatchNorm1d(width), nn.Tanh())
            for size in (inputs, width)
        )
        self.out_dim = width
        self.stems = (Stem.of("blocks.0.1.weight", math.prod(schema.shape[1:]), schema),)


def register_encoder(monkeypatch: Any, name: str = "norm", encoder: type[Encoder] = NormEncoder) -> None:
    """Let networks be built with an encoder of a test's own; gone after the test."""
    list(ENCODERS)  # loads the others
    monkeypatch.setitem(ENCODERS._entries, name, encoder)


class ScriptedEnv(TaskVectorEnv):
    """Same-step autoreset; what an environment does is in `_observe` and `_outcome` of the subclass."""

    def __init__(self, observation: ObservationSchema, action: ActionSchema, num_envs: int) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
        self.num_envs = num_envs
        self.observation_schema, self.action_schema = observation, action
        self.single_observation_space, self.single_action_space = observation.space(), action.space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.time = np.zeros(num_envs, np.int64)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.time[:] = 0
        self._begin(np.arange(self.num_envs))
        return self._observe(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        rewards, terminated, truncated = self._outcome(np.asarray(actions))
        self.time += 1
        ended, infos = terminated | truncated, {}
        if ended.any():
            infos = {"final_obs": self._observe(), "_final_obs": ended}
            self.time[ended] = 0
            self._begin(np.flatnonzero(ended))
        return self._observe(), rewards, terminated, truncated, infos

    def _begin(self, which: Any) -> None:
        """New episodes of these environments."""

    def _observe(self) -> Any:
        raise NotImplementedError

    def _outcome(self, actions: Any) -> tuple[Any, Any, Any]:
        """Rewards, terminated and truncated."""
        raise NotImplementedError


class ClockEnv(ScriptedEnv):
    """Environment i has episodes of ``lengths[i]`` steps and pays 10 * (i + 1) + t at the t-th step, t from 0.

    It observes (i, t). Odd environments are truncated, even ones terminate.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        super().__init__(vector(["env", "time"]), discrete("wait", "act"), len(lengths))
        self.lengths = np.array(lengths)
        self.played: list[Any] = []

    def _observe(self) -> Any:
        return np.stack([np.arange(self.num_envs), self.time], axis=1).astype(np.float32)

    def _outcome(self, actions: Any) -> tuple[Any, Any, Any]:
        self.played.append(actions)
        ended, odd = self.time + 1 == self.lengths, np.arange(self.num_envs) % 2 == 1
        return 10.0 * (np.arange(self.num_envs) + 1) + self.time, ended & ~odd, ended & odd


class MatchEnv(ScriptedEnv):
    """Shows one of four states, pays 1 for the action of the same index, and shows the next; episodes have 8 steps.

    The states are unit vectors, or planes of ones; ``reward`` replaces what is paid.
    """

    def __init__(self, num_envs: int, seed: int, names: Sequence[str], kind: str, reward: float | None) -> None:
        acts = discrete("north", "south", "east", "west")
        super().__init__(OBSERVATIONS[kind](names), acts, num_envs)
        self._rngs = [np.random.default_rng(seed + i) for i in range(num_envs)]
        self._reward = reward
        self._states = np.zeros(num_envs, np.int64)

    def _begin(self, which: Any) -> None:
        for i in which:
            self._states[i] = self._rngs[i].integers(NUM_STATES)

    def _observe(self) -> Any:
        shape = self.observation_schema.shape
        obs = np.zeros((self.num_envs, *shape), self.observation_schema.dtype)
        obs[np.arange(self.num_envs), self._states] = 1
        return obs

    def _outcome(self, actions: Any) -> tuple[Any, Any, Any]:
        rewards = (actions == self._states).astype(np.float64)
        self._begin(range(self.num_envs))
        ended = self.time + 1 == 8
        return rewards if self._reward is None else rewards * 0 + self._reward, ended, np.zeros_like(ended)


class ReachEnv(ScriptedEnv):
    """Shows two numbers in [-1, 1]; pays minus their squared distance to the action's; truncated after 5 steps."""

    def __init__(self, num_envs: int, seed: int) -> None:
        super().__init__(vector(["x", "y"]), box(["move_x", "move_y"], -0.5, 0.5), num_envs)
        self._rngs = [np.random.default_rng(seed + i) for i in range(num_envs)]
        self._points = np.zeros((num_envs, 2))
        self.largest_action = 0.0

    def _begin(self, which: Any) -> None:
        for i in which:
            self._points[i] = self._rngs[i].uniform(-1, 1, 2)

    def _observe(self) -> Any:
        return self._points.astype(np.float32)

    def _outcome(self, actions: Any) -> tuple[Any, Any, Any]:
        self.largest_action = max(self.largest_action, float(np.abs(actions).max()))
        rewards = -((actions - self._points) ** 2).sum(axis=1)
        self._begin(range(self.num_envs))
        ended = self.time + 1 == 5
        return rewards, np.zeros_like(ended), ended


class TinyTaskAdapter(Adapter):
    """The tasks ``tiny/Match-v0`` (keywords ``names``, ``kind``, ``reward``) and ``tiny/Reach-v0``."""

    prefix = "tiny/"

    def __init__(self) -> None:
        self.made: list[ScriptedEnv] = []

    def ids(self) -> Iterable[str]:
        return ["tiny/Match-v0", "tiny/Reach-v0"]

    def make(self, task: Task, options: BatchOptions) -> TaskVectorEnv:
        if task.id not in self.ids():
            raise unknown("task", task.id, self.ids())
        if task.id == "tiny/Reach-v0":
            env: ScriptedEnv = ReachEnv(options.num_envs, options.seed)
        else:
            defaults = {"names": ["a", "b", "c", "d"], "kind": "vector", "reward": None}
            env = MatchEnv(options.num_envs, options.seed, **(defaults | dict(task.kwargs)))
        self.made.append(env)
        return env

    def bounds(self, task: Task) -> Bounds | None:
        return None


def small_ppo(**options: Any) -> Any:
    """PPO of the Stable-Baselines3 backend, which only tests that call this load."""
    from graft.agents.sb3 import ALGORITHMS

    return ALGORITHMS["ppo"](**(TINY | options))


def takes(name: str, schemas: Schemas) -> bool:
    """Whether the method can learn from a source of such schemas, as far as it watches sources."""
    from graft.transfer.method import METHODS  # tests of agents do not need it

    try:
        METHODS[name]().check(schemas)
    except GraftError:
        return False
    return True


def small_network(schemas: Schemas, seed: int = 0, **options: Any) -> PolicyNetwork:
    """The default encoder with 16 features and heads of 8 units."""
    return PolicyNetwork(schemas, small_config(schemas.observation.kind, **options), seed)


def small_config(kind: str, **options: Any) -> NetworkConfig:
    """The default encoder of the kind, kept small."""
    sizes = {
        "vector": {"widths": [16, 16]},
        "planes": {"channels": [4, 6], "strides": [1, 2], "features": 16},
        "pixels": {"features": 16},
        "parts": {"features": 16},
    }
    return NetworkConfig(None, sizes[kind] | options, (8,))


def some_grads(network: PolicyNetwork) -> dict[str, torch.Tensor]:
    """Gradients of a loss on some states: of all parameters but those of a policy's spread."""
    outputs = network(observations(network.schemas.observation, 9, seed=4))
    (outputs.action[:, 0].sum() + outputs.value.square().sum()).backward()
    grads = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return grads


def check_penalty(step: Any, given: dict[str, torch.Tensor], network: PolicyNetwork, loss: torch.Tensor) -> None:
    """The step of a method reports the value of ``loss`` and adds autograd's gradient of it to ``given``."""
    assert step.penalty.item() == pytest.approx(loss.item(), rel=1e-5)
    assert not step.penalty.requires_grad
    slopes = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    for (name, _), slope in zip(network.named_parameters(), slopes, strict=True):
        parts = [g for g in (given.get(name), slope) if g is not None]
        assert (name in step.grads) is bool(parts)
        if parts:
            torch.testing.assert_close(step.grads[name], sum(parts), rtol=0, atol=1e-6)


def descended(method: Any, network: PolicyNetwork, state: Any, batch: Any = None) -> tuple[list[float], Any]:
    """The penalties, and the state in the end, of 150 steps that follow a method's gradients alone."""
    optimiser, penalties = torch.optim.Adam(network.parameters(), 1e-2), []
    for _ in range(150):
        grads, state, penalty = method.gradients({}, network, state, batch)
        for name, parameter in network.named_parameters():
            parameter.grad = grads.get(name)
        optimiser.step()
        penalties.append(penalty.item())
    return penalties, state


REACH = Task("tiny/Reach-v0")
EVALUATION = Evaluation(every=200, episodes=8, num_envs=8)
MATCH = Schemas(vector(["a", "b", "c", "d"]), discrete("north", "south", "east", "west"))
BOARD = Schemas(planes("ab", 5, 5), MATCH.action)
