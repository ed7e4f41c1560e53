"""What a training computes: its updates, and floating-point operations by torch's own counter."""

from __future__ import annotations

import copy
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.algorithm import PPOOptions, ReplayOptions
from graft.agents.training.backend import Batch, Gradients
from graft.envs.core.schema import ActionSchema
from graft.experiments.config.backends import DEFAULT, backend
from graft.experiments.plan.stage import Stage
from graft.transfer.session import TransferSession

WARM, TIMED = 3, 21  # passes of `latency`


class Work(NamedTuple):
    """Gradient steps and operations of a training; a multiply-add is two operations. None: not known.

    ``flops``: those of all updates, and of one forward pass for each env step.
    """

    updates: int | None = 0
    flops_per_update: int | None = None
    flops_per_inference: int | None = None
    flops: int | None = 0


def work_of(stage: Stage, session: TransferSession, env_steps: int, note: Callable[[str], None]) -> Work:
    """Of a training that has ended, of this session's network: one update and one forward pass are counted, on copies.

    The session's state is used up.
    """
    updates = stage.algorithm.updates(env_steps)
    try:
        inference = inference_flops(session.network)
        update = update_flops(stage, session)
    except Exception as error:  # whatever parts of a user's own do here: the training itself is done
        note(f"Note: {stage.label}: its operations could not be counted ({type(error).__name__}: {error}).")
        return Work(updates, flops=None)
    total = None if updates is None or update is None else updates * update + env_steps * inference
    return Work(updates, update, inference, total)


def inference_flops(network: PolicyNetwork) -> int:
    """Of one forward pass of a single observation."""
    with torch.no_grad():
        return _count(lambda: network(_observations(network, 1)))


def update_flops(stage: Stage, session: TransferSession) -> int | None:
    """Of one gradient step, forward, backward and the method's own; None of an algorithm of an unknown kind.

    Where a schedule froze or unfroze parts of the network, the mean over training.
    """
    if not session.frozen:
        return _update_flops(stage, session, copy.deepcopy(session.network))
    ends = [*(start for start, _, _ in session.frozen[1:]), 1.0]
    mean = 0.0
    for end, (start, depth, names) in zip(ends, session.frozen, strict=True):
        network = copy.deepcopy(session.network)
        network.encoder.freeze(depth)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name not in names)
        counted = _update_flops(stage, session, network)
        if counted is None:
            return None
        mean += (end - start) * counted
    return round(mean)


def _update_flops(stage: Stage, session: TransferSession, network: PolicyNetwork) -> int | None:
    options = stage.algorithm
    gradients = session.gradients if session.method.overrides("gradients") else None
    if isinstance(options, ReplayOptions):
        from graft.agents.sb3.off_policy import OffPolicy
        from graft.agents.sb3.update_time import update_of

        algorithm = backend(DEFAULT).ALGORITHMS[stage.algorithm_name](**asdict(options))
        assert isinstance(algorithm, OffPolicy)
        with _random_states_kept():
            return _count(update_of(algorithm, network, gradients))
    return _ppo_update(options, network, gradients) if isinstance(options, PPOOptions) else None


def _ppo_update(options: PPOOptions, network: PolicyNetwork, gradients: Gradients | None) -> int:
    """What frozen blocks make of observations is kept from the rollout, so that no update computes it."""
    observations, depth = _observations(network, options.states_per_update), network.frozen_depth
    with torch.no_grad():
        hidden = network.prefix(observations, depth)
    batch = Batch(observations, _actions(network.schemas.action, len(observations)).to(hidden.device))

    def update() -> None:
        outputs = network.suffix(hidden, depth)
        torch.autograd.backward(outputs.action.sum() + outputs.value.sum())  # a loss has no products of matrices
        if gradients is not None:
            gradients({n: p.grad for n, p in network.named_parameters() if p.grad is not None}, network, batch)

    with _random_states_kept():
        return _count(update)


def latency(network: PolicyNetwork) -> float:
    """Median milliseconds of a forward pass of a single observation."""
    observation, times = _observations(network, 1), []
    with torch.no_grad():
        for _ in range(WARM + TIMED):
            start = time.perf_counter()
            network(observation).action.cpu()
            times.append(time.perf_counter() - start)
    return round(1000 * statistics.median(times[WARM:]), 4)


def _count(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Of torch, NumPy and Python, all of which a learner of Stable-Baselines3 seeds anew when it is made."""
    numbers, own = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(numbers)
        random.setstate(own)


def _observations(network: PolicyNetwork, number: int) -> torch.Tensor:
    schema = network.schemas.observation
    return torch.from_numpy(np.zeros((number, *schema.shape), schema.dtype)).to(network.policy.out.weight.device)


def _actions(schema: ActionSchema, number: int) -> torch.Tensor:
    if schema.kind == "discrete":
        return torch.zeros(number, dtype=torch.int64)
    if schema.kind == "multi":
        return torch.zeros(number, len(schema.sizes), dtype=torch.int64)
    return torch.zeros(number, len(schema.names))
