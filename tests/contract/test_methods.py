"""What every transfer method keeps: a new one is tested here unedited, with each choice that its options offer."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from handmade import NormEncoder, assert_same, observations, scrambled
from method_life import CHAINS, NETWORKS, SOURCE_TASK, TARGET_TASK, Life, begin, source_of, states_of, variants, weights

import envs
from agents.checkpoint import Checkpoint
from agents.encoder import ENCODERS
from agents.network import NetworkConfig, PolicyNetwork
from agents.snapshot import Snapshots
from envs.options import build_options
from envs.task import Task
from transfer.method import METHODS, PART, TransferMethod, changed_options, label, method_name, parse_method, to_json
from transfer.methods.finetune import Finetune

CHAINED = [parse_method({"chain": entries}) for entries in CHAINS[:2]]
ALL = [*variants(inherited=True), *CHAINED]
OWN = [*variants(inherited=False), *CHAINED]
STRONG = [m for m in OWN if "strength" in {f.name for f in fields(m)}]
GAME, CHANGED = Task("Graft/Dodge-v0"), Task("Graft/Dodge-v0", {"slip": 0.2})
BOARD = NetworkConfig("grid_cnn", {"channels": [4], "kernels": [3], "strides": [2], "pools": [1], "features": 8}, (8,))


@pytest.fixture(params=NETWORKS)
def architecture(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, handmade_tasks: None
) -> NetworkConfig:
    list(ENCODERS)  # loads the others
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    return NETWORKS[request.param]


@pytest.fixture
def source(architecture: NetworkConfig) -> Checkpoint:
    return source_of(architecture)


def of_all(methods: list[TransferMethod]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", methods, ids=label)


def frozen_names(network: PolicyNetwork) -> set[str]:
    """Parameters without gradient, and the buffers of the blocks that are frozen."""
    blocks = tuple(f"encoder.blocks.{i}." for i in range(network.encoder.frozen_blocks))
    buffers = {name for name, _ in network.named_buffers() if name.startswith((*blocks, "earlier."))}
    return {name for name, p in network.named_parameters() if not p.requires_grad} | buffers


@of_all(ALL)
def test_options_are_data(method):
    assert is_dataclass(method)
    with pytest.raises(AttributeError):
        method.anything = 1
    name, options = method_name(method), changed_options(method)
    assert METHODS[name] is type(method)
    assert build_options(f"method {name}", METHODS[name], options) == method
    assert label(method).startswith(name)
    assert to_json(method)["name"] == name


def test_labels_and_records_tell_methods_apart():
    for tell in (label, lambda method: repr(to_json(method))):
        assert len({tell(method) for method in ALL}) == len(ALL)


@of_all(ALL)
def test_same_seed_same_network(method, source, architecture):
    first, again = (begin(method, source, architecture) for _ in range(2))
    assert_same(weights(first.network), weights(again.network))
    assert_same(dict(first.state), dict(again.state))
    assert first.built.report == again.built.report
    assert frozen_names(first.network) == frozen_names(again.network)


@of_all(OWN)
def test_random_state_and_source_are_left_alone(method, source, architecture):
    before, state = {name: t.clone() for name, t in source.tensors.items()}, torch.get_rng_state()
    life = begin(method, source, architecture)
    assert torch.equal(torch.get_rng_state(), state)
    held = {name: t.clone() for name, t in life.source.tensors.items()}
    life.train()
    assert_same(dict(source.tensors), before)
    assert_same(dict(life.source.tensors), held)


@of_all(ALL)
def test_the_network_is_the_targets(method, source, architecture):
    network = begin(method, source, architecture).network
    assert network.schemas == envs.schemas(TARGET_TASK)
    outputs = network(observations(network.schemas.observation, 3))
    assert outputs.action.shape == (3, 4)
    assert outputs.action.isfinite().all()


@of_all(STRONG)
def test_strength_zero_is_plain_training(method, source, architecture):
    idle = replace(method, strength=0.0)
    life, other = (begin(m, source, architecture) for m in (idle, idle))
    plain = Life(Finetune(), other.source, other.built, {})
    life.train()
    plain.train()
    assert_same(weights(life.network), weights(plain.network))


@of_all(OWN)
def test_what_it_froze_does_not_change_and_the_rest_trains(method, source, architecture):
    life = begin(method, source, architecture)
    frozen, before = frozen_names(life.network), weights(life.network)
    life.train()
    after = weights(life.network)
    assert [name for name in sorted(frozen) if not torch.equal(after[name], before[name])] == []
    heads = {name for name in after if name.startswith(("policy.", "value."))} - frozen
    assert [name for name in sorted(heads) if torch.equal(after[name], before[name])] == []
    assert frozen_names(life.network) == frozen


@of_all(OWN)
def test_training_is_reproducible(method, source, architecture):
    lives = [begin(method, source, architecture) for _ in range(2)]
    for life in lives:
        life.train()
    assert_same(weights(lives[0].network), weights(lives[1].network))
    assert_same(dict(lives[0].state), dict(lives[1].state))


@of_all(ALL)
def test_every_parameter_that_trains_is_used_and_saved(method, source, architecture):
    network = begin(method, source, architecture).network.eval()
    assert {name for name, _ in network.named_parameters()} <= set(network.state_dict())
    obs = observations(network.schemas.observation, 5)
    with torch.no_grad():
        for parameter in (p for p in network.parameters() if p.requires_grad):  # so that no factor is zero
            parameter.add_(torch.linspace(0.05, 0.1, parameter.numel()).view(parameter.shape))
    before = network(obs)
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(torch.linspace(0.1, 0.2, parameter.numel()).view(parameter.shape))
        after = network(obs)
        assert not (torch.equal(after.action, before.action) and torch.equal(after.value, before.value)), name
        with torch.no_grad():
            parameter.copy_(kept)


@of_all(OWN)
def test_network_and_state_survive_a_checkpoint(method, source, architecture, tmp_path):
    life = begin(method, source, architecture)
    network = method.finish(life.network, life.state)
    Checkpoint.of(network, TARGET_TASK, parts={PART: life.state}).save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c")
    assert_same(dict(loaded.parts[PART]), dict(life.state))
    obs = observations(network.schemas.observation, 5)
    found, wanted, live = (n.eval()(obs) for n in (loaded.build(), network, life.network))
    assert torch.equal(found.action, wanted.action)
    assert torch.equal(found.value, wanted.value)
    torch.testing.assert_close(wanted.action, live.action, rtol=0, atol=1e-5)


def a_gradient(network: PolicyNetwork) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Of some loss on some states, and those states."""
    obs = observations(network.schemas.observation, 5)
    outputs = network(obs)
    (outputs.action.square().sum() + outputs.value.square().sum()).backward()
    grads = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return grads, obs


@of_all(ALL)
def test_its_gradients_fit_the_parameters(method, source, architecture):
    life = begin(method, source, architecture)
    grads, obs = a_gradient(life.network)
    given = {name: g.clone() for name, g in grads.items()}
    step = method.gradients(
        grads, life.network, life.state, states_of(life.network.schemas, 5)._replace(observations=obs)
    )
    trainable = {name: p.shape for name, p in life.network.named_parameters() if p.requires_grad}
    assert {name: g.shape for name, g in step.grads.items()} == trainable
    assert all(g.isfinite().all() for g in step.grads.values())
    assert_same(grads, given)
    if not method.overrides("gradients"):
        assert step.grads is grads
        assert_same(dict(step.state), dict(life.state))


@of_all(ALL)
def test_the_encoder_starts_as_the_sources(method, source, architecture):
    """On the source's own task bit for bit, and on permuted channels to rounding, wherever the method promises it."""
    same = begin(method, source, architecture, task=SOURCE_TASK)
    if not method.uses_source:
        fresh = PolicyNetwork(envs.schemas(SOURCE_TASK), architecture, 1)
        assert_same(weights(same.network), weights(fresh))
    if not (method.uses_source and method.carries_weights):
        return
    original, obs = same.source.build().eval().encoder, observations(envs.schemas(SOURCE_TASK).observation, 6)
    assert torch.equal(same.network.eval().encoder(obs), original(obs))
    assert not same.built.report.partial
    turned = Task("handmade/Match-v0", {"names": ["d", "a", "c", "b"]})
    permuted = begin(method, source, architecture, task=turned).network.eval().encoder(obs[:, [3, 0, 2, 1]])
    torch.testing.assert_close(permuted, original(obs), rtol=0, atol=1e-6)


@of_all(ALL)
def test_the_report_tells_the_truth(method, source, architecture):
    life = begin(method, source, architecture)
    report = life.built.report
    if report is None:
        assert not (method.uses_source and method.carries_weights)
        return
    after = weights(method.finish(life.network, life.state))
    assert sorted(row.tensor for row in report.rows if row.status != "dropped") == sorted(after)
    for row in report.rows:
        assert row.share == 1.0 or row.status != "copied"
        assert (row.share == 0.0) is (row.status in ("initialised", "dropped"))
        if row.status == "copied" and not row.detail:
            assert torch.equal(after[row.tensor], life.source.tensors[row.tensor.removeprefix("earlier.")])
    assert {"new", "c"} <= set(report.lost)


@of_all(ALL)
def test_hooks_that_it_does_not_override_do_nothing(method, source, architecture):
    life = begin(method, source, architecture)
    before = weights(life.network)
    assert all(isinstance(tensor, torch.Tensor) for tensor in life.state.values())
    if not method.overrides("schedule"):
        assert_same(dict(method.schedule(life.network, life.state, 0.5)), dict(life.state))
    if not method.overrides("view"):
        assert method.view(life.network, life.state, 0) is life.network
    if not method.overrides("finish"):
        assert method.finish(life.network, life.state) is life.network
    assert_same(weights(life.network), before)


@of_all(OWN)
def test_the_source_is_used_where_the_method_says_so(method, source, architecture):
    if not method.uses_source:
        target = envs.schemas(TARGET_TASK)
        without, given = (method.build(s, target, architecture, 1) for s in (None, source))
        assert_same(weights(without.network), weights(given.network))
        return
    other = Checkpoint.of(scrambled(source.build(), seed=9), SOURCE_TASK)
    lives = [begin(method, s, architecture) for s in (source, other)]
    one, another = ({**weights(life.network), **life.state} for life in lives)
    assert any(not torch.equal(one[name], another[name]) for name in one)


class Stop(Exception):
    """As sudden as a kill."""


@of_all(OWN)
def test_training_that_was_stopped_ends_like_training_that_was_not(method, tmp_path):
    """On a built-in game, whose state can be saved; stopped after the first rollout's update, before the second's."""
    source = Checkpoint.of(scrambled(PolicyNetwork(envs.schemas(GAME), BOARD, 0), 3), GAME)
    straight, stopped, resumed = (begin(method, source, BOARD, task=CHANGED) for _ in range(3))
    straight.train(task=CHANGED)

    def stop(env_steps, values):
        if env_steps == 256:
            raise Stop

    def snapshots(life: Life) -> Snapshots:
        return Snapshots(tmp_path / "s", {}, 1e9, 1, save=life.save, restore=life.restore)

    with pytest.raises(Stop):
        stopped.train(stop, snapshots(stopped), CHANGED)
    assert snapshots(resumed).latest().env_steps == 128
    with torch.no_grad():
        for parameter in resumed.network.parameters():
            parameter.add_(1.0)  # which the snapshot must replace
    resumed.train(snapshots=snapshots(resumed), task=CHANGED)
    assert_same(weights(resumed.network), weights(straight.network))
    assert_same(dict(resumed.state), dict(straight.state))
