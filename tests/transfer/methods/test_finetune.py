"""Fine-tuning: which blocks train when, and how fast, by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from support.method_fixtures import rollouts_of
from support.tiny_tasks import MATCH, TASK, small_network, small_ppo, weights

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.sb3 import train
from graft.agents.training.backend import Evaluation, Hooks, TrainJob
from graft.errors import GraftError
from graft.transfer.method import TaskPosition, TransferMethod, parse_method
from graft.transfer.methods.finetune import Finetune


def frozen(method: Finetune, *progress: float) -> list[int]:
    """Frozen blocks of three, as the budget is spent."""
    return [method.frozen_blocks(3, p) for p in progress]


def test_plain_fine_tuning_freezes_nothing():
    assert frozen(Finetune(), 0.0, 0.5, 0.99) == [0, 0, 0]


def test_head_warmup_by_hand():
    assert frozen(Finetune(head_warmup=0.25), 0.0, 0.24, 0.25, 0.9) == [3, 3, 0, 0]


def test_gradual_unfreezing_by_hand():
    """Three blocks: one more after each quarter."""
    method = Finetune(gradual_unfreeze=True)
    assert frozen(method, 0.0, 0.24, 0.25, 0.49, 0.5, 0.74, 0.75, 0.99) == [3, 3, 2, 2, 1, 1, 0, 0]


def test_gradual_unfreezing_after_a_warmup_by_hand():
    """Half of the budget is left, a quarter of which is an eighth of the whole: 0.625, 0.75 and 0.875."""
    method = Finetune(gradual_unfreeze=True, head_warmup=0.5)
    assert frozen(method, 0.0, 0.5, 0.62, 0.625, 0.74, 0.75, 0.87, 0.875, 0.99) == [3, 3, 3, 2, 2, 1, 1, 0, 0]


def test_a_time_that_is_reached_exactly_is_not_missed_by_the_last_bit():
    """Rollout i of 6 n starts at i / (6 n), and blocks thaw after each quarter of what a third leaves."""
    for n in range(1, 50):
        method = Finetune(gradual_unfreeze=True, head_warmup=1 / 3)
        found = [method.frozen_blocks(3, i / (6 * n)) for i in range(6 * n)]
        assert found == [3] * 3 * n + [2] * n + [1] * n + [0] * n


def test_the_schedule_freezes_the_first_blocks():
    """Of two blocks the one at the head unfreezes first, after a third; the heads always train."""
    method, network = Finetune(gradual_unfreeze=True), small_network(MATCH)
    state, blocks = method.init(network, None), network.encoder.blocks
    for progress, trains in ((0.0, [False, False]), (0.4, [False, True]), (0.7, [True, True])):
        assert method.schedule(network, state, progress) is state
        assert [all(p.requires_grad for p in b.parameters()) for b in blocks] == trains
        assert [any(p.requires_grad for p in b.parameters()) for b in blocks] == trains
        assert all(p.requires_grad for head in (network.policy, network.value) for p in head.parameters())


def test_rates_by_hand():
    """Decay 1/2 and two blocks: 1/2 for the last and 1/4 for the first; heads keep the common rate."""
    network = small_network(MATCH)
    assert Finetune().rates(network, {}) == {}
    assert Finetune(layer_decay=0.5).rates(network, {}) == {
        "encoder.blocks.0.1.weight": 0.25,
        "encoder.blocks.0.1.bias": 0.25,
        "encoder.blocks.1.1.weight": 0.5,
        "encoder.blocks.1.1.bias": 0.5,
    }


def test_it_starts_from_the_sources_weights():
    source = Checkpoint.of(small_network(MATCH, 3), TASK)
    network = Finetune(heads="by_name").build(source, MATCH, source.network, 0).network
    assert all(bool((t == source.tensors[name]).all()) for name, t in network.state_dict().items())


@pytest.mark.parametrize("options", [{"head_warmup": 1.0}, {"layer_decay": 0.0}, {"layer_decay": 1.5}])
def test_options_that_make_no_sense(options):
    with pytest.raises(GraftError, match=next(iter(options))):
        Finetune(**options)


def learned(method: TransferMethod, network: PolicyNetwork, state, rollouts: int) -> list[dict[str, torch.Tensor]]:
    """The weights at the start of each rollout of a small PPO, and at the end."""
    seen: list[dict[str, torch.Tensor]] = []

    def schedule(network: PolicyNetwork, progress: float) -> None:
        assert progress == len(seen) / rollouts
        seen.append(weights(network))
        method.schedule(network, state, progress)

    plan = Evaluation(every=10_000, episodes=1, num_envs=1)
    hooks = Hooks(schedule=schedule, rates=method.rates(network, {}))
    train(TrainJob(network, TASK, small_ppo(), 128 * rollouts, 0, lambda *_: None, plan, hooks, "cpu"))
    return [*seen, weights(network)]


def moving(seen: list[dict[str, torch.Tensor]]) -> list[set[str]]:
    """During each rollout's update, the parts of which every tensor changed; others must not have changed at all."""
    found = []
    for before, after in itertools.pairwise(seen):
        changed = {name: not torch.equal(before[name], after[name]) for name in before}
        parts = {name: ".".join(name.split(".")[: 3 if name.startswith("encoder") else 1]) for name in before}
        assert all(len({changed[n] for n in before if parts[n] == part}) == 1 for part in parts.values())
        found.append({parts[name].removeprefix("encoder.") for name in before if changed[name]})
    return found


HEADS, LAST, FIRST = {"policy", "value"}, {"blocks.1"}, {"blocks.0"}


@pytest.mark.usefixtures("tiny_tasks")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [HEADS | LAST | FIRST] * 6),
        ({"head_warmup": 0.5}, [HEADS] * 3 + [HEADS | LAST | FIRST] * 3),
        ({"gradual_unfreeze": True}, [HEADS] * 2 + [HEADS | LAST] * 2 + [HEADS | LAST | FIRST] * 2),
        ({"gradual_unfreeze": True, "head_warmup": 0.5}, [HEADS] * 4 + [HEADS | LAST, HEADS | LAST | FIRST]),
    ],
)
def test_in_training_blocks_stay_bit_for_bit_until_their_time(options, expected):
    method, source = Finetune(**options), Checkpoint.of(small_network(MATCH), TASK)
    network = method.build(source, MATCH, source.network, 0).network
    assert moving(learned(method, network, method.init(network, source), 6)) == expected


@pytest.mark.usefixtures("tiny_tasks")
@pytest.mark.parametrize("options", [{}, {"layer_decay": 0.5}, {"head_warmup": 0.5}, {"gradual_unfreeze": True}])
def test_what_another_method_froze_for_good_stays_frozen(options):
    chain = parse_method({"chain": [{"frozen": {"depth": 1}}, {"finetune": options}]})
    source = Checkpoint.of(small_network(MATCH), TASK)
    network = chain.build(source, MATCH, source.network, 0).network
    found = moving(learned(chain, network, chain.init(network, source), 6))
    assert found[-1] == HEADS | LAST
    assert found[0] == (HEADS if len(options) and "layer_decay" not in options else HEADS | LAST)


def test_what_thaws_cannot_be_chained_with_a_network_that_is_not_the_sources():
    """LoRA's frozen weights would thaw with the blocks they are in."""
    for options in ({"head_warmup": 0.5}, {"gradual_unfreeze": True}):
        with pytest.raises(GraftError, match="start from the source's weights, which the other is about"):
            parse_method({"chain": ["lora", {"finetune": options}]})
    parse_method({"chain": ["lora", {"finetune": {"layer_decay": 0.5}}]})


def test_retraining_after_the_task_is_no_part_of_the_schedule():
    chain = parse_method({"chain": [{"finetune": {"head_warmup": 0.5}}, {"packnet": {"retrain": 8}}]})
    network, source = small_network(MATCH), Checkpoint.of(small_network(MATCH), TASK)
    rollouts = rollouts_of(MATCH, 2)
    for state in ({}, chain.init(network, source)):
        after = chain.consolidate(network, state, rollouts, TaskPosition(0, 2)).state
        chain.schedule(network, after, 0.0)
        assert network.encoder.frozen_blocks == 0
