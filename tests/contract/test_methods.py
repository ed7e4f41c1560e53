"""What every transfer method keeps: a new one is tested here unedited, with each choice that its options offer."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from handmade import NormEncoder, assert_same, observations, scrambled, small_ppo

import envs
from agents.backend import Batch, Evaluation, Hooks
from agents.checkpoint import Checkpoint
from agents.encoder import ENCODERS
from agents.network import NetworkConfig, PolicyNetwork
from agents.sb3 import train
from envs.options import build_options
from envs.task import Task
from transfer.method import METHODS, Built, FromSource, TransferMethod, changed_options, label, method_name

SOURCE_TASK = Task("handmade/Match-v0", {"names": ["a", "b", "c", "d"]})
TARGET_TASK = Task("handmade/Match-v0", {"names": ["d", "new", "a", "b"]})
NETWORKS = {
    "mlp": NetworkConfig("mlp", {"widths": [8, 8]}, (8,)),
    "norm": NetworkConfig("norm", {"width": 8}, (8,)),
}


def choices(annotation: Any) -> tuple[Any, ...]:
    """The values that a Literal, alone or within a union, allows."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(value for part in get_args(annotation) for value in choices(part))


def variants() -> list[TransferMethod]:
    """Every method with its defaults, and with each value of its options that are a choice of words."""
    found = []
    for kind in map(METHODS.__getitem__, METHODS):
        found.append(kind())
        hints = get_type_hints(kind, include_extras=True)
        for option in fields(kind):
            found += [kind(**{option.name: v}) for v in choices(hints[option.name]) if v != option.default]
    return found


@pytest.fixture(params=variants(), ids=label)
def method(request: pytest.FixtureRequest) -> TransferMethod:
    return request.param


@pytest.fixture(params=NETWORKS)
def architecture(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, handmade_tasks: None
) -> NetworkConfig:
    list(ENCODERS)  # loads the others
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)
    return NETWORKS[request.param]


@pytest.fixture
def source(architecture: NetworkConfig) -> Checkpoint:
    network = PolicyNetwork(envs.schemas(SOURCE_TASK), architecture, 0)
    with torch.no_grad():
        for parameter in scrambled(network).parameters():
            parameter.mul_(0.3)  # where tanh is not flat
    return Checkpoint.of(network, SOURCE_TASK)


def build(
    method: TransferMethod, source: Checkpoint, architecture: NetworkConfig, seed: int = 1, task: Task = TARGET_TASK
) -> Built:
    return method.build(source if method.uses_source else None, envs.schemas(task), architecture, seed)


def trained(method: TransferMethod, network: PolicyNetwork, source: Checkpoint) -> None:
    """Two rollouts of PPO with what the method does to it."""
    state = method.init(network, source if method.uses_source else None)
    kind = type(method)

    def schedule(network: PolicyNetwork, progress: float) -> None:
        nonlocal state
        state = method.schedule(network, state, progress)

    hooks = Hooks(
        gradients=None
        if kind.gradients is TransferMethod.gradients
        else lambda grads, network, batch: method.gradients(grads, network, state, batch),
        schedule=schedule,
    )
    plan = Evaluation(every=1000, episodes=1, num_envs=1)
    train(network, TARGET_TASK, small_ppo(), 256, 0, lambda *_: None, plan, hooks, "cpu")


def weights(network: PolicyNetwork) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def frozen_names(network: PolicyNetwork) -> set[str]:
    """Parameters without gradient, and the buffers of the blocks that are frozen."""
    blocks = tuple(f"encoder.blocks.{i}." for i in range(network.encoder.frozen_blocks))
    buffers = {name for name, _ in network.named_buffers() if name.startswith(blocks)}
    return {name for name, p in network.named_parameters() if not p.requires_grad} | buffers


def test_options_are_data(method):
    assert is_dataclass(method)
    with pytest.raises(AttributeError):
        method.anything = 1
    name, options = method_name(method), changed_options(method)
    assert METHODS[name] is type(method)
    assert build_options(f"method {name}", METHODS[name], options) == method
    assert label(method) == (name if not options else f"{name}({', '.join(f'{k}={v}' for k, v in options.items())})")


def test_labels_tell_methods_apart():
    labels = [label(method) for method in variants()]
    assert len(set(labels)) == len(labels)


def test_same_seed_same_network(method, source, architecture):
    first, again = (build(method, source, architecture) for _ in range(2))
    assert_same(weights(first.network), weights(again.network))
    assert first.report == again.report
    assert [p.requires_grad for p in first.network.parameters()] == [
        p.requires_grad for p in again.network.parameters()
    ]


def test_building_leaves_the_callers_random_state_and_the_source_alone(method, source, architecture):
    before = {name: tensor.clone() for name, tensor in source.tensors.items()}
    state = torch.get_rng_state()
    built = build(method, source, architecture)
    assert torch.equal(torch.get_rng_state(), state)
    trained(method, built.network, source)
    assert_same(dict(source.tensors), before)


def test_the_network_is_the_targets(method, source, architecture):
    network = build(method, source, architecture).network
    assert network.schemas == envs.schemas(TARGET_TASK)
    outputs = network(observations(network.schemas.observation, 3))
    assert outputs.action.shape == (3, 4)
    assert outputs.action.isfinite().all()


def test_what_it_froze_does_not_change_and_the_rest_trains(method, source, architecture):
    network = build(method, source, architecture).network
    frozen, before = frozen_names(network), weights(network)
    assert any(p.requires_grad for p in network.parameters())
    trained(method, network, source)
    after = weights(network)
    assert [name for name in sorted(frozen) if not torch.equal(after[name], before[name])] == []
    heads = {name for name in after if name.startswith(("policy.", "value."))} - frozen
    assert [name for name in sorted(heads) if torch.equal(after[name], before[name])] == []
    assert frozen_names(network) == frozen


def test_training_is_reproducible(method, source, architecture):
    runs = []
    for _ in range(2):
        network = build(method, source, architecture).network
        trained(method, network, source)
        runs.append(weights(network))
    assert_same(*runs)


def test_every_parameter_that_trains_is_used(method, source, architecture):
    network = build(method, source, architecture).network.eval()
    obs = observations(network.schemas.observation, 5)
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


def test_the_network_survives_a_checkpoint(method, source, architecture, tmp_path):
    network = build(method, source, architecture).network
    assert {name for name, _ in network.named_parameters()} <= set(network.state_dict())
    state = method.init(network, source if method.uses_source else None)
    Checkpoint.of(network, TARGET_TASK, parts={"method": state}).save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c")
    assert_same(dict(loaded.parts["method"]), dict(state))
    obs = observations(network.schemas.observation, 5)
    found, wanted = loaded.build().eval()(obs), network.eval()(obs)
    assert torch.equal(found.action, wanted.action)
    assert torch.equal(found.value, wanted.value)


def test_its_gradients_fit_the_parameters(method, source, architecture):
    network = build(method, source, architecture).network
    state = method.init(network, source if method.uses_source else None)
    obs = observations(network.schemas.observation, 5)
    outputs = network(obs)
    (outputs.action.square().sum() + outputs.value.square().sum()).backward()
    grads = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    given = {name: g.clone() for name, g in grads.items()}
    changed = method.gradients(grads, network, state, Batch(obs, torch.zeros(5, dtype=torch.long)))
    trainable = {name: p.shape for name, p in network.named_parameters() if p.requires_grad}
    assert {name: g.shape for name, g in changed.items()} == trainable
    assert all(g.isfinite().all() for g in changed.values())
    if type(method).gradients is TransferMethod.gradients:
        assert changed is grads
        assert_same(changed, given)


def test_the_source_is_used_where_the_method_says_so(method, source, architecture):
    target = envs.schemas(TARGET_TASK)
    if method.uses_source:
        with pytest.raises(AssertionError, match="always given one"):
            method.build(None, target, architecture, 1)
        other = Checkpoint.of(scrambled(source.build(), seed=9), SOURCE_TASK)
        one, another = (weights(method.build(s, target, architecture, 1).network) for s in (source, other))
        assert any(not torch.equal(one[name], another[name]) for name in one)
    else:
        without, given = (method.build(s, target, architecture, 1) for s in (None, source))
        assert_same(weights(without.network), weights(given.network))
        assert without.report is given.report is None


def test_the_encoder_starts_as_the_sources(method, source, architecture):
    """On the source's own task bit for bit, and on permuted channels to rounding."""
    if not isinstance(method, FromSource):
        fresh = PolicyNetwork(envs.schemas(SOURCE_TASK), architecture, 1)
        assert_same(weights(build(method, source, architecture, task=SOURCE_TASK).network), weights(fresh))
        return
    original, obs = source.build().eval().encoder, observations(envs.schemas(SOURCE_TASK).observation, 6)
    same = build(method, source, architecture, task=SOURCE_TASK)
    assert torch.equal(same.network.eval().encoder(obs), original(obs))
    assert not same.report.partial
    turned = Task("handmade/Match-v0", {"names": ["d", "a", "c", "b"]})
    permuted = build(method, source, architecture, task=turned).network.eval().encoder(obs[:, [3, 0, 2, 1]])
    torch.testing.assert_close(permuted, original(obs), rtol=0, atol=1e-6)


def test_the_report_tells_the_truth(method, source, architecture):
    built = build(method, source, architecture)
    if built.report is None:
        assert not method.uses_source
        return
    after = weights(built.network)
    assert [row.tensor for row in built.report.rows if row.status != "dropped"] == list(after)
    for row in built.report.rows:
        assert row.share == 1.0 or row.status != "copied"
        assert (row.share == 0.0) is (row.status in ("initialised", "dropped"))
        if row.status == "copied":
            assert torch.equal(after[row.tensor], source.tensors[row.tensor])
    assert {"new", "c"} <= set(built.report.lost)


def test_defaults_of_the_other_hooks(method, source, architecture):
    network = build(method, source, architecture).network
    state = method.init(network, source if method.uses_source else None)
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    before = weights(network)
    kind = type(method)
    if kind.schedule is TransferMethod.schedule:
        assert method.schedule(network, state, 0.5) is state
    if kind.consolidate is TransferMethod.consolidate:
        batch = Batch(observations(network.schemas.observation, 2), torch.zeros(2, dtype=torch.long))
        assert method.consolidate(network, state, batch) is state
    if kind.view is TransferMethod.view:
        assert method.view(network, state, 0) is network
    assert_same(weights(network), before)
