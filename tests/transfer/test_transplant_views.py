"""Weights between views of built-in games: which slice of the first convolution each channel starts from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.transplant_fixtures import checkpoint, moved, stem_of

from graft import envs
from graft.envs import Task


def carried(source: Task, target: Task) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """By name, slices of the first convolution of a source, and those that the target's network starts from."""
    before, after = (envs.schemas(task).observation for task in (source, target))
    made = checkpoint(before)
    network, _ = moved(made, after, new_channels="attributes")
    stem = stem_of(network)
    old, new = made.tensors[stem], network.state_dict()[stem]
    return (
        {name: old[:, i] for i, name in enumerate(before.names)},
        {name: new[:, i] for i, name in enumerate(after.names)},
    )


def game(name: str, **kwargs: Any) -> Task:
    return Task(f"Graft/{name}-v0", kwargs)


def mean(slices: dict[str, torch.Tensor], *names: str) -> torch.Tensor:
    return torch.stack([slices[name] for name in names]).mean(0)


@pytest.mark.parametrize("channels", ["attributes", "both"])
@pytest.mark.parametrize(
    ("before", "after"), [("planes", "ego"), ("ego", "planes"), ("ego", "ego"), ("planes", "planes")]
)
def test_by_name_between_games_and_views(before: str, after: str, channels: str) -> None:
    old, new = carried(
        game("Gather", view=before, channels=channels), game("Hunt", view=after, channels=channels, slip=0.1)
    )
    shared = old.keys() & new.keys()
    assert {"is_self", "is_solid", "is_deadly", "is_pickup", "is_reward"} <= shared
    for name in shared:
        assert torch.equal(old[name], new[name])
    for name in ("is_mobile", "is_chasing"):  # of which Gather says nothing
        assert not new[name].any()
    if channels == "both":  # a thing never seen is what it is: deadly, like the hazard and what is deadly
        assert torch.allclose(new["enemy"], mean(old, "hazard", "is_deadly"))


def test_channels_of_attributes_from_those_of_names() -> None:
    """Each from what shares its attribute, and of these from what has the fewest others."""
    old, new = carried(game("Maze", channels="names"), game("Hunt"))
    assert torch.equal(new["is_self"], old["player"])
    assert torch.equal(new["is_solid"], old["wall"])
    assert torch.equal(new["is_outside"], old["outside"])
    assert torch.equal(new["is_reward"], old["exit"])
    assert not new["is_deadly"].any()


def test_channels_of_names_from_those_of_attributes() -> None:
    old, new = carried(game("Dodge"), game("Gather", view="planes"))
    assert torch.equal(new["player"], old["is_self"])
    assert torch.equal(new["hazard"], old["is_deadly"])
    assert torch.equal(new["wall"], old["is_solid"])
    assert not new["coin"].any()
    _, again = carried(game("Dodge"), game("Dodge", channels="names"))
    assert torch.allclose(again["rock"], mean(old, "is_deadly", "is_falling", "is_mobile"))
