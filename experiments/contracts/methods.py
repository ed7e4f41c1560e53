"""What every transfer method keeps: tests run it on Graft's own methods, ``graft check`` on anybody's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path

import torch

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.checkpoints.snapshot import Snapshots
from graft.agents.networks.encoder import Encoder
from graft.agents.networks.policy_network import Outputs, PolicyNetwork
from graft.agents.training.backend import Batch, Grads
from graft.envs.core.options import build_options
from graft.experiments.contracts.basics import assert_same, expect, observations, scrambled, weights
from graft.experiments.contracts.lifecycle import (
    CheckedSession,
    Setting,
    TransferRun,
    batch_of,
    build,
    held,
    masked,
    ones,
)
from graft.transfer.method import (
    METHODS,
    PART,
    Built,
    State,
    Step,
    TransferMethod,
    changed_options,
    label,
    method_name,
    to_json,
)

DISTANCE = 1e-4
"""Of the finite differences: of second order and in double precision, so that their error is about 1e-8."""


def options_are_data(method: TransferMethod) -> None:
    """It is a frozen dataclass, whose options a config can give."""
    expect(is_dataclass(method), f"{type(method).__name__} is no dataclass")
    frozen = False
    try:
        method.anything = 1  # type: ignore[attr-defined]
    except AttributeError:
        frozen = True
    expect(frozen, "its options can be changed after it was made; write @dataclass(frozen=True, kw_only=True)")
    name, options = method_name(method), changed_options(method)
    expect(METHODS[name] is type(method), f"its name '{name}' leads to another class")
    expect(build_options(f"method {name}", METHODS[name], options) == method, "its options don't make it again")
    expect(label(method).startswith(name), f"its label {label(method)} does not begin with its name")
    expect(to_json(method)["name"] == name, "its record has another name")


def begin(method: TransferMethod, setting: Setting, source: Checkpoint | None) -> tuple[Built, State]:
    """What it makes of the end of the first task for the second, and what it remembers then."""
    built = build(method, setting, source)
    return built, method.init(built.network, source)


def _frozen(network: PolicyNetwork) -> tuple[set[str], int]:
    return {name for name, p in network.named_parameters() if not p.requires_grad}, network.encoder.frozen_blocks


def the_same_seed_builds_the_same(method: TransferMethod, setting: Setting, source: Checkpoint | None) -> None:
    """Building twice gives equal networks and states, and changes neither the source nor other random numbers."""
    before, state = held(source), torch.get_rng_state()
    (one, remembered), (again, remembered_again) = (begin(method, setting, source) for _ in range(2))
    expect(torch.equal(torch.get_rng_state(), state), "build or init draws from torch's global random numbers")
    assert_same(held(source), before)
    assert_same(weights(one.network), weights(again.network))
    assert_same(remembered, remembered_again)
    expect(one.report == again.report, "two reports of the same transplant differ")
    expect(_frozen(one.network) == _frozen(again.network), "it freezes something else the second time")


def the_network_is_the_targets(method: TransferMethod, setting: Setting, source: Checkpoint | None) -> None:
    """The network plays the target's actions on the target's observations."""
    network, target = begin(method, setting, source)[0].network, setting.schemas(1)
    expect(network.schemas == target, "the network that build gives has the schemas of another task")
    outputs = network(observations(target.observation, 3))
    wanted = (3, len(target.action.names))
    expect(outputs.action.shape == wanted, f"the network gives {tuple(outputs.action.shape)} and not {wanted}")
    expect(outputs.action.isfinite().all(), "the network's outputs are not finite")


def the_report_tells_the_truth(method: TransferMethod, setting: Setting, source: Checkpoint | None) -> None:
    """What the transplant report calls copied is the source's, and all tensors are in it."""
    (network, report), state = begin(method, setting, source)
    promised = method.uses_source and "fresh_weights" not in method.words()
    if report is None:
        expect(not promised, "build gives no report, although it starts from the source's weights")
        return
    after = weights(method.finish(network, state))
    assert source is not None
    listed = sorted(row.tensor for row in report.rows if row.status != "dropped")
    expect(listed == sorted(after), f"the report lacks or invents {sorted({*listed} ^ {*after})}")
    for row in report.rows:
        expect(row.share == 1.0 or row.status != "copied", f"{row.tensor} is called copied, and is in part")
        none = row.status in ("initialised", "dropped")
        expect((row.share == 0.0) is none, f"the share of {row.tensor} is {row.share}, and it is {row.status}")
        if row.status == "copied" and not row.detail:
            theirs = source.tensors[row.tensor.removeprefix("earlier.")]
            expect(torch.equal(after[row.tensor], theirs), f"{row.tensor} is called copied, and is not the source's")
    unsaid = sorted(_not_carried(setting) - set(report.lost))
    expect(not unsaid, f"the report does not say that {', '.join(unsaid)} is lost")
    same = build(method, setting, source, index=0).report
    expect(same is not None and not (promised and same.partial), "something is lost although the task is the same")


def _not_carried(setting: Setting) -> set[str]:
    """Names that only one of the two tasks has; of the source's, those whose attributes no new name has."""
    (old, _), (new, _) = setting.schemas(0), setting.schemas(1)
    added = set(new.names) - set(old.names)
    like = {words for name, words in zip(new.names, new.attributes, strict=True) if name in added and words}
    gone = {n for n, words in zip(old.names, old.attributes, strict=True) if n not in new.names and words not in like}
    return added | gone


def the_source_is_used_where_it_says_so(method: TransferMethod, setting: Setting, source: Checkpoint | None) -> None:
    """Another source gives something else; a control gives the same whatever the source."""
    task = setting.tasks[0]
    if source is None:
        given = Checkpoint.of(PolicyNetwork(setting.schemas(0), setting.architecture, 0), task)
        networks = [build(method, setting, s).network for s in (None, given)]
        assert_same(*map(weights, networks))
        return
    other = Checkpoint.of(scrambled(source.build(), seed=9), task, parts=source.parts)
    built = [build(method, setting, s).network for s in (source, other)]
    one, another = ({**weights(n), **method.init(n, s)} for n, s in zip(built, (source, other), strict=True))
    expect(any(not torch.equal(one[name], another[name]) for name in one), "two different sources give the same")


def moved_away(network: PolicyNetwork, seed: int = 0) -> PolicyNetwork:
    """All that trains somewhere else, where nothing is zero any more."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * (torch.rand(parameter.shape, generator=generator) - 0.4))
    return network


def _differ(a: Outputs, b: Outputs) -> bool:
    return any(x is not None and y is not None and not torch.equal(x, y) for x, y in zip(a, b, strict=True))


def what_trains_matters_and_is_saved(method: TransferMethod, setting: Setting, source: Checkpoint | None) -> None:
    """Every parameter that trains changes what the network does, and goes into checkpoints."""
    network = moved_away(build(method, setting, source).network).eval()
    unsaved = {name for name, _ in network.named_parameters()} - set(network.state_dict())
    expect(not unsaved, f"{sorted(unsaved)} is not in state_dict")
    obs = batch_of(network.schemas, 6).observations
    before = network(obs)
    expect(any(p.requires_grad for p in network.parameters()), "nothing of the network trains")
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(torch.linspace(0.1, 0.2, parameter.numel()).view(parameter.shape))
            expect(_differ(network(obs), before), f"{name} trains, and changes no output")
            parameter.copy_(kept)


def _doubled(network: PolicyNetwork, state: State) -> State:
    """Network and state in double precision; encoders turn observations into floats, which are doubled as well."""
    for module in network.double().modules():
        if isinstance(module, Encoder):
            module.scale = _in_double(module.scale)  # type: ignore[method-assign, assignment]
    return {name: t.double() if t.is_floating_point() else t for name, t in state.items()}


def _in_double(scale: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda obs: scale(obs).double()


def _unit(like: Grads, free: Mapping[str, torch.Tensor]) -> Grads:
    """The direction of length 1, zero where weights are not free."""
    way = {name: g * free.get(name, 1.0) for name, g in like.items()}
    length = sum(float(w.square().sum()) for w in way.values()) ** 0.5
    expect(length > 1e-7, "it reports a penalty, and adds no gradient")
    return {name: w / length for name, w in way.items()}


def _penalty_at(
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
    expect(penalty is not None and penalty.dim() == 0, "its penalty is no scalar")
    assert penalty is not None
    return float(penalty)


def what_it_adds_is_the_penaltys_gradient(method: TransferMethod, setting: Setting, source: Checkpoint | None) -> Step:
    """Gradients that it adds are those of the penalty that it reports, by finite differences.

    Along themselves and random directions, where nothing is masked; gradients that came in are added to.
    """
    network = build(method, setting, source).network
    state = method.init(network, source)
    state = _doubled(network, method.schedule(network, state, 0.0))
    moved_away(network, 1)
    batch, given = batch_of(network.schemas, 6, seed=3), ones(network)
    step = method.gradients(given, network, state, batch)
    assert_same(given, ones(network))
    wild = [name for name, g in step.grads.items() if not g.isfinite().all()]
    expect(
        not wild and step.grads.keys() == given.keys(), f"gradients are not finite, or not of all that trains {wild}"
    )
    if step.penalty is None:
        return step
    free = {name: ~where for name, where in masked(method, network, state).items()}
    added = {name: step.grads[name] - given[name] for name in given}
    expect(float(step.penalty) > 0, "its penalty is zero although the network was moved")
    generator = torch.Generator().manual_seed(0)
    anywhere = [{n: torch.randn(g.shape, generator=generator).to(g) for n, g in given.items()} for _ in range(2)]
    for way in (_unit(like, free) for like in (added, *anywhere)):
        ends = [_penalty_at(method, network, state, batch, way, end) for end in (DISTANCE, -DISTANCE)]
        slope = (ends[0] - ends[1]) / (2 * DISTANCE)
        got = float(sum((added[n] * way[n]).sum() for n in way))
        close = abs(got - slope) <= max(1e-6 * abs(slope), 1e-10)
        expect(close, f"the slope of its penalty is {slope:.8g}, and what it adds to the gradients says {got:.8g}")
    return step


def gradients_have_no_memory(method: TransferMethod, setting: Setting, source: Checkpoint | None) -> None:
    """The same call gives the same twice: all that a method remembers is in the state, which it leaves as it was."""
    network = build(method, setting, source).network
    state = dict(method.init(network, source))
    before = {name: t.clone() for name, t in state.items()}
    steps = []
    for _ in range(2):
        steps.append(method.gradients(ones(network), network, state, batch_of(network.schemas, 6)))
        assert_same(state, before)
    assert_same(steps[0].grads, steps[1].grads)
    assert_same(steps[0].state, steps[1].state)


def what_it_froze_stays(run: TransferRun, *heads: str) -> None:
    """In training nothing moves that is frozen, the heads do, and the hooks draw from no global random numbers."""
    moved = sorted(run.session.moved)
    expect(not moved, f"{', '.join(moved)} is frozen, and moved in training")
    changed = {n for n, t in run.trained.items() if not torch.equal(t, run.before[n])}
    still = {name for name in run.before if name.startswith(tuple(f"{head}." for head in heads))} - changed
    expect(not still, f"{', '.join(sorted(still))} does not train")
    expect(not run.session.random, f"{', '.join(run.session.random)} draws from torch's global random numbers")


def it_goes_through_a_checkpoint(run: TransferRun, setting: Setting, folder: Path) -> None:
    """Network and state come back from a file, and `finish` keeps what the network does."""
    for name, tensor in run.session.state.items():
        expect(isinstance(tensor, torch.Tensor), f"'{name}' of its state is no tensor")
    run.checkpoint(setting).save(folder)
    loaded = Checkpoint.load(folder)
    assert_same(loaded.parts[PART], run.session.state)
    network, obs = loaded.build(), batch_of(run.network.schemas, 5).observations
    assert_same(weights(network), weights(run.network))
    kept, restored, trained = (n.eval()(obs) for n in (run.network, network, run.built.network))
    same = torch.equal(restored.action, kept.action) and torch.equal(restored.value, kept.value)
    expect(same, "the network that was loaded computes something else")
    for a, b in ((kept.action, trained.action), (kept.value, trained.value)):
        expect(torch.allclose(a, b, rtol=0, atol=1e-5), "finish changes what the network does")


class _Stop(Exception):
    """As sudden as a kill."""


def train_until(
    method: TransferMethod, setting: Setting, source: Checkpoint | None, folder: Path, stop_at: int | None
) -> CheckedSession:
    """Train on the second task, with snapshots in ``folder``, until a record at or after ``stop_at``."""
    built = build(method, setting, source)
    session = CheckedSession(method, built.network, method.init(built.network, source))

    def record(env_steps: int, values: Mapping[str, float]) -> None:
        if stop_at is not None and env_steps >= stop_at:
            raise _Stop

    snapshots = Snapshots(folder, seconds=1e9, env_steps=1, save=session.save, restore=session.restore)
    with suppress(_Stop):
        session.train(setting, 1, setting.budget, record, snapshots)
        assert stop_at is None, "it went on"
    return session


def a_stopped_training_ends_as_one_that_ran_through(
    method: TransferMethod, setting: Setting, source: Checkpoint | None, run: TransferRun, folder: Path, rollout: int
) -> None:
    """Stopped twice and resumed, weights and state are those of a training that ran through, bit for bit."""
    for stop_at in (rollout + 1, 2 * rollout + 1):
        train_until(method, setting, source, folder, stop_at)
        latest = Snapshots(folder).latest()
        assert latest is not None
        assert latest.env_steps >= stop_at - 1
        torch.manual_seed(99)
    session = train_until(method, setting, source, folder, None)
    expect(len(session.frozen_numbers) < len(run.session.frozen_numbers), "it began anew")
    assert_same(weights(session.network), run.trained)
    assert_same(session.state, run.session.state)
    assert_same(weights(method.finish(session.network, session.state)), weights(run.network))


CONTRACTS: tuple[Callable[[TransferMethod, Setting, Checkpoint | None], object], ...] = (
    the_same_seed_builds_the_same,
    the_network_is_the_targets,
    the_report_tells_the_truth,
    the_source_is_used_where_it_says_so,
    what_trains_matters_and_is_saved,
    what_it_adds_is_the_penaltys_gradient,
    gradients_have_no_memory,
)
"""Those of what it builds, before it trains."""
