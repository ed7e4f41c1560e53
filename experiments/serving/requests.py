"""What clients send: JSON with an array for each input of the model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from graft.agents.export.ports import MASKS, Arrays, Port
from graft.agents.parity import Array, choices
from graft.agents.serving.model import Model
from graft.errors import GraftError, unknown
from graft.experiments.serving.batcher import ROWS


def read_request(text: bytes | str, model: Model) -> Arrays:
    """The inputs of a request, each (N, *shape) in its dtype; raises GraftError that says what is wrong."""
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
    if len(set(rows.values())) > 1 or not 1 <= rows[names[0]] <= ROWS:
        raise GraftError(f"The inputs have {rows} rows; as many of each are needed, from 1 to {ROWS}.")
    if MASKS in inputs and not all(part.any(1).all() for part in choices(inputs[MASKS], model.schemas.action)):
        raise GraftError(f"A row of {MASKS} allows no action; at least one of each choice has to be 1.")
    return inputs


def _array(port: Port, given: Any) -> Array:
    try:
        values = np.array(given)
    except ValueError:
        raise GraftError(f"'{port.name}' has rows of different lengths; {_needed(port)}.") from None
    if values.dtype.kind not in "biuf":
        raise GraftError(f"'{port.name}' holds something else than numbers; {_needed(port)}.")
    if values.shape[1:] != port.shape or not values.ndim:
        raise GraftError(f"'{port.name}' has the shape {list(values.shape)}; {_needed(port)}.")
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


def _needed(port: Port) -> str:
    return f"an array of numbers of shape {['N', *port.shape]} is needed".replace("'", "")
