"""Small trainings by either backend, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from graft import envs
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.backend import Evaluation, Hooks, TrainJob
from graft.envs.core.task import Task
from support.tiny_tasks import EVALUATION, TASK, TINY, small_network

Records = list[tuple[int, dict[str, float]]]


def trained(
    by: str,
    network: PolicyNetwork | None = None,
    task: Task = TASK,
    budget: int = 300,
    seed: int = 0,
    hooks: Hooks | None = None,
    evaluation: Evaluation = EVALUATION,
    more: Mapping[str, Any] | None = None,
    **options: Any,
) -> SimpleNamespace:
    """The network, what ``train`` of the backend returned, and what it recorded as (env_steps, values).

    ``more`` are further arguments of ``train``, ``options`` those of PPO.
    """
    backend: Any = import_module(f"graft.agents.{by}")
    network = network or small_network(envs.schemas(task))
    records: Records = []
    result = backend.train(
        TrainJob(
            network,
            task,
            backend.ALGORITHMS["ppo"](**(TINY | options)),
            budget,
            seed,
            lambda env_steps, values: records.append((env_steps, dict(values))),
            evaluation,
            hooks or Hooks(),
            "cpu",
            **(more or {}),
        )
    )
    return SimpleNamespace(network=network, result=result, records=records)


@contextmanager
def learning_rates() -> Iterator[list[float]]:
    """Fills up with the first group's learning rate at every step of any optimiser of this process."""
    rates: list[float] = []

    def note(optimiser: Optimizer, *_: Any) -> None:
        rates.append(float(optimiser.param_groups[0]["lr"]))

    handle = register_optimizer_step_pre_hook(note)
    try:
        yield rates
    finally:
        handle.remove()


def recorded(records: Records, tag: str) -> dict[int, float]:
    """Env steps -> value; every env step at most once."""
    found = [(env_steps, values[tag]) for env_steps, values in records if tag in values]
    assert len(dict(found)) == len(found), f"{tag} came twice at the same env step"
    return dict(found)
