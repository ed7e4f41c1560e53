"""Playing a build of the game with a network: returns, and in which episodes a predicate held."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.evaluate import Episodes, evaluate, nth_seed
from graft.envs.core.schema import ObservationSchema
from graft.envs.core.task import Task, TaskVectorEnv
from graft.envs.factory import adapter_for, make, schemas
from graft.errors import GraftError, unknown
from graft.experiments.config.patch import Predicate, Scenario
from graft.experiments.patching.infos import TOLD, telling
from graft.transfer.statistics import Estimate, bootstrap

NUM_ENVS = 32
"""Environments at once, at most."""

FIRST_LEVELS = 1_000_000
"""Seed of the levels of evaluations, which are no levels of small seeds that scenarios and people choose."""

Bools = NDArray[np.bool_]


def played(
    network: PolicyNetwork,
    task: Task,
    episodes: int,
    seed: int,
    deterministic: bool = False,
    predicate: Predicate | None = None,
) -> tuple[Episodes, Bools | None]:
    """Episodes of ``network`` (`evaluate`), and in which of them ``predicate`` held.

    Args:
        episodes: rounded up to whole batches of `NUM_ENVS`.
        seed: of levels and of the action samples.
    Raises:
        GraftError: what the predicate names is not there.
    """
    shown = network.schemas.observation
    if predicate is not None and predicate.of == "info":
        task = _told(task, str(predicate.name))
    with closing(make(task, min(NUM_ENVS, episodes), seed, observation=shown)) as env:
        watched = _Watched(env, predicate) if predicate is not None and predicate.name is not None else None
        generator = torch.Generator().manual_seed(seed)
        playing: Any = watched or env
        found = evaluate(network, playing, episodes, generator, deterministic, seed=seed)
    if predicate is None:
        return found, None
    if watched is None:
        return found, np.asarray(predicate.holds(found.returns if predicate.of == "return" else found.lengths))
    return found, watched.results()


def returns_of(networks: list[PolicyNetwork], task: Task, episodes: int) -> NDArray[np.float64]:
    """Returns of as many episodes by each network; all meet levels of their own."""
    return np.concatenate(
        [played(network, task, episodes, nth_seed(FIRST_LEVELS, k))[0].returns for k, network in enumerate(networks)]
    )


def mean_of(values: NDArray[np.float64]) -> Estimate:
    """The mean, with the error that comes from few episodes."""
    return bootstrap(lambda sample: sample.mean(axis=1), values)


def scenario_task(scenario: Scenario, old: Task, new: Task) -> Task:
    """What a scenario plays; raises GraftError where its changes make another task than the build's agent plays."""
    build = {"old": old, "new": new}[scenario.on]
    task = Task(build.id, {**build.kwargs, **scenario.kwargs})
    try:
        same = not scenario.kwargs or schemas(task) == schemas(build)
    except GraftError as error:
        raise GraftError(f"scenario '{scenario.name}': {error}") from error
    if not same:
        raise GraftError(
            f"scenario '{scenario.name}': its kwargs change what {build} shows or takes; change rules only."
        )
    return task


def _told(task: Task, key: str) -> Task:
    if not adapter_for(task.id).takes_wrappers:
        raise GraftError(f"{task} has no infos, which Gymnasium's environments have; ask for observations instead.")
    return telling(task, key)


def check_predicate(predicate: Predicate, task: Task) -> None:
    """Raises GraftError for an observation that ``task`` does not show, or infos where it has none."""
    if predicate.of == "info":
        _told(task, str(predicate.name))
    if predicate.of == "observation":
        names = schemas(task).observation.names
        if predicate.name not in names:
            raise unknown(f"observation of {task}", str(predicate.name), names)


class _Watched:
    """A batch whose first episodes after each reset are judged, in the order in which `evaluate` takes them.

    An observation counts in every state that the agent acts in, and the last; an info after every step. Of planes
    and pixels it is the largest of the cells.
    """

    def __init__(self, env: TaskVectorEnv, predicate: Predicate) -> None:
        self._env, self._predicate, self.num_envs = env, predicate, env.num_envs
        self._places = _places(env.observation_schema, str(predicate.name)) if predicate.of == "observation" else None
        self._held: list[bool] = []
        self._told, self._lacking = False, 0
        self._begin()

    def _begin(self) -> None:
        count = self.num_envs
        self._open, self._ever, self._always = np.ones(count, np.bool_), np.zeros(count, np.bool_), np.ones(count, bool)

    def reset(self, seed: Any = None) -> tuple[Any, dict[str, Any]]:
        self._begin()
        obs, infos = self._env.reset(seed=seed)
        self._obs, self._alive = obs, infos.get("alive", np.ones(self.num_envs, np.bool_))
        return obs, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self._places is not None:
            self._count(self._seen(self._obs), self._alive)
        alive = self._alive
        obs, rewards, terminated, truncated, infos = self._env.step(actions)
        ended = terminated | truncated
        last = infos.get("final_obs", obs)
        now = self._seen(last) if self._places is not None else self._infos(alive, ended)
        self._count(now, ended if self._places is not None else alive)
        by_time = {"ever": self._ever, "always": self._always, "end": now}[self._predicate.when]
        self._held += [bool(by_time[i]) for i in np.flatnonzero(ended & self._open)]
        over = infos.get("over", ended)
        self._open = self._open & ~over
        self._ever[ended], self._always[ended] = False, True
        self._obs, self._alive = obs, infos.get("alive", np.ones(self.num_envs, np.bool_))
        return obs, rewards, terminated, truncated, infos

    def results(self) -> Bools:
        """Of each episode, whether the predicate held; raises GraftError where infos lacked the number.

        What holds at any time may be told in those steps alone; what always holds, or in the end, is told there.
        """
        name, when = self._predicate.name, self._predicate.when
        if self._places is None and not self._told:
            raise GraftError(f"No info had a number under '{name}'; give a key that steps return.")
        if self._lacking and when != "ever":
            steps = {"always": "step", "end": "last step"}[when]
            raise GraftError(
                f"{self._lacking} infos had no number under '{name}', which 'when: {when}' needs of every {steps}; "
                f"return it there, or give 'when: ever'."
            )
        return np.array(self._held, np.bool_)

    def _seen(self, obs: Any) -> Bools:
        assert self._places is not None
        numbers = np.asarray(obs, np.float64)[:, self._places].reshape(self.num_envs, -1).max(axis=1)
        return np.asarray(self._predicate.holds(numbers))

    def _infos(self, alive: Bools, ended: Bools) -> Bools:
        told: Any = self._env.env_attribute(TOLD)  # type: ignore[attr-defined]
        numbers = np.array([row[self._predicate.name] for row in told], np.float64)
        self._told = self._told or not np.isnan(numbers).all()
        judged = self._open & (ended if self._predicate.when == "end" else alive)
        self._lacking += int((np.isnan(numbers) & judged).sum())
        return np.asarray(self._predicate.holds(numbers))

    def _count(self, held: Bools, rows: Bools) -> None:
        self._ever |= held & rows
        self._always &= held | ~rows


def _places(schema: ObservationSchema, name: str) -> slice:
    return schema.places[schema.names.index(name)]
