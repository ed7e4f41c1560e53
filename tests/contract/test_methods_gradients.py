"""What a transfer method builds computes, and what it adds to gradients: a new one is tested here unedited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import pytest
import torch
from support.method_fixtures import (
    MATCH,
    SETTINGS,
    Setting,
    batch_of,
    build,
    cases,
    masked,
    ones,
    register_norm_encoder,
    source_of,
)
from support.tiny_tasks import assert_same, weights

from graft.agents.networks.encoder import Encoder
from graft.agents.networks.policy_network import Outputs, PolicyNetwork
from graft.agents.training.backend import Batch, Grads
from graft.envs.core.task import Task
from graft.transfer.method import FromSource, State, Step, TransferMethod, label

TURNED = Task("tiny/Match-v0", {"names": ["d", "a", "c", "b"]})
STEP = 1e-4
"""Of the finite differences: of second order and in double precision, so that their error is about 1e-8."""


@pytest.fixture(scope="module", params=cases(), ids=label)
def method(request: pytest.FixtureRequest) -> TransferMethod:
    return request.param


@pytest.fixture(autouse=True)
def _setting(monkeypatch: pytest.MonkeyPatch, tiny_tasks: None) -> None:
    register_norm_encoder(monkeypatch)


def moved_away(network: PolicyNetwork, seed: int = 0) -> PolicyNetwork:
    """All that trains somewhere else, where nothing is zero any more."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * (torch.rand(parameter.shape, generator=generator) - 0.4))
    return network


def differ(a: Outputs, b: Outputs) -> bool:
    return any(x is not None and not torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("setting", ["ppo", "sac"])
def test_every_parameter_that_trains_changes_the_output_and_is_saved(method, setting):
    network = moved_away(build(method, SETTINGS[setting], source_of(method, setting)).network).eval()
    assert {name for name, _ in network.named_parameters()} <= set(network.state_dict())
    obs = batch_of(network.schemas, 6).observations
    before = network(obs)
    assert any(p.requires_grad for p in network.parameters())
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(torch.linspace(0.1, 0.2, parameter.numel()).view(parameter.shape))
            assert differ(network(obs), before), name
            parameter.copy_(kept)


def doubled(network: PolicyNetwork, state: State) -> State:
    """Network and state in double precision; encoders turn observations into floats, which are doubled as well."""
    for module in network.double().modules():
        if isinstance(module, Encoder):
            scale = module.scale
            module.scale = lambda obs, scale=scale: scale(obs).double()
    return {name: t.double() if t.is_floating_point() else t for name, t in state.items()}


def unit(like: Grads, free: Mapping[str, torch.Tensor]) -> Grads:
    """The direction of length 1, zero where weights are not free."""
    way = {name: g * free.get(name, 1.0) for name, g in like.items()}
    length = sum(float(w.square().sum()) for w in way.values()) ** 0.5
    assert length > 1e-7
    return {name: w / length for name, w in way.items()}


def penalty_at(
    method: TransferMethod, network: PolicyNetwork, state: State, batch: Batch, way: Grads, distance: float
) -> float:
    """The penalty that far along a direction from where the network is."""
    parameters = dict(network.named_parameters())
    kept = {name: parameters[name].detach().clone() for name in way}
    with torch.no_grad():
        for name, step in way.items():
            parameters[name].add_(distance * step)
    penalty = method.gradients(ones(network), network, state, batch).penalty
    with torch.no_grad():
        for name, tensor in kept.items():
            parameters[name].copy_(tensor)
    assert penalty is not None
    assert penalty.dim() == 0
    return float(penalty)


@pytest.mark.parametrize("setting", ["ppo", "mlp", "dqn", "sac"])
def test_what_it_adds_is_the_gradient_of_the_penalty_it_reports(method, setting):
    """Along itself and random directions, where nothing is masked; gradients that came in are added to."""
    source = source_of(method, setting)
    network = build(method, SETTINGS[setting], source).network
    state = method.init(network, source)
    state = doubled(network, method.schedule(network, state, 0.0))
    moved_away(network, 1)
    batch, given = batch_of(network.schemas, 6, seed=3), ones(network)
    step = method.gradients(given, network, state, batch)
    assert_same(given, ones(network))
    assert_same({n: g.isfinite().all() for n, g in step.grads.items()}, {n: torch.tensor(True) for n in given})
    if step.penalty is None:
        promised = "strength" in {option.name for option in fields(method)} and method.overrides("gradients")
        assert not promised, "it has a strength, and no penalty in a state in which it should"
        return
    free = {name: ~where for name, where in masked(method, network, state).items()}
    added = {name: step.grads[name] - given[name] for name in given}
    assert float(step.penalty) > 0
    generator = torch.Generator().manual_seed(0)
    anywhere = [{n: torch.randn(g.shape, generator=generator).to(g) for n, g in given.items()} for _ in range(2)]
    for way in (unit(like, free) for like in (added, *anywhere)):
        ends = [penalty_at(method, network, state, batch, way, end) for end in (STEP, -STEP)]
        slope = (ends[0] - ends[1]) / (2 * STEP)
        assert float(sum((added[n] * way[n]).sum() for n in way)) == pytest.approx(slope, rel=1e-6, abs=1e-10)


def test_gradients_have_no_memory_of_their_own(method):
    """The same call gives the same twice: all that a method remembers is in the state, which it leaves as it was."""
    source = source_of(method, "ppo")
    network = build(method, SETTINGS["ppo"], source).network
    state = dict(method.init(network, source))
    before = {name: t.clone() for name, t in state.items()}
    steps: list[Step] = []
    for _ in range(2):
        steps.append(method.gradients(ones(network), network, state, batch_of(network.schemas, 6)))
        assert_same(state, before)
    assert_same(dict(steps[0].grads), dict(steps[1].grads))
    assert_same(dict(steps[0].state), dict(steps[1].state))
    if not method.overrides("gradients"):
        assert_same(steps[0].grads, ones(network))
        assert steps[0].penalty is None


def unaltered(method: TransferMethod, name: str, task: Task) -> tuple[list[Encoder], PolicyNetwork | None]:
    """The encoders of what is built for ``task`` that the report calls copied, whole and as they were; the source."""
    setting, source = SETTINGS[name], source_of(method, name)
    network, report = build(method, Setting((MATCH, task), setting.algorithm, setting.config), source)
    rows = [] if report is None else report.rows
    found = []
    for prefix, module in network.eval().named_modules():
        own = [row for row in rows if row.tensor.startswith(f"{prefix}.")]
        if isinstance(module, Encoder) and own and all(row.share == 1 and _carried(row.detail) for row in own):
            found.append(module)
    promised = "fresh_weights" not in method.words() and method.uses_source
    assert not promised or network.encoder in found
    if isinstance(method, FromSource):
        assert report is not None
    return found, source.build().eval() if source is not None else None


def _carried(detail: str) -> bool:
    return detail in ("", "reordered by name")


@pytest.mark.parametrize("name", ["ppo", "mlp"])
def test_the_encoder_computes_what_the_sources_does(method, name):
    """Bit for bit on the source's task, and to rounding where its features come in another order."""
    obs = batch_of(SETTINGS[name].schemas(0), 6).observations
    for task, seen, tolerance in ((MATCH, obs, 0.0), (TURNED, obs[:, [3, 0, 2, 1]], 1e-6)):
        encoders, source = unaltered(method, name, task)
        for encoder in encoders:
            assert source is not None
            torch.testing.assert_close(encoder(seen), source.encoder(obs), rtol=0, atol=tolerance)


def test_a_control_starts_from_nothing(method):
    if method.uses_source:
        with pytest.raises(AssertionError, match="always given one"):
            build(method, SETTINGS["ppo"], None)
        return
    fresh = PolicyNetwork(SETTINGS["ppo"].schemas(1), SETTINGS["ppo"].architecture, 1)
    assert_same(weights(build(method, SETTINGS["ppo"], None).network), weights(fresh))
