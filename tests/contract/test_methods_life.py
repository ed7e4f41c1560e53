"""What every transfer method keeps while it trains: a new one lives its life here unedited, under every algorithm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from support.handmade import MatchEnv, assert_same, weights
from support.method_world import (
    ROLLOUT,
    TRANSPLANT,
    WORLDS,
    Running,
    batch_of,
    build,
    cases,
    consolidated,
    first,
    install,
    life_of,
    live,
    source_of,
)

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.snapshot import Snapshots
from graft.agents.networks.policy_network import PolicyNetwork
from graft.transfer.method import PART, FromSource, Step, TransferMethod, label
from graft.transfer.methods.chain import Chain
from graft.transfer.methods.finetune import Finetune
from graft.transfer.task_heads import heads_of, serving

PPO = WORLDS["ppo"]
PLAIN = [method for method in cases() if not isinstance(method, Chain)]


@pytest.fixture(scope="module", params=cases(), ids=label)
def method(request: pytest.FixtureRequest) -> TransferMethod:
    """The tests of a method follow one another, so that they share its life."""
    return request.param


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch, handmade_tasks: None) -> None:
    install(monkeypatch)


def of_heads(tensors: Mapping[str, torch.Tensor], *parts: str) -> set[str]:
    return {name for name in tensors if name.startswith(tuple(f"{part}." for part in parts))}


def only(found: list[TransferMethod]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", found, ids=label, scope="module")


@pytest.mark.parametrize(("name", "heads"), [("ppo", ("policy", "value")), ("dqn", ("policy",)), ("sac", ("policy",))])
def test_what_it_froze_stays_and_the_heads_train(method, name, heads):
    life = life_of(method, name)
    assert life.running.moved == set()
    changed = {n for n, t in life.trained.items() if not torch.equal(t, life.before[n])}
    assert of_heads(life.before, *heads) <= changed
    assert len(life.running.frozen) >= 3


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
    running = Running(Masks(), network, {})
    running.schedule(network, 0.0)
    with torch.no_grad():
        network.policy.out.weight[1:] += 1.0
        network.encoder.blocks[1][2].running_mean += 1.0
    running.compare()
    assert running.moved == set()
    with torch.no_grad():
        network.state_dict()[name][0] += 1e-6
    running.compare()
    assert running.moved == {name}


def test_its_hooks_leave_the_random_numbers_and_the_source_alone(method):
    if method.uses_source:
        source = first(method, PPO)
        before = {name: t.clone() for name, t in {**source.tensors, **source.parts.get(PART, {})}.items()}
        state = torch.get_rng_state()
        build(method, PPO, source)
        assert torch.equal(torch.get_rng_state(), state)
        life = live(method, PPO, source)
        assert_same({**life.source.tensors, **life.source.parts.get(PART, {})}, before)
    assert life_of(method, "ppo").running.random == set()


def test_the_same_seeds_give_the_same_life(method):
    """Another life than the shared one, from the first task on."""
    world = WORLDS["ppo"]
    again, life = live(method, world, first(method, world) if method.uses_source else None), life_of(method, "ppo")
    assert_same(again.before, life.before)
    assert_same(dict(again.start), dict(life.start))
    assert_same(again.trained, life.trained)
    assert_same(dict(again.running.state), dict(life.running.state))
    assert_same(weights(again.network), weights(life.network))
    assert again.built.report == life.built.report


@only([m for m in PLAIN if "strength" in {f.name for f in fields(m)}])
def test_without_strength_it_is_plain_training(method):
    """Of the plain transplant where it builds by that, else of what it builds."""
    idle = replace(method, strength=0.0)
    source = source_of(idle, "ppo")
    life = live(idle, PPO, source)
    plain = Finetune()
    if type(method).build is FromSource.build:
        plain = Finetune(**{name: getattr(method, name) for name in TRANSPLANT})
        built = build(plain, PPO, source)
    else:
        built = build(idle, PPO, source)
    assert_same(weights(built.network), life.before)
    Running(plain, built.network, {}).train(PPO, 1, PPO.budget)
    assert_same(weights(built.network), life.trained)


@only([Chain(methods=(m,)) for m in PLAIN if m.uses_source] + [Chain()])
def test_a_chain_of_one_is_that_method(method):
    alone = method.methods[0] if method.methods else Finetune()
    life, other = live(method, PPO, first(method, PPO)), life_of(alone, "ppo")
    assert_same(life.before, other.before)
    assert_same(life.trained, other.trained)
    assert_same(dict(life.running.state), {f"0/{name}": t for name, t in other.running.state.items()})
    assert_same(weights(life.network), weights(other.network))


def test_network_and_state_go_through_a_checkpoint(method, tmp_path):
    life = life_of(method, "ppo")
    assert all(isinstance(t, torch.Tensor) for t in life.running.state.values())
    life.checkpoint(PPO).save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c")
    assert_same(dict(loaded.parts[PART]), dict(life.running.state))
    network, obs = loaded.build(), batch_of(life.network.schemas, 5).observations
    assert_same(weights(network), weights(life.network))
    kept, restored, trained = (n.eval()(obs) for n in (life.network, network, life.built.network))
    assert torch.equal(restored.action, kept.action)
    assert torch.equal(restored.value, kept.value)
    torch.testing.assert_close(kept.action, trained.action, rtol=0, atol=1e-5)  # `finish` keeps what it does
    torch.testing.assert_close(kept.value, trained.value, rtol=0, atol=1e-5)


class Stop(Exception):
    """As sudden as a kill."""


def save_state(env: MatchEnv) -> dict[str, np.ndarray]:
    words = json.dumps([rng.bit_generator.state for rng in env._rngs]).encode().ljust(8192)
    return {"time": env.time.copy(), "states": env._states.copy(), "rng": np.frombuffer(words, np.uint8).copy()}


def restore_state(env: MatchEnv, saved: dict[str, np.ndarray]) -> None:
    env.time[:], env._states[:] = saved["time"], saved["states"]
    for rng, state in zip(env._rngs, json.loads(saved["rng"].tobytes()), strict=True):
        rng.bit_generator.state = state


def test_stopped_and_resumed_it_ends_as_if_it_had_not_been(method, tmp_path, monkeypatch):
    monkeypatch.setattr(MatchEnv, "save_state", save_state, raising=False)
    monkeypatch.setattr(MatchEnv, "restore_state", restore_state, raising=False)
    life, source = life_of(method, "ppo"), source_of(method, "ppo")

    def run(stop_at):
        built = build(method, PPO, source)
        running = Running(method, built.network, method.init(built.network, source))

        def record(env_steps, values):
            if stop_at is not None and env_steps >= stop_at:
                raise Stop

        snapshots = Snapshots(tmp_path / "s", seconds=1e9, env_steps=1, save=running.save, restore=running.restore)
        running.train(PPO, 1, PPO.budget, record, snapshots)
        return running

    for stop_at in (ROLLOUT + 1, 2 * ROLLOUT + 1):
        with pytest.raises(Stop):
            run(stop_at)
        assert Snapshots(tmp_path / "s").latest().env_steps >= stop_at - 1
        torch.manual_seed(99)
    running = run(None)
    assert len(running.frozen) < len(life.running.frozen), "it began anew"
    assert_same(weights(running.network), life.trained)
    assert_same(dict(running.state), dict(life.running.state))
    assert_same(weights(method.finish(running.network, running.state)), weights(life.network))


def test_a_life_of_three_tasks(method, tmp_path):
    """Through a checkpoint on the disk after each; every task can be viewed, and what a view shows can play it."""
    if not method.uses_source:
        return
    world = WORLDS["same"]
    source = source_of(method, "same")
    for index in (1, 2):
        assert source is not None
        life = live(method, world, source, index)
        assert life.running.moved == set()
        assert life.running.random == set()
        life.checkpoint(world, index).save(tmp_path / str(index))
        source = consolidated(method, world, Checkpoint.load(tmp_path / str(index)), index)
    network, before = source.build(), dict(source.tensors)
    state, obs = source.parts.get(PART, {}), batch_of(source.schemas, 6).observations
    views = [method.view(network, state, task) for task in range(3)]
    outputs = [serving(view, heads_of(view), world.schemas(task)).eval()(obs) for task, view in enumerate(views)]
    assert all(o.action.isfinite().all() for o in outputs)
    assert_same(weights(network), before)
    if "needs_task" not in method.words():
        assert all(torch.equal(o.action, outputs[-1].action) for o in outputs)
