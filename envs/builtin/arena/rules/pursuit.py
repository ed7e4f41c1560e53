"""Pursuit: hunters catch prey, which are out of the game one by one; the prey win by lasting."""

from __future__ import annotations

from typing import Any

from graft.envs.builtin.arena.game import ARENAS, Arena, Team
from graft.envs.builtin.arena.state import State, build_walls, enter, near, walk
from graft.envs.builtin.engine.compile import jit
from graft.envs.builtin.engine.state import SIZE, uniform

HEAD_START = 3  # least distance of a prey from every hunter at the start, in cells
HUNTERS, PREY = 0, 1


@jit
def begin(s: State, i: int, p: Any) -> None:
    """Scatter walls, hunters, and prey at a distance."""
    build_walls(s, i, p.walls)
    enter(s, i, 0, p.high_first, 0, SIZE, 0)
    enter(s, i, p.high_first, s.alive.shape[1], 0, SIZE, HEAD_START)


@jit
def catch(s: State, i: int, p: Any, rewards: Any) -> int:
    """Take every prey with enough hunters in reach out of the game; returns how many."""
    caught = 0
    for a in range(p.high_first, s.alive.shape[1]):
        if s.alive[i, a]:
            row, column = s.place[i, a, 0], s.place[i, a, 1]
            if near(s, i, 0, p.high_first, row, column, p.reach) >= p.catchers:
                s.alive[i, a] = False
                rewards[a] -= 1.0
                caught += 1
    return caught


@jit
def advance(s: Any, i: int, actions: Any, p: Any, rewards: Any) -> int:
    """The prey move, then the hunters; either may bring a prey into reach.

    A hunter's return is the share of the prey that its team catches, a prey's the share of the time that it lasts,
    less 1 if it is caught in the end: both are on one scale, whatever the sizes of the teams.
    """
    slots = s.alive.shape[1]
    for a in range(p.high_first, slots):
        if uniform(s, i) < p.prey_speed:
            walk(s, i, a, actions[a])
    caught = catch(s, i, p, rewards)
    for a in range(p.high_first):
        walk(s, i, a, actions[a])
    caught += catch(s, i, p, rewards)
    s.score[i, HUNTERS] += caught
    left = 0
    for a in range(slots):
        if s.alive[i, a]:
            if a < p.high_first:
                rewards[a] += caught / s.size[i, PREY]
            else:
                rewards[a] += 1.0 / p.max_steps
                left += 1
    if left == 0:
        return HUNTERS
    return PREY if s.clock[i] >= p.max_steps else -1


ARENA = Arena(
    name="pursuit",
    id="Graft/Pursuit-v0",
    goal="Hunters win by catching every prey before the time is up, prey by lasting.",
    teams=(Team("hunters", "hunter", 3), Team("prey", "prey", (1, 4))),
    begin=begin,
    advance=advance,
    own={"max_steps": 100, "catchers": 1, "reach": 0, "prey_speed": 1.0},
    hunts=True,
)
ARENAS.add(ARENA.name, ARENA)
