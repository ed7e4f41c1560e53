"""RLlib's SAC so small that it learns in a moment; importing it loads Ray."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from graft import envs
from graft.agents.networks.policy_network import build_network
from graft.agents.rllib import ALGORITHMS, train
from graft.agents.rllib.algorithms import sac
from graft.agents.training.algorithm import architecture_for
from graft.agents.training.backend import Evaluation, Hooks, TrainJob
from support.tiny_tasks import REACH, small_config

QUIET = Evaluation(every=10_000, episodes=8, num_envs=8)
OPTIONS = {
    "num_envs": 4,
    "batch": 16,
    "buffer": 500,
    "learning_starts": 20,
    "gradient_steps": 2,
    "learning_rate": 3e-3,
    "critic": (16,),
}
LEARNT = "encoder", "policy"
"""Parts of a network that an actor has."""


def algorithm(**options):
    return ALGORITHMS["sac"](**{**OPTIONS, **options})


def fresh(config=None, seed=0):
    schemas = envs.schemas(REACH)
    return build_network(schemas, architecture_for(algorithm(), config or small_config("vector")), seed)


def trained(network=None, budget=60, seed=0, hooks=None, evaluation=QUIET, more=None, **options):
    """The network, what `train` returned, what it recorded as (env_steps, values), the learners' last states, and the
    critics that they leave.
    """
    network, records, ends = network or fresh(), [], []
    with pytest.MonkeyPatch.context() as patch:
        original = sac.TransferSACLearner.save
        patch.setattr(sac.TransferSACLearner, "save", lambda self: ends.append(original(self)) or ends[-1])
        record = lambda n, values: records.append((n, dict(values)))  # noqa: E731
        given = network, REACH, algorithm(**options), budget, seed, record, evaluation, hooks or Hooks()
        job = TrainJob(*given, **(more or {}))
        result = train(job)
    last = ends[-1] if ends else None
    return SimpleNamespace(network=network, result=result, records=records, last=last, critics=job.critics)


def moved(after, before):
    return {name for name in after if not torch.equal(after[name], before[name])}


def part(saved, name):
    return {key.removeprefix(f"{name}/"): t for key, t in saved.tensors.items() if key.startswith(f"{name}/")}
