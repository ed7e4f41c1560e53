"""What every built-in game keeps in every view, whatever its mechanics: drawn at random from the ranges declared."""

from __future__ import annotations

from typing import Any

import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft.envs import Task
from graft.envs.builtin.engine.channels import CHOICES
from graft.envs.builtin.engine.entities import PALETTES
from graft.envs.builtin.engine.game import GAMES
from graft.envs.builtin.engine.mechanics import Mechanic
from graft.envs.builtin.engine.view import VIEWS
from graft.experiments.contracts.views import play_is_legal_reproducible_and_savable

STEPS = 250  # 2,000 env steps of 8 environments; those of screens are fewer, as they take most of the time
MODES = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP)


def values(mechanic: Mechanic) -> st.SearchStrategy[Any]:
    """All that it may be, its ends more often than by chance."""
    if isinstance(mechanic.default, bool):
        return st.booleans()
    if mechanic.choices:
        return st.sampled_from(mechanic.choices)
    ends = st.sampled_from(mechanic.extremes)
    if isinstance(mechanic.default, int):
        return ends | st.integers(int(mechanic.low), int(mechanic.high))
    return ends | st.floats(mechanic.low, mechanic.high)


@st.composite
def tasks(draw: st.DrawFn, game: str, view: str) -> Task:
    """The game in that view, with any of its mechanics, colours and ranges of levels."""
    mechanics = GAMES[game].mechanics
    chosen = draw(st.lists(st.sampled_from(sorted(mechanics)), unique=True))
    kwargs = {name: draw(values(mechanics[name])) for name in chosen}
    first = draw(st.integers(0, 1000))
    levels = draw(st.none() | st.builds(lambda n: [first, first + n], st.integers(1, 50)))
    if kwargs.get("sampling") == "learnability":  # what is drawn depends on what was played: refused with levels
        levels = None
    kwargs |= {"view": view, "palette": draw(st.sampled_from(sorted(PALETTES)))}
    kwargs |= {option.name: draw(values(option)) for option in VIEWS[view].options}
    if GAMES[game].resolve({"view": view}).seen.kind == "planes":
        kwargs["channels"] = draw(st.sampled_from(CHOICES))
    return Task(game, kwargs | ({"levels": levels} if levels else {}))


@pytest.mark.parametrize("view", list(VIEWS))
@pytest.mark.parametrize("game", list(GAMES))
def test_play_is_legal_reproducible_and_savable(game: str, view: str) -> None:
    @settings(
        max_examples=2 if view == "pixels" else 3,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(task=tasks(game, view), seed=st.integers(0, 10_000))
    def run(task: Task, seed: int) -> None:
        steps = STEPS // 4 if view == "pixels" else STEPS
        for mode in MODES:
            play_is_legal_reproducible_and_savable(task, seed, mode, steps)

    run()
