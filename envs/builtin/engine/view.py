"""Views of a board: what the files of `views` register.

Rules paint planes (N, C, SIZE, SIZE) of zeros and ones, the player's first; every other view is made of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.envs.builtin.engine.channels import NAMES
from graft.envs.builtin.engine.entities import ENTITIES
from graft.envs.builtin.engine.mechanics import Mechanic
from graft.envs.builtin.engine.state import SIZE
from graft.envs.core.registry import Registry
from graft.envs.core.schema import ObservationSchema, uint8_schema

Show = Callable[[NDArray[np.uint8], NDArray[Any]], None]
"""``(planes, out)``: writes the view of every board into ``out`` (N, *shape)."""


@dataclass(frozen=True)
class View:
    """A way to show a board.

    Attributes:
        meaning: a phrase for lists. schema: from the names of a game's planes, the player's first, and the options.
        show: ``(names, palette, **options) -> Show``; None where the planes themselves are shown.
        options: keyword arguments that it takes. channels: of its planes, where a task says nothing of `channels`.
    """

    meaning: str
    schema: Callable[..., ObservationSchema]
    show: Callable[..., Show] | None = None
    options: tuple[Mechanic, ...] = ()
    channels: str = NAMES


VIEWS: Registry[View] = Registry("view", "graft.envs.builtin.views", View, "graft.views", instances=True)


def planes_schema(names: tuple[str, ...], size: int = SIZE) -> ObservationSchema:
    """Planes of zeros and ones, (C, size, size)."""
    attributes = tuple(tuple(sorted(ENTITIES[name].attributes)) for name in names)
    return uint8_schema("planes", names, (len(names), size, size), 1, attributes)
