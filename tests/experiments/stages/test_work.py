"""What a training computes and takes: operations by formulas, updates as the libraries make them, time and memory."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.off_policy import Small
from support.tiny_tasks import TASK, small_config, weights

from graft import envs
from graft.agents.networks.policy_network import build_network
from graft.agents.sb3 import ALGORITHMS
from graft.agents.sb3.vec_env import BatchVecEnv
from graft.agents.training.backend import Evaluation
from graft.experiments.plan.stage import Stage
from graft.experiments.stages.meter import Meter
from graft.experiments.stages.work import Work, latency, work_of
from graft.transfer.method import TransferMethod
from graft.transfer.session import TransferSession

pytestmark = pytest.mark.usefixtures("tiny_tasks")

BATCH = 32


def stage_of(name, algorithm):
    return Stage("pretrain", TASK, 0, 640, small_config("vector"), name, algorithm, Evaluation())


def ppo(**options):
    return ALGORITHMS["ppo"](**{"num_envs": 8, "num_steps": 8, "minibatch": BATCH, "epochs": 3, **options})


def products(network, part=""):
    """Inputs times outputs of each linear layer, in order."""
    return [p.numel() for n, p in network.named_parameters() if p.dim() == 2 and n.startswith(part)]


class Redraws(TransferMethod):
    """Rewrites weights, and draws random numbers."""

    def gradients(self, grads, network, state, batch):
        with torch.no_grad():
            network.policy.out.weight += torch.randn_like(network.policy.out.weight)
        network(batch.observations)  # a pass of its own
        return super().gradients(grads, network, state, batch)


def test_operations_are_those_of_the_layers():
    stage = stage_of("ppo", ppo())
    network = build_network(stage.schemas, stage.network, 0)
    layers, first = products(network), products(network, "encoder")[0]
    found = work_of(stage, TransferSession(TransferMethod(), network, {}), 640, print)
    # A layer is 2 operations for each weight and state: forward, by its weights, and, but for the first, by its input.
    update = BATCH * 2 * (3 * sum(layers) - first)
    assert found == Work(10 * 3 * 2, update, 2 * sum(layers), 60 * update + 640 * 2 * sum(layers))
    network.encoder.freeze()
    heads = [layer for part in ("policy", "value") for layer in products(network, part)]
    entered = products(network, "policy")[0] + products(network, "value")[0]
    frozen = work_of(stage, TransferSession(TransferMethod(), network, {}), 640, print)
    assert frozen.flops_per_update == BATCH * 2 * (3 * sum(heads) - entered), "only its heads are computed and trained"


def test_a_methods_own_passes_count_and_nothing_is_changed():
    stage = stage_of("ppo", ppo())
    network = build_network(stage.schemas, stage.network, 0)
    before, dice = weights(network), torch.get_rng_state()
    plain = work_of(stage, TransferSession(TransferMethod(), network, {}), 64, print)
    found = work_of(stage, TransferSession(Redraws(), network, {}), 64, print)
    assert found.flops_per_update - plain.flops_per_update == BATCH * plain.flops_per_inference
    after = weights(network)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.equal(torch.get_rng_state(), dice)
    assert all(p.grad is None for p in network.parameters())


def test_a_replay_update_is_the_learners():
    small = Small("dqn", TASK, {"target_update": 8})
    stage = stage_of("dqn", small.algorithm())
    network = small.network()
    layers, policy = products(network), products(network, "encoder") + products(network, "policy")
    session = TransferSession(TransferMethod(), network, {})
    # The library's two networks compute their value heads as well, which no loss trains.
    update = 16 * 2 * (2 * sum(layers) + 2 * sum(policy) - policy[0])
    numbers = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert work_of(stage, session, 60, print).flops_per_update == update
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(numbers[0], after[0])
    assert (numbers[1] == after[1]).all()
    assert numbers[2] == after[2]


@pytest.mark.parametrize("options", [{}, {"minibatch": 48}, {"minibatch": 500}])
def test_as_many_updates_as_the_library_makes(options):
    algorithm, seen = ppo(**options), []
    network = build_network(envs.schemas(TASK), small_config("vector"), 0)
    learner = algorithm.learner(network, BatchVecEnv(envs.make(TASK, 8, 0)), 0, None, "cpu")
    learner.policy.optimizer.register_step_post_hook(lambda *_: seen.append(1))
    learner.learn(100)
    assert algorithm.updates(100) == len(seen) > 0


def test_what_cannot_be_counted_is_said_and_stops_nothing():
    class Fails(TransferMethod):
        def gradients(self, grads, network, state, batch):
            raise RuntimeError("no such batch")

    stage, said = stage_of("ppo", ppo()), []
    network = build_network(stage.schemas, stage.network, 0)
    found = work_of(stage, TransferSession(Fails(), network, {}), 64, said.append)
    assert found == Work(6, None, None, None)
    assert "could not be counted (RuntimeError: no such batch)" in said[0]


def test_latency_is_of_the_networks_pass():
    network = build_network(envs.schemas(TASK), small_config("vector"), 0)
    assert 0 < latency(network) < 1000


def test_a_meter_counts_processes_and_memory_and_goes_on():
    meter = Meter({"wall_seconds": 100.0, "core_seconds": 50.0, "peak_bytes": 7})
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-S", "-c", busy], check=True)
    spent = meter.spent()
    assert 50.2 <= spent["core_seconds"] < 60
    assert 100.2 <= spent["wall_seconds"] < 200


def test_a_meter_keeps_the_peak_of_memory():
    """In a process of its own: here others free memory at the same time."""
    code = """
import numpy
from graft.experiments.stages.meter import Meter
meter = Meter({"peak_bytes": 7})
before = meter.spent()["peak_bytes"]
held = numpy.ones(10_000_000)
size = held.nbytes
del held
print(before, meter.spent()["peak_bytes"], size)
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    before, peak, size = map(int, result.stdout.split())
    assert 7 < before < peak - 0.9 * size


class UnfreezesLate(TransferMethod):
    """Only the heads are trained in the first three quarters."""

    def schedule(self, network, state, progress):
        if progress < 0.75:
            network.encoder.freeze()
        else:
            network.encoder.freeze(0)
        return state


def test_updates_on_frozen_layers_count_as_such():
    stage = stage_of("ppo", ppo())
    network = build_network(stage.schemas, stage.network, 0)
    plain = work_of(stage, TransferSession(TransferMethod(), network, {}), 640, print).flops_per_update
    network.encoder.freeze()
    frozen = work_of(stage, TransferSession(TransferMethod(), network, {}), 640, print).flops_per_update
    session = TransferSession(UnfreezesLate(), network, {})
    for progress in (0, 0.25, 0.5, 0.75):
        session.schedule(network, progress)
    again = TransferSession(UnfreezesLate(), network, {})
    again.restore(session.save())
    found = work_of(stage, again, 640, print)
    assert found.flops_per_update == round(0.75 * frozen + 0.25 * plain)
    assert frozen < plain
