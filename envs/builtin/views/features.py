"""Features: a vector that says where things are, for agents that see no board."""

from __future__ import annotations

from typing import Any

from graft.envs.builtin.engine.compile import standalone
from graft.envs.builtin.engine.entities import ENTITIES
from graft.envs.builtin.engine.kernel import player_cell
from graft.envs.builtin.engine.state import SIZE
from graft.envs.builtin.engine.view import VIEWS, View
from graft.envs.core.schema import ObservationSchema

FEATURES = ("row", "column", "seen", "share")
"""Of each kind of thing: where the nearest one is (of the player: itself), whether there is one, and how much of it."""


def schema(names: tuple[str, ...]) -> ObservationSchema:
    """(4 C,) floats from -1 to 1: ``coin.row``, ``coin.column`` ..."""
    found = [(f"{name}.{feature}", name, feature) for name in names for feature in FEATURES]
    return ObservationSchema(
        kind="vector",
        names=tuple(full for full, _, _ in found),
        attributes=tuple(tuple(sorted((*ENTITIES[name].attributes, feature))) for _, name, feature in found),
        shape=(len(found),),
        dtype="float32",
        low=tuple(0.0 if feature in ("seen", "share") else -1.0 for _, _, feature in found),
        high=(1.0,) * len(found),
    )


@standalone
def measure(planes: Any, out: Any) -> None:
    """Features (N, 4 C), as `FEATURES` of each plane; offsets from the player in shares of the board."""
    for i in range(planes.shape[0]):
        row, column = player_cell(planes[i, 0])
        for c in range(planes.shape[1]):
            nearest, near_r, near_k, count = 4 * SIZE, 0, 0, 0
            for r in range(SIZE):
                for k in range(SIZE):
                    if planes[i, c, r, k]:
                        count += 1
                        far = abs(r - row) + abs(k - column)
                        if far < nearest:
                            nearest, near_r, near_k = far, r - row, k - column
            if c == 0:
                near_r, near_k = 2 * row - SIZE + 1, 2 * column - SIZE + 1
                out[i, 0] = near_r / (SIZE - 1)
                out[i, 1] = near_k / (SIZE - 1)
            else:
                out[i, 4 * c] = near_r / SIZE
                out[i, 4 * c + 1] = near_k / SIZE
            out[i, 4 * c + 2] = 1.0 if count else 0.0
            out[i, 4 * c + 3] = count / (SIZE * SIZE)


VIEWS.add("features", View("a vector: where the nearest of each kind is, and how many", schema, lambda *_: measure))
