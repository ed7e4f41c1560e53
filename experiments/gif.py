"""Animated GIFs written frame by frame: only the frame before is kept, however long the animation gets."""

from __future__ import annotations

import io
import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agents.checkpoint import flush_folder
from envs.errors import GraftError

COLOURS = 256
"""Of a frame, at most."""

Frame = NDArray[np.uint8]


class GifWriter:
    """A GIF that appears under its name when the block is left without an error, and leaves nothing behind otherwise.

    Args:
        path: of the file, which is replaced.
        fps: frames a second; GIF counts in hundredths of a second, so the pace is close to it, and 50 at most.
    Raises:
        GraftError: the file can't be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        self._delay = max(2, round(100 / fps))
        self._before: Frame | None = None
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            self._file = self._temporary.open("wb")
        except OSError as error:
            raise GraftError(f"{self._path} cannot be written ({error.strerror}).") from error
        return self

    def add(self, frame: Frame, held: int = 1) -> None:
        """Append a picture (H, W, 3), of the size of the first one, that stays ``held`` times as long as others.

        Raises:
            GraftError: a picture of another size or type.
        """
        frame = np.ascontiguousarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise GraftError(f"A frame is (H, W, 3) uint8; got {frame.shape} {frame.dtype}.")
        if self._before is None:
            height, width = frame.shape[:2]
            self._write(b"GIF89a" + _size(width) + _size(height) + b"\x70\x00\x00")
            self._write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # for ever
            top, left, bottom, right = 0, 0, height, width
        elif frame.shape != self._before.shape:
            raise GraftError(f"Frames have one size; got {frame.shape} after {self._before.shape}.")
        else:
            top, left, bottom, right = _changed(self._before, frame)
        self._write(b"\x21\xf9\x04\x04" + _size(self._delay * held) + b"\x00\x00")
        self._write(_image(frame[top:bottom, left:right], left, top))
        self._before = frame.copy()

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(data)
        except OSError as error:
            raise GraftError(f"{self._path} cannot be written ({error.strerror}).") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        try:
            if kind is None and self._before is not None:
                self._write(b"\x3b")
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._temporary.replace(self._path)
                flush_folder(self._path.parent)
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)


def _size(number: int) -> bytes:
    return number.to_bytes(2, "little")


def _changed(before: Frame, after: Frame) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the smallest rectangle outside which two frames are equal; at least a pixel."""
    differs = (before != after).any(2)
    if not differs.any():
        return 0, 0, 1, 1
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _indexed(frame: Frame) -> Any:
    """The frame as an image with a palette: its own colours where they are few enough, else the nearest of 256."""
    packed = frame.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, indices = np.unique(packed, return_inverse=True)
    if len(colours) > COLOURS:
        return Image.fromarray(frame).quantize(COLOURS)
    image = Image.fromarray(indices.reshape(packed.shape).astype(np.uint8), "P")
    image.putpalette(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1).astype(np.uint8).tobytes())
    return image


def _image(frame: Frame, left: int, top: int) -> bytes:
    """An image block of GIF at a place of the screen, with a palette of its own.

    Pillow compresses it, as a GIF of one image; its header makes way for one with the place in it.
    """
    buffer = io.BytesIO()
    _indexed(frame).save(buffer, "GIF", optimize=False)
    data = buffer.getvalue()
    flags = data[10]  # of the logical screen: whether a global palette follows, and the logarithm of its length
    assert flags & 0x80
    palette = data[13 : 13 + 3 * 2 ** ((flags & 7) + 1)]
    at = 13 + len(palette)
    while data[at] == 0x21:  # extensions: a label, then blocks until an empty one
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    assert data[at] == 0x2C
    assert not data[at + 9] & 0x80
    place = _size(left) + _size(top) + data[at + 5 : at + 9]
    return b"\x2c" + place + bytes([0x80 | data[at + 9] & 0x40 | flags & 7]) + palette + data[at + 10 : -1]
