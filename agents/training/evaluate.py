"""Evaluation of a network on a batch of environments, the same for every backend."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import LONGEST_EPISODE
from graft.envs.core.task import Groups, TaskVectorEnv
from graft.errors import GraftError

WORST = 0.1  # share of the episodes that `worst_tenth` is the mean of


def worst_tenth(returns: NDArray[np.float64]) -> float:
    """Mean of the lowest tenth of the returns (n,), of at least one: the conditional value at risk (CVaR) at 10 %."""
    count = max(1, round(WORST * len(returns)))
    return float(np.sort(returns)[:count].mean())


class Episodes(NamedTuple):
    """Undiscounted returns and lengths of finished episodes, each (n,) float64, and their rows, (n,) int64."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.float64]
    rows: NDArray[np.int64]

    def means(self, groups: Groups | None) -> dict[str, float]:
        """Mean return of each part of the batch; empty for a batch without parts."""
        if groups is None:
            return {}
        played = groups.of_row[self.rows]
        return {name: float(self.returns[played == k].mean()) for k, name in enumerate(groups.names)}

    def metrics(self, groups: Groups | None) -> dict[str, float]:
        """Means by ``eval/*`` tags: of all episodes and of each part, with its score where the part has bounds."""
        means = self.means(groups)
        scales = dict(zip(groups.names, groups.scales, strict=True)) if groups is not None else {}
        scored = {name: scale.normalise(means[name]) for name, scale in scales.items() if scale is not None}
        return {
            "eval/return_mean": float(self.returns.mean()),
            "eval/return_worst_tenth": worst_tenth(self.returns),
            "eval/length_mean": float(self.lengths.mean()),
            **{f"eval/return_mean/{name}": mean for name, mean in means.items()},
            **{f"eval/return_normalized/{name}": score for name, score in scored.items()},
        }


def nth_seed(seed: int, number: int) -> int:
    """A seed of its own for each number: ``seed`` itself for 0, any in [0, 2**30) for those after."""
    return seed if number == 0 else int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint32)[0] >> 2)


def play_episodes(
    choose: Callable[[Any], Any],
    env: TaskVectorEnv,
    episodes: int,
    max_steps: int = LONGEST_EPISODE,
    seed: int | None = None,
    number: int = 0,
    begin: Callable[[int], object] = lambda _: None,
) -> Episodes:
    """Play ``episodes`` episodes and return their outcomes.

    Each environment contributes its first ``ceil(episodes / num_envs)`` episodes: counting the first to finish would
    favour short ones. Rows that share games (``infos["over"]``) contribute the episodes of so many games, none where
    they were out of play: the same number of each row would favour games with many agents.

    Args:
        choose: observations (N, *obs_shape) -> actions (N,) or (N, A), both numpy.
        env: same-step autoreset; it is reset at the start.
        max_steps: of an episode.
        seed: of the levels. An environment's next episode would depend on how it played the last one, so each is
            begun anew in all environments at once, the k-th with the seeds from ``nth_seed(seed, k)`` on. None goes on
            with the environments' own random numbers.
        number: of the evaluation, from 0: k goes on from one to the next.
        begin: called with k before each.
    Raises:
        GraftError: an episode that does not end within ``max_steps``, or no row in play in all of the games.
    """
    quota = -(-episodes // env.num_envs)
    if seed is None:
        finished = _play(choose, env, quota, max_steps, None)
    else:
        finished = []
        for k in range(number * quota, (number + 1) * quota):
            begin(k)
            finished += _play(choose, env, 1, max_steps, nth_seed(seed, k))
    if not finished:
        raise GraftError(f"None of the {env.num_envs} rows was in play in {quota} games; evaluate more episodes.")
    outcomes = np.array(finished, np.float64)
    return Episodes(outcomes[:, 0], outcomes[:, 1], outcomes[:, 2].astype(np.int64))


def _play(
    choose: Callable[[Any], Any], env: TaskVectorEnv, quota: int, max_steps: int, seed: int | None
) -> list[tuple[float, float, int]]:
    """Returns, lengths and rows of the first ``quota`` episodes of each environment after a reset."""
    done_counts = np.zeros(env.num_envs, np.int64)
    returns, lengths, steps = np.zeros(env.num_envs), np.zeros(env.num_envs), np.zeros(env.num_envs)
    all_rows = np.ones(env.num_envs, np.bool_)
    finished: list[tuple[float, float, int]] = []
    obs, infos = env.reset(seed=seed)
    while done_counts.min() < quota:
        alive = infos.get("alive", all_rows)
        obs, rewards, terminated, truncated, infos = env.step(choose(obs))
        returns += rewards
        lengths += alive
        steps += 1
        if steps.max() > max_steps:
            raise GraftError(
                f"An episode did not end within {max_steps:,} steps; give the task a time limit, such as kwargs: "
                f"{{max_episode_steps: 500}}, or let evaluations wait longer with evaluation: "
                f"{{max_steps: {2 * max_steps}}}."
            )
        ended = terminated | truncated
        for i in np.flatnonzero(ended):
            if done_counts[i] < quota:
                finished.append((returns[i], lengths[i], int(i)))
            returns[i] = lengths[i] = 0.0
        over = infos.get("over", ended)
        done_counts[over] += 1
        steps[over] = 0.0
    return finished


def evaluate(
    network: PolicyNetwork,
    env: TaskVectorEnv,
    episodes: int,
    generator: torch.Generator,
    deterministic: bool = False,
    max_steps: int = LONGEST_EPISODE,
    seed: int | None = None,
    number: int = 0,
) -> Episodes:
    """`play_episodes` with a network, in eval mode.

    Args:
        generator: of the action samples, on the network's device.
        deterministic: play the most likely action (or the mean) instead of a sample.
        max_steps: of an episode.
        seed, number: of the levels, as in `play_episodes`. With a seed, the action samples of every episode start anew
            as well, from the generator's own: what two networks meet, and the dice they roll, do not depend on how
            long their episodes were.
    """
    device, dice = next(network.parameters()).device, generator.initial_seed()

    def choose(obs: Any) -> Any:
        return network.act(torch.as_tensor(obs, device=device), generator, deterministic).cpu().numpy()

    with eval_mode(network):
        return play_episodes(
            choose, env, episodes, max_steps, seed, number, lambda k: generator.manual_seed(nth_seed(dice, k))
        )


@contextlib.contextmanager
def eval_mode(network: PolicyNetwork) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
