"""Settings small enough to take every transfer method through its lifecycle in a moment."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig
from graft.agents.sb3 import ALGORITHMS
from graft.envs.core.task import Task
from graft.experiments.contracts.lifecycle import (
    CheckedSession,
    Setting,
    TransferRun,
    batch_of,
    build,
    consolidated,
    first,
    held,
    masked,
    ones,
    rollouts_of,
    run_transfer,
    shrunk,
)
from graft.transfer.method import METHODS, FromSource, TransferMethod, label, parse_method
from graft.transfer.methods.chain import Chain
from support.tiny_tasks import REACH, NormEncoder, small_ppo

__all__ = [
    "CheckedSession",
    "Setting",
    "TransferRun",
    "batch_of",
    "build",
    "consolidated",
    "first",
    "held",
    "masked",
    "ones",
    "rollouts_of",
    "run_transfer",
    "shrunk",
]

CHAINS = (
    [],
    ["ewc", {"replay": {"batch": 8}}],
    [{"packnet": {"retrain": 8}}, {"finetune": {"layer_decay": 0.5}}],
    [{"lora": {"rank": 2}}, {"finetune": {"layer_decay": 0.5}}],
    [{"frozen": {"depth": 1}}, {"replay": {"batch": 8}}],
)
"""Members of chains."""

MATCH = Task("tiny/Match-v0", {"names": ["a", "b", "c", "d"]})
OTHER = Task("tiny/Match-v0", {"names": ["d", "new", "a", "b"]})
NORM, MLP = NetworkConfig("norm", {"width": 8}, (8,)), NetworkConfig("mlp", {"widths": [8, 8]}, (8,))
MANY, FEW, STATES = 16, 8, 256
ROLLOUT = 64
"""Env steps of PPO between two calls of the schedule."""
REPLAY = {"num_envs": 8, "buffer": 256, "batch": 16, "learning_starts": 32, "gradient_steps": 1}
TRANSPLANT = {option.name for option in fields(FromSource)}


PPO = small_ppo(num_steps=ROLLOUT // 8)
SETTINGS = {
    "ppo": Setting((MATCH, OTHER), PPO, NORM),
    "mlp": Setting((MATCH, OTHER), PPO, MLP),
    "same": Setting((MATCH, MATCH, MATCH), PPO, NORM),
    "dqn": Setting((MATCH, OTHER), ALGORITHMS["dqn"](**REPLAY, target_update=32), NORM, 96),
    "sac": Setting((REACH, REACH), ALGORITHMS["sac"](**REPLAY, critic=(8,)), NORM, 96),
}


def register_norm_encoder(monkeypatch: Any) -> None:
    """Make the encoder with running statistics known."""
    list(ENCODERS)  # loads the others
    monkeypatch.setitem(ENCODERS._entries, "norm", NormEncoder)


def choices(annotation: Any, default: Any) -> tuple[Any, ...]:
    """What to try of an option beside its default: words and flags, and a half of a share that is 0 or 1."""
    if annotation is bool:
        return (not default,)
    if get_origin(annotation) is Literal:
        return tuple(word for word in get_args(annotation) if word != default)
    if get_args(annotation)[:1] == (float,) and default in (0.0, 1.0):
        bounds = [bound for info in get_args(annotation)[1:] for bound in getattr(info, "metadata", ())]
        return (0.5,) if any(1 in (getattr(bound, end, None) for end in ("le", "lt")) for bound in bounds) else ()
    return tuple(value for part in get_args(annotation) for value in choices(part, default))


def varied(kind: type[TransferMethod], own: bool) -> list[TransferMethod]:
    """A method with one option changed at a time; ``own``: only of those that set it apart."""
    hints, found = get_type_hints(kind, include_extras=True), []
    for option in fields(kind):
        common = option.name in TRANSPLANT or option.name not in inspect.get_annotations(kind)
        if option.default is MISSING or (own and common) or option.name == "strict":  # the tasks differ
            continue
        found += [kind(**{option.name: value}) for value in choices(hints[option.name], option.default)]
    return found


def quick(method: TransferMethod) -> TransferMethod:
    """The same where every whole number above 16 is 8, so that what is rare happens, and what is long is short.

    It asks for no more than 256 states.
    """
    numbers = {option.name: getattr(method, option.name) for option in fields(method)}
    made = replace(method, **{n: FEW for n, value in numbers.items() if type(value) is int and value > MANY})
    object.__setattr__(made, "states", min(made.states, STATES))
    return made


def variants() -> list[TransferMethod]:
    """Every method with its defaults, and with each choice that any of its options offers."""
    return [method for _, kind in METHODS.items() for method in (kind(), *varied(kind, own=False))]


def cases() -> list[TransferMethod]:
    """Every method with its defaults, its own choices, and heads shared where it can; and some chains. All `quick`."""
    found = [method for _, kind in METHODS.items() for method in (kind(), *varied(kind, own=True))]
    found += [kind().with_shared_heads() for _, kind in METHODS.items() if issubclass(kind, FromSource)]
    found += [parse_method({"chain": members}) for members in CHAINS]
    return list({label(method): method for method in map(quick, found)}.values())


def slow_but_for_kinds(methods: list[TransferMethod]) -> list[Any]:
    """Parameters of a test: every method with its defaults and one chain; the rest are slow tests."""
    soon = [label(method) for method in of_each_kind(methods)] + [label(m) for m in methods if isinstance(m, Chain)][
        1:2
    ]
    return [pytest.param(m, marks=() if label(m) in soon else pytest.mark.slow, id=label(m)) for m in methods]


def of_each_kind(methods: list[TransferMethod]) -> list[TransferMethod]:
    """The first of each class: of `cases` and `variants`, with its defaults."""
    return list({type(method): method for method in reversed(methods)}.values())[::-1]


_SOURCES: dict[tuple[str, str], Checkpoint] = {}
_RUNS: dict[tuple[str, str], TransferRun] = {}


def source_of(method: TransferMethod, name: str) -> Checkpoint | None:
    """`first` in the setting of this name, made once; None for methods without a source."""
    key = label(method), name
    if method.uses_source and key not in _SOURCES:
        _SOURCES[key] = first(method, SETTINGS[name])
    return _SOURCES.get(key)


def cached_run(method: TransferMethod, name: str) -> TransferRun:
    """`run_transfer` in the setting of this name, done once: look at it, and leave it as it is."""
    key = label(method), name
    if key not in _RUNS:
        _RUNS[key] = run_transfer(method, SETTINGS[name], source_of(method, name))
    return _RUNS[key]
