"""Transitions move with carried heads: by observation and action names, and only where the algorithm keeps some."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.tiny_tasks import MATCH, REACH, assert_same, box, discrete, planes, small_config, vector

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import PolicyNetwork
from graft.agents.training.transitions import TRANSITIONS
from graft.envs.core.schema import Schemas
from graft.errors import GraftError
from graft.transfer.method import METHODS, TaskPosition, parse_method
from graft.transfer.session import TransferSession
from graft.transfer.transplant import carried_transitions

COUNT = 5
SQUASHED = replace(small_config("vector"), distribution="squashed")
SOURCE = Schemas(vector(["a", "b"]), box(["x", "y"]))
TARGET = Schemas(vector(["b", "new", "a"]), box(["y", "jump", "x"]))


def transitions(schemas, actions):
    """Any numbers."""
    generator = torch.Generator().manual_seed(2)
    shape = (COUNT, *schemas.observation.shape)
    shown = {name: torch.randn(shape, generator=generator) for name in ("observations", "next_observations")}
    rest = {name: torch.randn(COUNT, generator=generator) for name in ("rewards", "terminated")}
    return {**shown, "actions": actions, **rest}


def source(schemas=SOURCE, actions=None, config=SQUASHED) -> Checkpoint:
    actions = torch.tensor([[k / 10, -k / 10] for k in range(COUNT)]) if actions is None else actions
    return Checkpoint.of(PolicyNetwork(schemas, config, 0), REACH, parts={TRANSITIONS: transitions(schemas, actions)})


def begun(method, given, target=SOURCE, kept=True):
    return TransferSession.begin(parse_method(method), given, target, given.network, 7, kept)


def test_the_same_task_gets_them_to_the_bit_and_its_checkpoint_holds_them():
    given = source()
    session = begun({"finetune": {"heads": "by_name"}}, given)
    assert_same(session.transitions, dict(given.parts[TRANSITIONS]))
    rows = [row for row in session.report.rows if row.tensor.startswith(TRANSITIONS)]
    assert [(row.tensor, row.status, row.share) for row in rows] == [
        ("transitions.observations", "copied", 1.0),
        ("transitions.actions", "copied", 1.0),
    ]
    saved = session.finish().checkpoint(REACH)
    assert_same(dict(saved.parts[TRANSITIONS]), session.transitions)
    assert_same(TransferSession.of(METHODS["finetune"](), saved).transitions, session.transitions)


@pytest.mark.parametrize("method", [{"finetune": {"heads": "fresh"}}, "scratch", "kickstart", "progressive"])
def test_what_carries_no_heads_carries_none(method):
    assert begun(method, source()).transitions == {}


def test_an_algorithm_that_keeps_none_gets_none():
    session = begun({"finetune": {"heads": "by_name"}}, source(), kept=False)
    assert session.transitions == {}
    assert not [row for row in session.report.rows if row.tensor.startswith(TRANSITIONS)]


def test_chains_carry_what_their_builder_does():
    chain = {"chain": [{"redo": {"heads": "by_name"}}, {"finetune": {"heads": "by_name"}}]}
    assert len(begun(chain, source()).transitions["rewards"]) == COUNT


def test_columns_go_by_observation_and_action_names():
    """By hand: observations b, new, a of a, b; actions y, jump, x of x, y. What is new is zero."""
    given = source()
    made, rows = carried_transitions(given, TARGET, {})
    old = given.parts[TRANSITIONS]
    for name in ("observations", "next_observations"):
        wanted = torch.stack([old[name][:, 1], torch.zeros(COUNT), old[name][:, 0]], 1)
        assert torch.equal(made[name], wanted)
    assert torch.equal(
        made["actions"], torch.stack([old["actions"][:, 1], torch.zeros(COUNT), old["actions"][:, 0]], 1)
    )
    assert torch.equal(made["rewards"], old["rewards"])
    assert {row.status for row in rows} == {"padded"}
    renamed, _ = carried_transitions(given, TARGET, {"new": "a"})
    assert torch.equal(renamed["observations"][:, 1], old["observations"][:, 0])


def test_discrete_actions_are_numbered_anew_and_those_that_are_gone_are_left_out():
    """Of north, south, east, west: north is 1 now, west 0; south and east are gone."""
    numbers = torch.tensor([[0], [3], [1], [2], [0]])
    given = source(MATCH, numbers, small_config("vector"))
    target = Schemas(MATCH.observation, discrete("west", "north", "up"))
    made, _ = carried_transitions(given, target, {})
    assert made["actions"].tolist() == [[1], [0], [1]]
    assert torch.equal(made["rewards"], given.parts[TRANSITIONS]["rewards"][[0, 1, 4]])


def test_what_does_not_fit_is_not_carried():
    board = Schemas(planes(["a", "b"]), SOURCE.action)
    assert carried_transitions(source(), board, {}) == ({}, ())
    numbers = Schemas(SOURCE.observation, box(["x", "y"], float("-inf"), float("inf")))
    wide = Schemas(SOURCE.observation, box(["x", "y"], -2.0, 2.0))
    assert carried_transitions(source(wide), numbers, {}) == ({}, ())


@pytest.mark.parametrize(
    "spoilt",
    [
        {"rewards": torch.zeros(COUNT + 1)},
        {"observations": torch.zeros(COUNT, 3)},
        {"actions": torch.full((COUNT, 1), 4)},
        {"actions": torch.full((COUNT, 1), -1)},
        {"actions": torch.zeros(COUNT, 1)},
        {"rewards": torch.zeros(COUNT, dtype=torch.bfloat16)},
        {"terminated": torch.tensor(0.0)},
        {"more": torch.zeros(COUNT)},
    ],
)
def test_transitions_that_are_not_of_the_task_are_an_error(spoilt):
    given = source(MATCH, torch.zeros(COUNT, 1, dtype=torch.int64), small_config("vector"))
    assert carried_transitions(given, MATCH, {})[1]
    part = {**given.parts[TRANSITIONS], **spoilt}
    with pytest.raises(GraftError, match="are not of its task"):
        carried_transitions(replace(given, parts={TRANSITIONS: part}), MATCH, {})
    with pytest.raises(GraftError, match="are not of its task"):
        TransferSession.of(METHODS["packnet"](), replace(given, parts={TRANSITIONS: part}))


def test_consolidation_goes_on_with_those_of_the_task():
    given = source()
    session = TransferSession.of(METHODS["packnet"](), given)
    session.consolidate(lambda *_: None, TaskPosition(0, 2))
    assert_same(session.transitions, dict(given.parts[TRANSITIONS]))
