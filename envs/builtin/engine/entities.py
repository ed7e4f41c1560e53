"""What can stand on a board: names, attributes and looks, shared by all built-in games."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPRITE = 6  # pixels of a cell, in rows and in columns


@dataclass(frozen=True)
class Entity:
    """Something with a plane of its own.

    Attributes:
        attributes: what it means, in words shared by all games.
        glyph: one character, for the terminal.
        shape: six rows of six characters; anything but a dot is drawn.
    """

    attributes: tuple[str, ...]
    glyph: str
    shape: tuple[str, ...]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which pixels are drawn, (SPRITE, SPRITE)."""
        return np.array([[pixel != "." for pixel in row] for row in self.shape])


ATTRIBUTES = {
    "self": "the player, or a part of it",
    "solid": "keeps the player from entering",
    "deadly": "ends the episode when the player touches it",
    "pickup": "taken by who enters its cell",
    "reward": "gives a reward when it is taken or reached",
    "tool": "taken, it opens what is locked",
    "pushable": "moves on when the player walks against it, if the cell behind it is free",
    "locked": "opens for who has the tool, and gives a reward",
    "goal": "where to go; then the level is solved",
    "support": "can be stood on, where there is gravity",
    "target": "gives a reward when a projectile hits it",
    "projectile": "shot by the player; removes targets",
    "mobile": "moves by itself",
    "falling": "comes down the board, by a cell a step where it is neither slow nor fast",
    "rising": "goes up the board",
    "wandering": "moves in random directions",
    "chasing": "moves towards the player, at times",
    "fleeing": "moves away from the player, at times",
    "patrolling": "goes straight on, and turns round where it cannot",
    "leftward": "goes left",
    "rightward": "goes right",
    "slow": "moves in some of the steps only",
    "fast": "moves by more than a cell in a step",
    "direction": "where the player is carried next, beside what it chooses",
    "outside": "beyond the border of the board",
    "friend": "an agent of the same team",
    "rival": "an agent of the other team",
    "role": "which team the agent is in",
}
"""What each attribute means: two things that behave differently in a game differ in one of these."""

FULL = ("######",) * SPRITE
MARK = "is_"  # begins the names of attributes that are shown by themselves

ENTITIES = {
    "player": Entity(("self",), "@", ("..##..", "..##..", "######", "..##..", ".#..#.", ".#..#.")),
    "wall": Entity(("solid",), "#", FULL),
    "hazard": Entity(("deadly",), "x", ("#....#", ".#..#.", "..##..", "..##..", ".#..#.", "#....#")),
    "coin": Entity(("pickup", "reward"), "o", ("......", "..##..", ".####.", ".####.", "..##..", "......")),
    "enemy": Entity(
        ("chasing", "deadly", "mobile", "slow", "wandering"),
        "M",
        (".####.", "##.##.", "######", "######", "#.##.#", "#....#"),
    ),
    "rock": Entity(("deadly", "falling", "mobile"), "*", ("..###.", ".#####", "######", "######", "#####.", ".###..")),
    "target": Entity(
        ("deadly", "falling", "mobile", "slow", "target"),
        "V",
        ("######", "#.##.#", "######", ".####.", "..##..", "..##.."),
    ),
    "shot": Entity(
        ("fast", "mobile", "projectile", "rising"), "|", ("..##..", "..##..", "..##..", "..##..", "......", "......")
    ),
    "key": Entity(("pickup", "reward", "tool"), "k", (".###..", ".#.#..", ".###..", "..#...", "..##..", "..##..")),
    "door": Entity(("locked", "reward", "solid"), "D", ("######", "#....#", "#....#", "#..#.#", "#....#", "######")),
    "exit": Entity(("goal", "reward"), "E", ("#.#.#.", ".#.#.#", "#.#.#.", ".#.#.#", "#.#.#.", ".#.#.#")),
    "platform": Entity(("solid", "support"), "=", ("######", "######", "......", "......", "......", "......")),
    "car": Entity(("deadly", "falling", "mobile"), "A", (".####.", "######", ".####.", ".####.", "######", ".####.")),
    "body": Entity(("deadly", "self"), "s", (".####.", "######", "######", "######", "######", ".####.")),
    "heading": Entity(("direction", "self"), "+", ("......", "......", "..##..", "..##..", "......", "......")),
    "outside": Entity(("outside", "solid"), " ", FULL),
    "ally": Entity(("friend", "mobile"), "a", ("..##..", ".####.", "######", "######", ".####.", "..##..")),
    "opponent": Entity(("mobile", "rival"), "p", ("######", "######", "##..##", "##..##", "######", "######")),
    "hunter": Entity(("role",), "h", ("#.....", "......", "......", "......", "......", "......")),
}

MARKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "deadly": ("x", ("......", ".#..#.", "..##..", "..##..", ".#..#.", "......")),
    "target": ("V", ("......", ".####.", ".#..#.", ".#..#.", ".####.", "......")),
    "tool": ("k", ("......", "......", ".##...", ".####.", "......", "......")),
    "goal": ("E", ("......", ".#.#..", "..#.#.", ".#.#..", "..#.#.", "......")),
    "pickup": ("o", ("......", "..##..", ".#..#.", ".#..#.", "..##..", "......")),
    "locked": ("D", ("......", ".####.", ".####.", "......", ".####.", "......")),
    "pushable": ("B", ("......", ".#..#.", "......", "......", ".#..#.", "......")),
    "support": ("=", ("......", ".####.", "......", "......", "......", "......")),
    "solid": ("#", ("......", ".####.", ".####.", ".####.", ".####.", "......")),
    "projectile": ("|", ("..##..", "..##..", "..##..", "..##..", "......", "......")),
    "direction": ("+", ("......", "......", "..##..", "..##..", "......", "......")),
    "reward": ("$", ("......", "......", "..#...", "...#..", "......", "......")),
    "mobile": ("~", ("#....#", "......", "......", "......", "......", "#....#")),
    "falling": ("v", ("......", "......", "......", "......", "......", ".####.")),
    "rising": ("^", (".####.", "......", "......", "......", "......", "......")),
    "leftward": ("<", ("......", "#.....", "#.....", "#.....", "#.....", "......")),
    "rightward": (">", ("......", ".....#", ".....#", ".....#", ".....#", "......")),
    "wandering": ("?", ("#....#", "......", "......", "......", "......", "......")),
    "patrolling": (":", ("......", "......", "#....#", "#....#", "......", "......")),
    "chasing": ("!", ("..##..", "......", "#....#", "#....#", "......", "..##..")),
    "fleeing": ("-", (".#..#.", "#....#", "......", "......", "#....#", ".#..#.")),
    "slow": ("_", ("......", "......", "......", "......", "......", "#....#")),
    "fast": ('"', ("##..##", "......", "......", "......", "......", "##..##")),
}
"""Glyph and shape of attributes that are shown by themselves. What a thing does to the player is in the middle of its
cell, how it moves at the edges, so that together they draw it."""

ENTITIES |= {f"{MARK}{word}": Entity((word,), glyph, shape) for word, (glyph, shape) in MARKS.items()}

PALETTES: dict[str, dict[str, tuple[int, int, int]]] = {
    "day": {
        "": (236, 232, 220),
        "player": (20, 60, 200),
        "wall": (110, 100, 95),
        "hazard": (200, 30, 40),
        "coin": (235, 170, 0),
        "enemy": (150, 20, 120),
        "rock": (90, 60, 40),
        "target": (200, 80, 0),
        "shot": (0, 130, 160),
        "key": (190, 140, 0),
        "door": (130, 70, 20),
        "exit": (0, 140, 60),
        "platform": (90, 120, 60),
        "car": (180, 40, 40),
        "body": (60, 110, 220),
        "heading": (120, 150, 220),
        "outside": (60, 60, 60),
        "ally": (90, 140, 240),
        "opponent": (210, 60, 60),
        "hunter": (250, 240, 225),
        "is_deadly": (200, 30, 40),
        "is_target": (200, 80, 0),
        "is_tool": (190, 140, 0),
        "is_goal": (0, 140, 60),
        "is_pickup": (235, 170, 0),
        "is_locked": (130, 70, 20),
        "is_pushable": (150, 120, 90),
        "is_support": (90, 120, 60),
        "is_solid": (110, 100, 95),
        "is_projectile": (0, 130, 160),
        "is_direction": (120, 150, 220),
        "is_reward": (255, 205, 60),
        "is_mobile": (60, 55, 80),
        "is_falling": (60, 55, 80),
        "is_rising": (60, 55, 80),
        "is_leftward": (60, 55, 80),
        "is_rightward": (60, 55, 80),
        "is_wandering": (60, 55, 80),
        "is_patrolling": (60, 55, 80),
        "is_chasing": (60, 55, 80),
        "is_fleeing": (60, 55, 80),
        "is_slow": (60, 55, 80),
        "is_fast": (60, 55, 80),
    },
    "night": {
        "": (14, 18, 38),
        "player": (120, 220, 255),
        "wall": (72, 80, 110),
        "hazard": (255, 90, 110),
        "coin": (255, 225, 120),
        "enemy": (230, 110, 255),
        "rock": (160, 140, 130),
        "target": (255, 150, 70),
        "shot": (170, 255, 250),
        "key": (255, 215, 90),
        "door": (200, 130, 80),
        "exit": (110, 255, 160),
        "platform": (120, 160, 110),
        "car": (255, 120, 100),
        "body": (90, 160, 230),
        "heading": (80, 150, 190),
        "outside": (0, 0, 0),
        "ally": (90, 170, 255),
        "opponent": (255, 120, 90),
        "hunter": (40, 34, 50),
        "is_deadly": (255, 90, 110),
        "is_target": (255, 150, 70),
        "is_tool": (255, 215, 90),
        "is_goal": (110, 255, 160),
        "is_pickup": (255, 225, 120),
        "is_locked": (200, 130, 80),
        "is_pushable": (150, 140, 160),
        "is_support": (120, 160, 110),
        "is_solid": (72, 80, 110),
        "is_projectile": (170, 255, 250),
        "is_direction": (80, 150, 190),
        "is_reward": (255, 240, 180),
        "is_mobile": (200, 200, 220),
        "is_falling": (200, 200, 220),
        "is_rising": (200, 200, 220),
        "is_leftward": (200, 200, 220),
        "is_rightward": (200, 200, 220),
        "is_wandering": (200, 200, 220),
        "is_patrolling": (200, 200, 220),
        "is_chasing": (200, 200, 220),
        "is_fleeing": (200, 200, 220),
        "is_slow": (200, 200, 220),
        "is_fast": (200, 200, 220),
    },
    "ink": {"": (255, 255, 255)} | dict.fromkeys(ENTITIES, (0, 0, 0)),
}
"""Colour of each entity, and of the empty board (``""``), for pictures; ``ink`` tells things apart by shape alone."""
