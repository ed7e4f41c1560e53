"""Chains: the order in which members act, what each remembers, and which members contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from support.method_fixtures import rollouts_of
from support.tiny_tasks import MATCH, TASK, assert_same, discrete, small_network, small_ppo, weights

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.sb3 import train
from graft.agents.training.backend import Batch, Evaluation, Grads, Hooks, TrainJob
from graft.agents.training.rollouts import Rollouts
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.method import (
    METHODS,
    PART,
    Consolidated,
    FromSource,
    State,
    Step,
    TaskPosition,
    label,
    parse_method,
    to_json,
)
from graft.transfer.methods.chain import Chain
from graft.transfer.methods.ewc import EWC
from graft.transfer.methods.finetune import Finetune
from graft.transfer.methods.l2 import L2
from graft.transfer.methods.mas import MAS
from graft.transfer.methods.packnet import PackNet
from graft.transfer.methods.si import SI

STATES = rollouts_of(MATCH, 6)
BIAS = "policy.out.bias"


@dataclass(frozen=True, kw_only=True)
class Affine(FromSource):
    """g -> times * g + plus, with a penalty of ``plus``; remembers how often each hook was called, and logs views."""

    times: float = 1.0
    plus: float = 0.0
    rate: float = 1.0
    shown: list[float] | None = None

    states: ClassVar[int] = 3

    def _count(self, state: State, hook: str) -> dict[str, torch.Tensor]:
        return {**state, hook: state.get(hook, torch.zeros(())) + 1}

    def init(self, network: PolicyNetwork, source: Checkpoint | None) -> State:
        return {**super().init(network, source), "times": torch.tensor(self.times)}

    def rates(self, network: PolicyNetwork, state: State) -> Mapping[str, float]:
        return {BIAS: self.rate}

    def gradients(self, grads: Grads, network: PolicyNetwork, state: State, batch: Batch) -> Step:
        assert float(state["times"]) == self.times, "another member's state"
        changed = {name: self.times * g + self.plus for name, g in grads.items()}
        return Step(changed, self._count(state, "gradients"), torch.tensor(self.plus) if self.plus else None)

    def schedule(self, network: PolicyNetwork, state: State, progress: float) -> State:
        return self._count(state, "schedule")

    def consolidate(
        self, network: PolicyNetwork, state: State, rollouts: Rollouts, place: TaskPosition
    ) -> Consolidated:
        return Consolidated(network, self._count(state, "consolidate"))

    def finish(self, network: PolicyNetwork, state: State) -> PolicyNetwork:
        return self._seen(network)

    def view(self, network: PolicyNetwork, state: State, task: int) -> PolicyNetwork:
        return self._seen(network)

    def _seen(self, network: PolicyNetwork) -> PolicyNetwork:
        if self.shown is not None:
            self.shown.append(self.times)
        return network


@pytest.fixture(autouse=True)
def affine(monkeypatch):
    list(METHODS)  # loads the others
    monkeypatch.setitem(METHODS._entries, "affine", Affine)


@pytest.fixture
def source() -> Checkpoint:
    return Checkpoint.of(small_network(MATCH), TASK)


def test_gradients_go_through_the_members_in_order(source):
    """2 * (3 * 1 + 5) + 7 = 23, and the penalties 5 and 7 add up."""
    network = small_network(MATCH)
    chain = Chain(methods=(Affine(times=3, plus=5), Affine(times=2, plus=7), Affine(times=1)))
    state = chain.init(network, source)
    step = chain.gradients({BIAS: torch.ones(4)}, network, state, STATES)
    assert step.grads[BIAS].tolist() == [23.0] * 4
    assert step.penalty is not None
    assert float(step.penalty) == 12.0
    back = Chain(methods=chain.methods[::-1])
    step = back.gradients({BIAS: torch.ones(4)}, network, back.init(network, source), STATES)
    assert step.grads[BIAS].tolist() == [3 * (2 + 7) + 5.0] * 4


def test_without_penalties_there_is_none(source):
    network = small_network(MATCH)
    chain = Chain(methods=(Affine(), Affine(times=2)))
    assert chain.gradients({}, network, chain.init(network, source), STATES).penalty is None


def test_each_member_has_its_own_state_through_a_whole_life(source):
    """Every hook counts under the member's number, and what was remembered comes back from the checkpoint."""
    network = small_network(MATCH)
    chain = Chain(methods=(Affine(times=3), Affine(times=2)))
    state = chain.init(network, source)
    assert {name: float(t) for name, t in state.items()} == {"0/times": 3.0, "1/times": 2.0}
    state = chain.schedule(network, state, 0.5)
    for _ in range(2):
        state = chain.gradients({}, network, state, STATES).state
    state = chain.consolidate(network, state, STATES, TaskPosition(0, 2)).state
    counts = {"times": 0, "schedule": 1, "gradients": 2, "consolidate": 1}
    expected = {f"{i}/{n}": float(c) for i in (0, 1) for n, c in counts.items()} | {"0/times": 3.0, "1/times": 2.0}
    assert {name: float(t) for name, t in state.items()} == expected
    again = chain.init(network, Checkpoint.of(network, TASK, parts={PART: dict(state)}))
    assert_same(dict(again), dict(state))


def test_the_tenth_member_is_not_the_first(source):
    """Names that start alike ("1/" and "10/") are told apart."""
    network = small_network(MATCH)
    chain = Chain(methods=tuple(Affine(times=float(i)) for i in range(1, 13)))
    state = chain.init(network, source)
    assert len(chain.gradients({}, network, state, STATES).state) == 24


def test_finish_goes_forwards_and_view_backwards(source):
    shown: list[float] = []
    network = small_network(MATCH)
    chain = Chain(methods=(Affine(times=3, shown=shown), Affine(times=2, shown=shown)))
    state = chain.init(network, source)
    assert chain.finish(network, state) is network
    assert chain.view(network, state, 0) is network
    assert shown == [3.0, 2.0, 2.0, 3.0]


def test_rates_multiply():
    chain = Chain(methods=(Affine(rate=0.5), Affine(rate=0.2), Finetune(layer_decay=0.5)))
    rates = chain.rates(small_network(MATCH), {})
    assert rates[BIAS] == pytest.approx(0.1)
    assert rates["encoder.blocks.1.1.weight"] == 0.5
    assert rates["encoder.blocks.0.1.weight"] == pytest.approx(0.25)


def test_two_regularisers_pull_as_each_alone():
    """Gradients and penalties of EWC and MAS add up, over states of their own."""
    network = small_network(MATCH)
    members = (EWC(strength=2.0), MAS(strength=3.0))
    chain = Chain(methods=members)
    state = chain.consolidate(network, chain.init(network, None), STATES, TaskPosition(0, 2)).state
    alone = [m.consolidate(network, {}, STATES, TaskPosition(0, 2)).state for m in members]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)
    zero = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    both = chain.gradients(zero, network, state, STATES)
    first, second = (m.gradients(zero, network, s, STATES) for m, s in zip(members, alone, strict=True))
    assert both.penalty is not None
    torch.testing.assert_close(both.penalty, first.penalty + second.penalty)
    for name in zero:
        torch.testing.assert_close(both.grads[name], first.grads[name] + second.grads[name])


def test_what_keeps_weights_from_moving_goes_last():
    chain = Chain(methods=(PackNet(), Finetune(layer_decay=0.5)))
    assert [type(member) for member in chain.members] == [Finetune, PackNet]


def test_what_watches_the_tasks_own_loss_goes_first():
    """Its path is that of the loss without the penalties of the others."""
    chain = parse_method({"chain": ["l2", "si"]})
    assert [type(member) for member in chain.members] == [SI, L2]


def test_a_member_sees_as_many_states_as_it_asks_for(monkeypatch):
    """Evenly from all that the most demanding member asked for."""
    seen: list[torch.Tensor] = []

    class Looks(EWC):
        def importances(self, network, observations):
            seen.append(observations)
            return super().importances(network, observations)

    network = small_network(MATCH)
    monkeypatch.setattr(Affine, "states", 3 * EWC.states)
    chain = Chain(methods=(Looks(), Affine()))
    states = torch.arange(chain.states, dtype=torch.float32).unsqueeze(1).expand(-1, *MATCH.observation.shape)
    chain.consolidate(network, {}, rollouts_of(MATCH, chain.states)._replace(observations=states), TaskPosition(0, 2))
    assert chain.states == 3 * EWC.states
    assert seen[0][:, 0].tolist() == list(range(0, chain.states, 3))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["frozen", "random_frozen"], "cannot be part of a chain"),
        (["frozen", "lora"], r"frozen and lora contradict each other: both build the network"),
        (
            ["lora", {"ewc": {"strength": 2}}],
            r"lora and ewc\(strength=2\.0\) contradict each other.*the source's weights, which the other is about",
        ),
        (
            ["packnet", {"packnet": {"retrain": 5}}],
            "contradict each other: the first keeps weights from moving, and so",
        ),
        ([{"ewc": {"heads": "shared"}}, {"l2": {"heads": "by_name"}}], "heads is both shared and by_name"),
        (
            ["progressive", {"finetune": {"heads": "by_name"}}],
            "progressive.* builds the network, and takes no 'heads'",
        ),
        (["packnet", "ewc"], "packnet and ewc contradict each other: the first keeps by zero gradients"),
        (["replay", "packnet"], "packnet and replay contradict each other: the first keeps by zero gradients"),
        (["redo", "packnet"], "redo and packnet contradict each other: the first rewrites"),
        (["redo", "si"], "redo and si contradict each other: the first makes jumps"),
        (["packnet", "frozen"], "frozen and packnet contradict each other: the first freezes"),
        (["scratch", "ewc"], "scratch cannot be part of a chain"),
        ([{"chain": ["ewc"]}, "l2"], r"chain\(ewc\) cannot be part of a chain"),
    ],
)
def test_members_that_contradict_each_other(entries, message):
    with pytest.raises(GraftError, match=message):
        parse_method({"chain": entries})


def test_an_option_of_the_transplant_holds_for_all(source):
    chain = Chain(methods=(L2(), EWC(heads="shared", new_channels="zero")))
    assert [(m.heads, m.new_channels) for m in chain.members] == [("shared", "zero")] * 2
    assert chain.shares_heads
    assert not Chain(methods=(L2(),)).shares_heads
    assert Chain(methods=(L2(), EWC())).with_shared_heads().shares_heads


def test_the_member_that_builds_builds(source):
    """frozen is listed second, and its encoder is frozen all the same."""
    chain = parse_method({"chain": ["replay", {"frozen": {"depth": 1}}]})
    network = chain.build(source, MATCH, source.network, 0).network
    assert network.encoder.frozen_blocks == 1


def test_facts_are_those_of_the_members():
    def of(*entries: Any) -> Any:
        return parse_method({"chain": list(entries)})

    assert (of().words(), of().states, of().retraining) == (set(), 0, 0)
    assert of("l2", "ewc").words() == {"needs_source_weights", "remembers_tasks"}
    assert of("l2", "ewc").states == EWC.states
    assert of("si").watches_source
    assert "fresh_weights" in of("lora").words()
    packing = of("finetune", {"packnet": {"retrain": 7}})
    assert packing.retraining == 7
    assert packing.words() >= {"needs_task", "trains_again", "zeroes_gradients"}
    assert "needs_source_weights" in of({"finetune": {"head_warmup": 0.5}}).words()
    assert Chain(methods=(L2(),)).overrides("gradients")
    assert not Chain(methods=(Finetune(),)).overrides("gradients")


def test_a_list_in_a_config():
    chain = parse_method({"chain": ["l2", {"ewc": {"strength": 3}}]})
    assert chain == Chain(methods=(L2(), EWC(strength=3)))
    assert chain == parse_method({"chain": {"methods": ["l2", {"ewc": {"strength": 3}}]}})
    assert parse_method("chain") == Chain()
    with pytest.raises(GraftError, match="l2x"):
        parse_method({"chain": ["l2x"]})


def test_tables_and_hashes_tell_chains_apart():
    chains = [
        Chain(),
        Chain(methods=(L2(),)),
        Chain(methods=(L2(strength=2),)),
        Chain(methods=(L2(), EWC())),
        Chain(methods=(EWC(), L2())),
    ]
    assert len({label(chain) for chain in chains}) == len({str(to_json(chain)) for chain in chains}) == len(chains)
    assert label(chains[2]) == "chain(l2(strength=2))"
    assert to_json(chains[3])["methods"] == [to_json(L2()), to_json(EWC())]


def test_without_members_it_is_fine_tuning(source):
    target = Schemas(MATCH.observation, discrete("up", "down"))
    plain, chain = Finetune(), Chain()
    networks = [m.build(source, target, source.network, 3).network for m in (plain, chain)]
    assert_same(networks[0].state_dict(), networks[1].state_dict())
    network = networks[1]
    state = chain.init(network, source)
    assert state == {}
    assert chain.rates(network, {}) == {}
    grads = {BIAS: torch.ones(2)}
    assert chain.gradients(grads, network, state, STATES) == Step(grads, {}, None)


def test_an_empty_chain_can_share_heads_as_fine_tuning_can():
    assert Chain().with_shared_heads().shares_heads
    assert not Chain().shares_heads


def test_while_the_source_is_learned_only_those_that_watch_it_act(source):
    """SI does; what another member does to gradients, it does from the second task on, as it would alone."""
    network = small_network(MATCH)
    chain = Chain(methods=(Affine(times=3, plus=5, rate=0.5), SI(), Finetune(head_warmup=0.5)))
    state = chain.init(network, None)
    assert all(name.startswith("0/") for name in state if "/" in name)
    assert chain.rates(network, state) == {}
    step = chain.gradients({BIAS: torch.ones(4)}, network, state, STATES)
    assert step.grads[BIAS].tolist() == [1.0] * 4
    state = chain.schedule(network, step.state, 0.0)
    assert network.encoder.frozen_blocks == 0
    state = chain.consolidate(network, state, STATES, TaskPosition(0, 2)).state
    assert {"1/consolidate", "0/raw.0"} <= state.keys()
    again = chain.init(network, Checkpoint.of(network, TASK, parts={PART: dict(state)}))
    assert chain.gradients({BIAS: torch.ones(4)}, network, again, STATES).grads[BIAS].tolist() == [8.0] * 4
    chain.schedule(network, again, 0.0)
    assert network.encoder.frozen_blocks == 2


def test_a_frozen_encoder_has_nothing_that_a_regulariser_could_hold(source):
    chain = parse_method({"chain": ["frozen", "ewc"]})
    state = chain.consolidate(source.build(), {}, STATES, TaskPosition(0, 2)).state
    assert {name.split("/")[0] for name in state} == {"1"}
    source = Checkpoint.of(source.build(), TASK, parts={PART: dict(state)})
    network = chain.build(source, MATCH, source.network, 0).network
    with pytest.raises(GraftError, match="EWC has nothing to hold"):
        chain.init(network, source)


@pytest.mark.usefixtures("tiny_tasks")
def test_without_members_it_trains_as_fine_tuning_bit_for_bit(source):
    """So does a chain of fine-tuning, and one whose only penalty has no strength."""
    found = []
    for entry in ("finetune", "chain", {"chain": ["finetune"]}, {"chain": [{"l2": {"strength": 0.0}}, "finetune"]}):
        method = parse_method(entry)
        network = method.build(source, MATCH, source.network, 3).network
        state = method.init(network, source)

        def gradients(grads, network, batch, method=method, state=state):
            return method.gradients(grads, network, state, batch).grads

        hooks = Hooks(
            gradients=gradients,
            schedule=lambda network, progress, method=method, state=state: method.schedule(network, state, progress),
            rates=method.rates(network, {}),
        )
        plan = Evaluation(every=1000, episodes=1, num_envs=1)
        train(TrainJob(network, TASK, small_ppo(), 256, 0, lambda *_: None, plan, hooks, "cpu"))
        found.append(weights(network))
    for other in found[1:]:
        assert_same(found[0], other)
