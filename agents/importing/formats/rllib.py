"""Checkpoints of RLlib's new stack: PPO with fully connected networks; pickles, so only with ``--trust``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from graft.agents.importing.files import LARGEST_TEXT, parse_json, read_bytes
from graft.agents.importing.foreign import ForeignPolicy, Units, read_layers
from graft.agents.importing.source import FORMATS, Format, Request
from graft.agents.importing.trusted import read_trusted
from graft.agents.networks.activation import Activation
from graft.errors import GraftError, unknown

MODULES = ("learner_group/learner/rl_module/default_policy", "rl_module/default_policy", "default_policy", ".")
"""Where a checkpoint has the module, which may be given itself."""

STATE = "module_state.pkl"


@FORMATS.register("rllib")
class RLlib(Format):
    """The folder that ``algorithm.save`` wrote, or that of a module in it.

    ``--names`` may hold ``module`` and ``units``.
    """

    def fits(self, request: Request) -> bool:
        return request.path.is_dir()

    def read(self, request: Request) -> ForeignPolicy:
        for key in request.names:
            if key not in ("module", "units"):
                raise unknown("key of --names for RLlib", str(key), ("module", "units"))
        module = _module(request)
        if not request.trust:
            raise GraftError(
                f"{module / STATE} is a pickle, which can run any code; if you trust where it is from, --trust lets "
                f"RLlib read it in a process without network."
            )
        about = parse_json(read_bytes(module / "metadata.json", LARGEST_TEXT), "metadata.json")
        trusted = read_trusted("rllib", module)
        version = about.get("ray_version") if isinstance(about, dict) else None
        origin = {"library": "rllib", "version": version, "algorithm": "PPO", "protection": trusted.protection}
        return _policy(trusted.tensors, trusted.said, request, origin)


def _module(request: Request) -> Path:
    """Folder of the module; raises GraftError where there is none."""
    named = request.names.get("module")
    places = MODULES if named is None else [m.replace("default_policy", str(named)) for m in MODULES[:3]]
    root = request.path.resolve()
    for place in places:
        folder = (root / place).resolve()
        if (folder / STATE).is_file() and folder.is_relative_to(root):
            return folder
    raise GraftError(f"{request.path} is no checkpoint of RLlib's new stack: it has no {places[0]}/{STATE}.")


def _policy(
    tensors: Mapping[str, Tensor], said: Mapping[str, Any], request: Request, origin: Mapping[str, Any]
) -> ForeignPolicy:
    if not any(name.startswith("pi.") for name in tensors):
        raise GraftError(f"The module is not PPO's; its tensors are {', '.join(list(tensors)[:8])} ...")
    activation, head = (_activation(said, request, key) for key in ("fcnet_activation", "head_fcnet_activation"))
    actions = request.schemas.action
    shared, own = _places(tensors, "encoder.encoder.net.mlp"), _places(tensors, "encoder.actor_encoder.net.mlp")
    critic = _places(tensors, "encoder.critic_encoder.net.mlp")
    policy = read_layers(tensors, own, activation, last=True) + read_layers(
        tensors, _places(tensors, "pi.net.mlp"), head
    )
    value = read_layers(tensors, critic, activation, last=True) + read_layers(
        tensors, _places(tensors, "vf.net.mlp"), head
    )
    found: dict[str, Any] = {"unused": {}, "made": {}}
    free = next((name for name in tensors if name.startswith("pi.") and name.endswith("log_std")), None)
    last = policy[-1]
    if actions.kind == "box":
        count = len(actions.names)
        if free is not None:
            found["log_std"] = (free, tensors[free].flatten())
        elif last.outputs == 2 * count:
            # The second half of the rows: deviations that depend on the state, of which their biases are kept.
            policy = (*policy[:-1], last._replace(weight=last.weight[:count], bias=last.bias[:count]))
            found["log_std"] = (f"{last.names[1]} (second half)", last.bias[count:])
            found["unused"][f"{last.names[0]} (second half)"] = "deviations that depend on the state; biases are kept"
    used = {name for layer in (*policy, *value) for name in layer.names} | {free}
    trunk = read_layers(tensors, shared, activation, last=True)
    used |= {name for layer in trunk for name in layer.names}
    left = [name for name in tensors if name not in used]
    if strange := [name for name in left if not name.endswith("log_std_clip_param_const")]:
        raise GraftError(f"The module has tensors that are not read, beginning with {strange[0]!r}.")
    found["unused"] |= dict.fromkeys(left, "a bound of deviations, for training")
    return ForeignPolicy(
        kind="gaussian" if actions.kind == "box" else "categorical",
        policy=policy,
        value=value,
        trunk=trunk,
        units=_units(request),
        origin=origin,
        **found,
    )


def _units(request: Request) -> Units:
    """RLlib plays -1 to 1 unless its configuration has ``normalize_actions=False``."""
    units = request.names.get("units", "scaled")
    if units not in get_args(Units):
        raise unknown("units", str(units), get_args(Units))
    chosen: Units = units
    return chosen


def _activation(said: Mapping[str, Any], request: Request, key: str) -> Activation:
    if request.activation is not None:
        return request.activation
    default = "tanh" if key == "fcnet_activation" else "relu"
    named = {"swish": "silu"}.get(str(said.get(key, default)), str(said.get(key, default)))
    if named not in get_args(Activation):
        raise unknown("activation", named, get_args(Activation))
    chosen: Activation = named  # type: ignore[assignment]
    return chosen


def _places(tensors: Mapping[str, Tensor], place: str) -> list[str]:
    pattern = re.compile(re.escape(place) + r"\.(\d+)\.weight")
    numbers = sorted(int(match[1]) for name in tensors if (match := pattern.fullmatch(name)))
    return [f"{place}.{number}" for number in numbers]
