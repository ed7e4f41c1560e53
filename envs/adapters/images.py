"""Boxes that are boards or pictures, or stacks of them: which side counts channels, their names, and their arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from graft.envs.adapters.names import frame_names, game_name, index_names, value_names
from graft.envs.core.schema import ObservationSchema, uint8_schema
from graft.errors import GraftError

Array = NDArray[Any]
Channels = Literal["first", "last"]
"""Which of three sides counts the channels, where a user says so."""

FEW = 4  # channels that a picture of any size may have
CODES = 64  # the most values of a cell that are told apart as categories
SCREEN = 36  # rows and columns from which reals are a screen
BOARD = 3  # the fewest rows and columns of a board that is not of bytes
WIDEST = 255.0  # the largest number in a picture of reals; within wider bounds, differences would be lost

CHANNELS_LAST = ("MinAtar/",)
"""How the ids of tasks begin whose channels come last, though a board may have as many sides of one length."""

GREY = ("grey",)
COLOURS = {1: GREY, 3: ("red", "green", "blue"), 4: tuple(f"frame_{i}" for i in range(4))}
"""Names of the channels of a picture by their number; four are the frames of a film, which is grey."""

Codec = tuple[ObservationSchema, Callable[[Array], Array]]


class Layout(NamedTuple):
    """How arrays (N, *raw) become (N, frames, channels, height, width): by a transposition, then a reshape."""

    axes: tuple[int, ...]
    frames: int
    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.frames * self.channels, self.height, self.width

    def arrange(self, raw: Array) -> Array:
        """Arrays (N, *raw) as (N, frames * channels, height, width)."""
        return raw.transpose(self.axes).reshape(len(raw), *self.shape)


def channels_first(shape: tuple[int, ...]) -> bool | None:
    """Whether the first of three sides counts channels and not the last; None where both could.

    Equal sides that follow each other are a board's. Otherwise channels are few, or many fewer than rows and columns.
    """
    first, middle, last = shape
    if (middle == last) != (first == middle):
        return middle == last
    few_first = first <= FEW or 4 * first < min(middle, last)
    few_last = last <= FEW or 4 * last < min(first, middle)
    return few_first if few_first != few_last else None


def _layout(task: str, space: gym.spaces.Box, channels: Channels | None, asks: bool) -> Layout | None:
    """How to arrange a box of 2, 3, or with a stack of frames 4 sides; None where only a user could say.

    Raises:
        GraftError: the same, with ``asks``.
    """
    *stack, a, b, c = (1,) * (3 - len(space.shape)) + space.shape
    skip, frames = len(stack), stack[0] if stack else 1
    if len(space.shape) == 2:
        return Layout((0, 1, 2), 1, 1, b, c)
    known = channels or ("last" if game_name(task).startswith(CHANNELS_LAST) else None)
    first = channels_first((a, b, c)) if known is None else known == "first"
    if first is None and asks:
        raise GraftError(
            f"Observations of '{task}' have the shape {space.shape}, whose channels could come first or last; "
            f"say which: schema: {{channels: first}} or {{channels: last}}."
        )
    if first is None:
        return None
    inner = (1, 2, 3) if first else (3, 1, 2)
    axes = (0, *range(1, 1 + skip), *(axis + skip for axis in inner))
    return Layout(axes, frames, *((a, b, c) if first else (c, a, b)))


def image_codec(
    task: str, space: gym.spaces.Box, names: tuple[str, ...] | None, channels: Channels | None
) -> Codec | None:
    """Schema and encoder of a box that is a board or a picture, or a stack of them along its first side; else None.

    Bytes of two sides or more always are one. So are other whole numbers of few values, and bounded reals of three
    sides, where the sides say which is which. Zeros and ones are planes, few values a plane each, other bytes pixels.
    Reals are planes on a small board, from 0 to 1 unless they are between -1 and 1 already, and else pixels, scaled to
    [0, 255].

    Args:
        names: of all channels, or of those of one frame; of categories, of the values or of what holds one.
        channels: what a user says.
    Raises:
        GraftError: channels of bytes that could come first or last.
    """
    sides, byte = len(space.shape), space.dtype in (np.uint8, np.bool_)
    whole = byte or np.issubdtype(space.dtype, np.integer)
    if not (2 if whole else 3) <= sides <= 4 or 0 in space.shape or not (byte or _bounded(space, whole)):
        return None
    layout = _layout(task, space, channels, byte)
    if layout is None or not (byte or min(layout.height, layout.width) >= BOARD):
        return None
    if not whole:
        return _reals(task, space, layout, names)
    low, high = int(np.min(space.low)), int(np.max(space.high))
    if low >= 0 and high <= 1:
        return _bytes("planes", layout, _channel_names(index_names(task, "plane", layout.channels), layout, names), 1)
    if high - low < CODES:
        return _categories(task, layout, range(low, high + 1), names)
    return _bytes("pixels", layout, _channel_names(_colours(task, layout.channels), layout, names), 255)


def _bounded(space: gym.spaces.Box, whole: bool) -> bool:
    """Whether numbers that are no bytes have few values, those of a byte, or bounds of reals that are not too wide."""
    if whole:
        low, high = int(np.min(space.low)), int(np.max(space.high))
        return high - low < CODES or (low >= 0 and high == 255)
    return bool((np.abs(space.low) <= WIDEST).all() and (np.abs(space.high) <= WIDEST).all()) and bool(
        (space.low.astype(np.float32) < space.high.astype(np.float32)).all()
    )


def _colours(task: str, count: int) -> tuple[str, ...]:
    return COLOURS.get(count) or index_names(task, "channel", count)


def _channel_names(default: tuple[str, ...], layout: Layout, given: tuple[str, ...] | None) -> tuple[str, ...]:
    """``given`` where it names all channels, or those of one frame; else ``default``, of one frame."""
    if given is not None and len(given) == layout.frames * layout.channels:
        return given
    named = given if given is not None and len(given) == layout.channels else default
    if layout.frames == 1:
        return named
    return tuple(f"frame_{i}" for i in range(layout.frames)) if named == GREY else frame_names(named, layout.frames)


def _bytes(kind: Literal["planes", "pixels"], layout: Layout, names: tuple[str, ...], high: float) -> Codec:
    def encode(raw: Array) -> Array:
        return np.array(layout.arrange(raw), np.uint8, order="C")

    return uint8_schema(kind, names, layout.shape, high), encode


def _reals(task: str, space: gym.spaces.Box, layout: Layout, given: tuple[str, ...] | None) -> Codec:
    low, high = (layout.arrange(end[None].astype(np.float32)) for end in (space.low, space.high))
    screen, as_is = min(layout.height, layout.width) >= SCREEN, bool((low >= -1).all() and (high <= 1).all())
    default = _colours(task, layout.channels) if screen else index_names(task, "plane", layout.channels)
    names, most = _channel_names(default, layout, given), 255 if screen else 1
    schema = replace(uint8_schema("pixels" if screen else "planes", names, layout.shape, most), dtype="float32")
    if as_is and not screen:
        ends = (tuple(map(float, end)) for end in (low.min(axis=(0, 2, 3)), high.max(axis=(0, 2, 3))))
        schema = replace(schema, low=next(ends), high=next(ends))
        return schema, lambda raw: np.array(layout.arrange(raw), np.float32, order="C")
    width, most_real = high - low, np.float32(most)

    def encode(raw: Array) -> Array:
        scaled: Array = (layout.arrange(raw).astype(np.float32) - low) / width * most_real
        return scaled

    return schema, encode


def _categories(task: str, layout: Layout, values: range, given: tuple[str, ...] | None) -> Codec:
    """A plane for each value of each channel, 1 where a cell has that value."""
    count, frames = layout.channels, layout.frames
    stems = index_names(task, "cell", count) if count > 1 else (f"{game_name(task)}.cell",)
    if given is not None and len(given) in (count * frames, count * frames * len(values)):
        names = value_names(frame_names(stems, frames), [values] * (count * frames), given)
    else:
        names = value_names(stems, [values] * count, given)
        names = names if frames == 1 else frame_names(names, frames)
    codes = np.arange(values.start, values.stop)[:, None, None]

    def encode(raw: Array) -> Array:
        found: Array = layout.arrange(raw)[:, :, None] == codes
        return found.reshape(len(raw), -1, layout.height, layout.width).astype(np.uint8)

    return uint8_schema("planes", names, (len(names), layout.height, layout.width), 1), encode
