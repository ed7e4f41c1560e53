"""Statistics of observations from a file of numbers: mean, var, and perhaps clip and epsilon."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft.agents.importing.files import LARGEST_TEXT, load_npz, parse_json, read_bytes
from graft.agents.importing.foreign import WHOLE, Statistics
from graft.agents.importing.trusted import read_trusted
from graft.errors import GraftError

CLIP, EPSILON = 10.0, 1e-8
"""Defaults of Stable-Baselines3's VecNormalize."""


def read_statistics(path: Path, trust: bool = False) -> dict[str, Statistics]:
    """Part of the observation -> statistics; raises GraftError for a file that lacks some or is damaged.

    A ``.json`` file holds ``{"mean": [...], "var": [...], "clip": 10.0, "epsilon": 1e-8}``, of which the last two may
    be left out, or one such mapping for each part under ``parts``. A ``.npz`` file holds arrays of these names, of
    parts ``<part>/mean`` and so on. ``clip`` may be infinite (``null`` in JSON). A pickle of VecNormalize is read
    where ``trust`` is set, in a process of its own.
    """
    what, data = str(path), read_bytes(path, LARGEST_TEXT)
    if path.suffix == ".npz":
        given: dict[str, Any] = {}
        for name, array in load_npz(data, what).items():
            part, _, key = name.rpartition("/")
            given.setdefault(part, {})[key] = array
    elif path.suffix == ".json":
        found = parse_json(data, what)
        given = found["parts"] if isinstance(found, dict) and "parts" in found else {WHOLE: found}
    elif trust:
        given = _vec_normalize(path)
    else:
        raise GraftError(
            f"{path} is not read for statistics; give a .npz or .json file with mean and var. A pickle of VecNormalize "
            f"needs --trust."
        )
    if not isinstance(given, dict) or not given:
        raise GraftError(f"{path} holds no statistics.")
    return {part: _parsed(values, what) for part, values in given.items()}


def _vec_normalize(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise GraftError(f"There is no file {path}.")
    trusted = read_trusted("vec_normalize", path)
    given: dict[str, Any] = {}
    for name, tensor in trusted.tensors.items():
        part, _, key = name.rpartition("/")
        given.setdefault(part, {key_: trusted.said[key_] for key_ in ("clip", "epsilon")})[key] = (
            tensor.double().numpy()
        )
    return given


def _parsed(values: Any, what: str) -> Statistics:
    if not isinstance(values, Mapping) or not {"mean", "var"} <= values.keys():
        raise GraftError(f"{what} lacks 'mean' or 'var' of the observations.")
    if strange := sorted(values.keys() - {"mean", "var", "clip", "epsilon"}):
        raise GraftError(f"{what} has {strange[0]!r}; allowed: mean, var, clip, epsilon.")
    try:
        mean, var = (torch.from_numpy(np.asarray(values[key], np.float64).reshape(-1)) for key in ("mean", "var"))
        clip, epsilon = values.get("clip", CLIP), float(values.get("epsilon", EPSILON))
        limit = float("inf") if clip is None else float(clip)
    except (TypeError, ValueError, OverflowError) as error:
        raise GraftError(f"{what} holds something else than numbers ({error}).") from error
    if not (mean.isfinite().all() and var.isfinite().all() and (var >= 0).all() and limit > 0 and epsilon >= 0):
        raise GraftError(f"{what} has a number that is not finite, a negative 'var' or 'epsilon', or a 'clip' of 0.")
    return Statistics(mean, (var + epsilon).sqrt(), limit, ("mean", "var"))
