"""What holds of every transfer method in training, under every algorithm; a new one is tested here unedited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from support.method_fixtures import (
    ROLLOUT,
    SETTINGS,
    TRANSPLANT,
    CheckedSession,
    batch_of,
    build,
    cached_run,
    cases,
    consolidated,
    first,
    held,
    of_each_kind,
    register_norm_encoder,
    run_transfer,
    slow_but_for_kinds,
    source_of,
)
from support.tiny_tasks import MatchEnv, assert_same, weights

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.experiments.contracts import methods
from graft.transfer.method import PART, FromSource, Step, TransferMethod, label
from graft.transfer.methods.chain import Chain
from graft.transfer.methods.finetune import Finetune
from graft.transfer.task_heads import heads_of, serving

PPO = SETTINGS["ppo"]
PLAIN = [method for method in cases() if not isinstance(method, Chain)]


@pytest.fixture(scope="module", params=cases(), ids=label)
def method(request: pytest.FixtureRequest) -> TransferMethod:
    """The tests of a method follow one another, so that they share its run."""
    return request.param


@pytest.fixture(autouse=True)
def _setting(monkeypatch: pytest.MonkeyPatch, tiny_tasks: None) -> None:
    register_norm_encoder(monkeypatch)


def of_heads(tensors: Mapping[str, torch.Tensor], *parts: str) -> set[str]:
    return {name for name in tensors if name.startswith(tuple(f"{part}." for part in parts))}


def only(found: list[TransferMethod]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", found, ids=label, scope="module")


thorough = pytest.mark.parametrize("method", slow_but_for_kinds(cases()), scope="module")


def check_what_moved(method: TransferMethod, name: str, *heads: str) -> None:
    run = cached_run(method, name)
    methods.what_it_froze_stays(run, *heads)
    assert len(run.session.frozen_numbers) >= 3


def test_what_it_froze_stays_and_the_heads_train(method):
    check_what_moved(method, "ppo", "policy", "value")


@only(of_each_kind(PLAIN))
@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_what_it_froze_stays_under_other_algorithms(method, name):
    check_what_moved(method, name, "policy")


class Masks(Finetune):
    """Keeps the first row of the policy's output layer, and says so."""

    provides = frozenset({"zeroes_gradients"})

    def gradients(self, grads, network, state, batch):
        kept = torch.arange(len(network.policy.out.weight)) == 0
        masked = grads["policy.out.weight"].masked_fill(kept.unsqueeze(1), 0)
        return Step({**grads, "policy.out.weight": masked}, state)


@pytest.mark.parametrize("name", ["encoder.blocks.0.1.weight", "encoder.blocks.0.2.running_mean", "policy.out.weight"])
def test_what_moves_although_it_is_frozen_is_seen(name):
    """Of these tests' own means: a frozen weight, a running statistic, and one of some masked weights."""
    network = PolicyNetwork(PPO.schemas(1), PPO.architecture, 0)
    network.encoder.freeze(1)
    session = CheckedSession(Masks(), network, {})
    session.schedule(network, 0.0)
    with torch.no_grad():
        network.policy.out.weight[1:] += 1.0
        network.encoder.blocks[1][2].running_mean += 1.0
    session.compare()
    assert session.moved == set()
    with torch.no_grad():
        network.state_dict()[name][0] += 1e-6
    session.compare()
    assert session.moved == {name}


@thorough
def test_the_same_seeds_give_the_same_run_and_nothing_else_changes(method):
    """Neither the source nor the process's random numbers; the run is another one than the shared one."""
    run, source = cached_run(method, "ppo"), first(method, PPO) if method.uses_source else None
    before = held(source)
    state = torch.get_rng_state()
    build(method, PPO, source)
    assert torch.equal(torch.get_rng_state(), state)
    again = run_transfer(method, PPO, source)
    assert_same(held(source), before)
    assert run.session.random == again.session.random == set()
    assert_same(again.before, run.before)
    assert_same(dict(again.start), dict(run.start))
    assert_same(again.trained, run.trained)
    assert_same(dict(again.session.state), dict(run.session.state))
    assert_same(weights(again.network), weights(run.network))
    assert again.built.report == run.built.report


@only([m for m in of_each_kind(PLAIN) if "strength" in {f.name for f in fields(m)}])
def test_without_strength_it_is_plain_training(method):
    """Of the plain transplant where it builds by that, else of what it builds."""
    idle = replace(method, strength=0.0)
    source = source_of(idle, "ppo")
    run = run_transfer(idle, PPO, source)
    plain = Finetune()
    if type(method).build is FromSource.build:
        plain = Finetune(**{name: getattr(method, name) for name in TRANSPLANT})
        built = build(plain, PPO, source)
    else:
        built = build(idle, PPO, source)
    assert_same(weights(built.network), run.before)
    CheckedSession(plain, built.network, {}).train(PPO, 1, PPO.budget)
    assert_same(weights(built.network), run.trained)


@only([Chain(methods=(m,)) for m in of_each_kind(PLAIN) if m.uses_source and "races" not in m.words()] + [Chain()])
def test_a_chain_of_one_is_that_method(method):
    alone = method.methods[0] if method.methods else Finetune()
    run, other = run_transfer(method, PPO, first(method, PPO)), cached_run(alone, "ppo")
    assert_same(run.before, other.before)
    assert_same(run.trained, other.trained)
    assert_same(dict(run.session.state), {f"0/{name}": t for name, t in other.session.state.items()})
    assert_same(weights(run.network), weights(other.network))


def test_network_and_state_go_through_a_checkpoint(method, tmp_path):
    methods.it_goes_through_a_checkpoint(cached_run(method, "ppo"), PPO, tmp_path / "c")


def save_state(env: MatchEnv) -> dict[str, np.ndarray]:
    words = json.dumps([rng.bit_generator.state for rng in env._rngs]).encode().ljust(8192)
    return {"time": env.time.copy(), "states": env._states.copy(), "rng": np.frombuffer(words, np.uint8).copy()}


def restore_state(env: MatchEnv, saved: dict[str, np.ndarray]) -> None:
    env.time[:], env._states[:] = saved["time"], saved["states"]
    for rng, state in zip(env._rngs, json.loads(saved["rng"].tobytes()), strict=True):
        rng.bit_generator.state = state


@thorough
def test_a_stopped_and_resumed_training_ends_as_one_that_ran_through(method, tmp_path, monkeypatch):
    monkeypatch.setattr(MatchEnv, "savable", True)
    monkeypatch.setattr(MatchEnv, "save_state", save_state, raising=False)
    monkeypatch.setattr(MatchEnv, "restore_state", restore_state, raising=False)
    run, source = cached_run(method, "ppo"), source_of(method, "ppo")
    methods.a_stopped_training_ends_as_one_that_ran_through(method, PPO, source, run, tmp_path / "s", ROLLOUT)


@thorough
def test_a_sequence_of_three_tasks(method, tmp_path):
    """Through a checkpoint on the disk after each; every task can be viewed, and what a view shows can play it."""
    if not method.uses_source:
        return
    setting = SETTINGS["same"]
    source = source_of(method, "same")
    for index in (1, 2):
        assert source is not None
        run = run_transfer(method, setting, source, index)
        assert run.session.moved == set()
        assert run.session.random == set()
        run.checkpoint(setting, index).save(tmp_path / str(index))
        source = consolidated(method, setting, Checkpoint.load(tmp_path / str(index)), index)
    network, before = source.build(), dict(source.tensors)
    state, obs = source.parts.get(PART, {}), batch_of(source.schemas, 6).observations
    views = [method.view(network, state, task) for task in range(3)]
    outputs = [serving(view, heads_of(view), setting.schemas(task)).eval()(obs) for task, view in enumerate(views)]
    assert all(o.action.isfinite().all() for o in outputs)
    assert_same(weights(network), before)
    if "needs_task" not in method.words():
        assert all(torch.equal(o.action, outputs[-1].action) for o in outputs)
