"""TensorBoard: scalars, texts, hyperparameters with final scores, and clips, in the folder ``tb`` of an experiment."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.experiments.sinks.sink import SINKS, Sink, SinkRun

if TYPE_CHECKING:  # which takes a second to load
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tb"


@SINKS.register("tensorboard")
class TensorBoard(Sink):
    """Event files in a folder that has the run's name."""

    package = "tensorboard"

    def __init__(self, run: SinkRun) -> None:
        super().__init__(run)
        self._folder = run.out / FOLDER / run.name
        if not run.goes_on:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._board = _writer(self._folder)

    def scalars(self, env_steps: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._board.add_scalar(tag, value, env_steps)

    def text(self, tag: str, markdown: str) -> None:
        self._board.add_text(tag, markdown, 0)

    def rewind(self, env_steps: int, values: Mapping[str, float]) -> None:
        """TensorBoard drops the old file's values from ``env_steps`` on; those that are kept are written once more."""
        self._board.close()
        self._board = _writer(self._folder, purge_step=env_steps)
        self.scalars(env_steps, values)

    def flush(self) -> None:
        self._board.flush()

    def finish(self, metrics: Mapping[str, float]) -> None:
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(dict(self.run.settings), dict(metrics)):  # type: ignore[no-untyped-call]
            _add(self._board, summary)

    def close(self, done: bool) -> None:
        self._board.close()


def write_gif(out: Path, tag: str, gif: Path) -> None:
    """An animated picture of an experiment, which TensorBoard plays under IMAGES."""
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    with Image.open(gif) as picture:
        width, height = picture.size
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif.read_bytes())
    shutil.rmtree(out / FOLDER / gif.stem, ignore_errors=True)
    with _writer(out / FOLDER / gif.stem) as board:
        _add(board, Summary(value=[Summary.Value(tag=tag, image=image)]))


def _add(board: SummaryWriter, summary: Any) -> None:
    board._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]


def _writer(folder: Path, purge_step: int | None = None) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), flush_secs=20, purge_step=purge_step)
