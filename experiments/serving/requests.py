"""What clients send: JSON with an array for each input of the model."""

from __future__ import annotations

import gc
import json
from itertools import chain
from typing import Any

import numpy as np

from graft.agents.export.ports import MASKS, Arrays, Port
from graft.agents.parity import Array, choices
from graft.agents.serving.model import Model
from graft.errors import GraftError, unknown
from graft.experiments.serving.batcher import ROWS


def read_request(text: bytes | str, model: Model) -> Arrays:
    """The inputs of a request, each (N, *shape) in its dtype; raises GraftError that says what is wrong."""
    collecting = gc.isenabled()
    gc.disable()  # JSON has no cycles, and a message of 300,000 lists took twenty times as long with collections
    try:
        return _read(text, model)
    finally:
        if collecting:
            gc.enable()


def _read(text: bytes | str, model: Model) -> Arrays:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GraftError(f"The message is no JSON ({str(error) or type(error).__name__}).") from None
    names = [port.name for port in model.ports]
    if not isinstance(given, dict):
        raise GraftError(f"The message is a JSON {type(given).__name__}; an object with {', '.join(names)} is needed.")
    for name in given:
        if name not in names:
            raise unknown("input", name[:80], names)
    if lacking := [name for name in names if name not in given]:
        raise GraftError(f"The message lacks {', '.join(lacking)}; an object with {', '.join(names)} is needed.")
    inputs = {port.name: _array(port, given[port.name]) for port in model.ports}
    rows = {name: len(values) for name, values in inputs.items()}
    if len(set(rows.values())) > 1:
        raise GraftError(f"The inputs have {rows} rows; as many of each are needed.")
    if MASKS in inputs and not all(part.any(1).all() for part in choices(inputs[MASKS], model.schemas.action)):
        raise GraftError(f"A row of {MASKS} allows no action; at least one of each choice has to be 1.")
    return inputs


def _array(port: Port, given: Any) -> Array:
    flat = _flat(port, given)
    if not {type(value) for value in flat} <= {int, float, bool}:
        raise GraftError(f"'{port.name}' holds something else than numbers; {_needed(port)}.")
    values = np.array(flat).reshape(-1, *port.shape)
    if values.dtype.kind not in "biuf":
        raise GraftError(f"'{port.name}' holds a number that is too large; {_needed(port)}.")
    with np.errstate(all="ignore"):  # what does not fit is found below
        found: Array = values.astype(port.dtype)
    same = np.isfinite(found) if found.dtype.kind == "f" else found == values
    if port.name == MASKS:
        same = (found == 0) | (found == 1)
    if not same.all():
        place = [int(i) for i in np.argwhere(~same)[0]]
        allowed = "0 or 1" if port.name == MASKS else f"a finite number of {port.dtype}"
        raise GraftError(f"'{port.name}'{place} is {values[tuple(place)]}; {allowed} is needed.")
    return found


def _flat(port: Port, given: Any) -> list[Any]:
    """What lists of ``port``'s shape hold, one after the other.

    Lengths are compared before numpy sees anything: it takes as much memory for each of many texts as for the longest,
    and long for many empty lists.
    """
    if isinstance(given, list) and len(given) > ROWS:
        raise GraftError(f"'{port.name}' has {len(given)} rows; from 1 to {ROWS} are allowed.")
    level, shape = [given], list[int]()
    for size in (None, *port.shape):
        lengths = {len(part) if isinstance(part, list) else None for part in level}
        if len(lengths) > 1:
            raise GraftError(f"'{port.name}' has rows of different lengths; {_needed(port)}.")
        found = lengths.pop()
        shape += [] if found is None else [found]
        if not found or size not in (None, found):
            raise GraftError(f"'{port.name}' has the shape {shape}; {_needed(port)}.")
        level = list(chain.from_iterable(level))
    return level


def _needed(port: Port) -> str:
    return f"an array of numbers of shape {['N', *port.shape]} is needed".replace("'", "")
