"""Which contracts a part of one's own has to keep, and running them one by one."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from graft import envs
from graft.agents.networks.encoder import ENCODERS
from graft.agents.networks.policy_network import NetworkConfig, build_network
from graft.agents.sb3 import ALGORITHMS, architecture_for
from graft.agents.training import algorithm as training
from graft.agents.training.backend import Evaluation, Hooks, TrainJob
from graft.envs.builtin.engine.view import VIEWS
from graft.envs.core.options import build_options
from graft.envs.core.parts import Kind, import_part
from graft.envs.core.task import Task
from graft.errors import GraftError
from graft.experiments.config.backends import BACKENDS
from graft.experiments.contracts import algorithms, encoders, methods, views, wrappers
from graft.experiments.contracts.basics import Broken
from graft.experiments.contracts.lifecycle import Setting, first, run_transfer
from graft.transfer.method import METHODS, TransferMethod, parse_method

Check = tuple[str, Callable[[], object]]
"""What is checked, in words, and the check, which raises Broken or anything else where it is not kept."""

ROLLOUT = 64
SMALL = {"num_envs": 8, "num_steps": ROLLOUT // 8, "minibatch": 32, "epochs": 2}
"""Options of small trainings, of those that an algorithm has."""
SMALL_REPLAY = {"num_envs": 8, "buffer": 256, "batch": 16, "learning_starts": 32, "gradient_steps": 1}
SOURCE = Task("Graft/Dodge-v0", {"view": "features"})
BOARD = "Graft/Gather-v0"
EVALUATION = Evaluation(every=200, episodes=8, num_envs=8)


def check(name: str, options: Mapping[str, Any], env: str, say: Callable[[str], object]) -> int:
    """Run the contracts of the part ``module:Name``, and say of each whether it is kept; returns how many are not.

    Args:
        options: of the part. env: id of what a wrapper is tried on. say: gets a line of text for each contract.
    Raises:
        GraftError: there is no such part, it is of no kind that Graft has, or its options are not allowed.
    """
    kind = kind_of(name)
    say(f"{name} is {'an' if kind[0] in 'ae' else 'a'} {kind}")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for words, run in _checks(kind, name, options, env, Path(folder)):
            error = _outcome(run, getattr(import_module(name.partition(":")[0]), "__file__", None))
            failed += error is not None
            say(f"ok      {words}" if error is None else f"failed  {words}\n        {error}")
    say(f"{failed} of its contracts are not kept" if failed else "all of its contracts are kept")
    return failed


def kind_of(name: str) -> str:
    """``method``, ``encoder``, ``view``, ``algorithm`` or ``wrapper``; raises GraftError where it is none."""
    part = import_part(name, Kind("part", object, instances=True))
    kinds = {registry.kind: registry.part_kind for registry in (METHODS, ENCODERS, VIEWS)}
    kinds |= {"wrapper": Kind("wrapper", gym.Wrapper), "algorithm": Kind("algorithm", training.Algorithm)}
    found = next((kind for kind, base in kinds.items() if base.has(part)), None)
    if found is None:
        bases = "; ".join(f"{kind}: it {base.must}" for kind, base in kinds.items())
        raise GraftError(f"'{name}' is no part that Graft knows. {bases}.")
    return found


def _outcome(run: Callable[[], object], file: str | None) -> str | None:
    """Why a contract is not kept, as one sentence, which names the last line of ``file``; None where it is."""
    try:
        run()
    except Broken as error:
        return f"{error}."
    except GraftError as error:
        return str(error)
    except Exception as error:  # whatever the code of a user's part raises
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == file] or frames
        text = " ".join(str(error).split()) or "no text"
        return f"{type(error).__name__} in {Path(own[-1].filename).name}, line {own[-1].lineno}: {text}."
    return None


def _checks(kind: str, name: str, options: Mapping[str, Any], env: str, folder: Path) -> Iterator[Check]:
    if kind == "method":
        yield from _of_method(parse_method({name: dict(options)}), folder)
    elif kind == "encoder":
        cases: list[encoders.Case] = []
        yield _words(encoders.cases), lambda: cases.extend(encoders.cases(name, dict(options)))
        for case in cases:
            yield from ((f"{_words(c)} ({case.schema.kind})", partial(c, case)) for c in encoders.CONTRACTS)
    elif kind == "view":
        yield from _of_view(name)
    elif kind == "wrapper":
        wrapper = import_part(name, Kind("wrapper", gym.Wrapper))
        wrapped = wrappers.Case(name, dict(options), env, lambda: wrapper(gym.make(env), **options))
        yield from ((_words(c), partial(c, wrapped)) for c in wrappers.CONTRACTS)
    else:
        yield from _of_algorithm(name, options)


def _words(contract: Callable[..., object]) -> str:
    """The first line of a contract's docstring."""
    return str(contract.__doc__).strip().splitlines()[0].rstrip(".")


def _of_method(method: TransferMethod, folder: Path) -> Iterator[Check]:
    config = NetworkConfig("mlp", {"widths": [8, 8]}, (8,))
    changed = Task(SOURCE.id, {**SOURCE.kwargs, **_renamed()})
    setting = Setting((SOURCE, changed), ALGORITHMS["ppo"](**SMALL), config, 3 * ROLLOUT)
    sources: list[Any] = []
    yield _words(methods.options_are_data), partial(methods.options_are_data, method)
    yield (
        "The end of a task is consolidated",
        lambda: sources.append(first(method, setting) if method.uses_source else None),
    )
    if not sources:
        return
    source = sources[0]
    yield from ((_words(c), partial(c, method, setting, source)) for c in methods.CONTRACTS)
    run: list[Any] = []

    def trained() -> None:
        run.append(run_transfer(method, setting, source))
        methods.what_it_froze_stays(run[0], "policy", "value")

    yield _words(methods.what_it_froze_stays), trained
    if run:
        kept, again = methods.it_goes_through_a_checkpoint, methods.a_stopped_training_ends_as_one_that_ran_through
        yield _words(kept), partial(kept, run[0], setting, folder / "checkpoint")
        yield _words(again), partial(again, method, setting, source, run[0], folder / "stopped", ROLLOUT)


def _renamed() -> dict[str, Any]:
    """A keyword that gives two features of the source other names."""
    first_names = envs.schemas(SOURCE).observation.names[:2]
    return {"schema": {"observation": dict(zip(first_names, ("new", "newer"), strict=True))}}


def _of_view(name: str) -> Iterator[Check]:
    shows = views.the_view_shows_what_happens
    yield _words(shows), partial(shows, Task(BOARD, {"view": name}))
    for game in (BOARD, SOURCE.id):
        task = Task(game, {"view": name})
        for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
            legal = views.play_is_legal_reproducible_and_savable
            yield f"{_words(legal)} ({game}, autoreset {mode.value})", partial(legal, task, 3, mode, 250)


def _of_algorithm(name: str, options: Mapping[str, Any]) -> Iterator[Check]:
    by, kind = _backend_of(name)
    defaults = {**SMALL, **SMALL_REPLAY}
    allowed = {key: value for key, value in defaults.items() if key in kind.__dataclass_fields__}
    made: Any = build_options(f"algorithm {name}", kind, {**allowed, **options})
    task = next((t for t in (Task("CartPole-v1"), Task("Pendulum-v1")) if _can_play(made, t)), Task("CartPole-v1"))
    backend: Any = import_module(BACKENDS[by].package)

    def fresh() -> Any:
        architecture = architecture_for(made, NetworkConfig("mlp", {"widths": [16, 16]}, (8,)))
        return build_network(envs.schemas(task), architecture, 0)

    def train(**given: Any) -> Any:
        network, records = given.get("network") or fresh(), []
        plan = given.get("evaluation", EVALUATION)
        job = TrainJob(
            network,
            task,
            made,
            3 * ROLLOUT,
            given.get("seed", 0),
            lambda steps, values: records.append((steps, dict(values))),
            plan,
            given.get("hooks", Hooks()),
            "cpu",
        )
        return SimpleNamespace(network=network, result=backend.train(job), records=records)

    yield from ((_words(c), partial(c, train, fresh)) for c in algorithms.CONTRACTS)


def _can_play(made: training.Algorithm, task: Task) -> bool:
    with suppress(GraftError):
        made.check(envs.schemas(task))
        return True
    return False


def _backend_of(name: str) -> tuple[str, Any]:
    """The backend whose base class the algorithm derives from; raises GraftError where it is none."""
    for by, entry in BACKENDS.items():
        registry = import_module(entry.package).ALGORITHMS
        part = import_part(name, Kind("algorithm", training.Algorithm))
        if registry.part_kind.has(part):
            return by, part
    bases = " or ".join(f"{entry.package}.algorithm.Algorithm" for entry in BACKENDS.values())
    raise GraftError(f"'{name}' is an algorithm of no backend; it must be a subclass of {bases}.")
