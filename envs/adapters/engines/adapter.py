"""Games of Unity and Godot: ``unity:5004`` (a port), ``unity:builds/Walker.x86_64`` (a build), ``godot:11008``.

The agents of a scene are the environments of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from pydantic import Field

from graft.envs.adapters.builtin.teams import check_same_step
from graft.envs.adapters.engines.bridge import Game, missing, python_of
from graft.envs.adapters.engines.process.protocol import ALIVE, TERMINATED, TRUNCATED
from graft.envs.adapters.images import COLOURS, channels_first
from graft.envs.adapters.packages import READY
from graft.envs.adapters.spaces import (
    ActionCodec,
    AdaptedVectorEnv,
    Array,
    ObservationCodec,
    action_codec,
    observation_codec,
)
from graft.envs.core.options import build_options
from graft.envs.core.schema import flag_names, masked
from graft.envs.core.task import Adapter, BatchOptions, Task, TaskVectorEnv
from graft.envs.factory import ADAPTERS
from graft.errors import GraftError


@dataclass(frozen=True)
class EngineOptions:
    """Keywords of a game.

    Attributes:
        behaviour: of Unity's agents, where a scene has several.
        speed: how many times as fast as real time the game runs; Godot takes it for builds only.
        timeout: seconds for which a game may be silent.
        arguments: more of a build's command line; for Godot as ``--name=value``.
        action_masks: whether Unity's masks of actions are kept (true) or left out (false).
    """

    behaviour: str = ""
    speed: Annotated[float, Field(gt=0)] = 20.0
    timeout: Annotated[float, Field(ge=10)] = 60.0
    arguments: tuple[str, ...] = ()
    action_masks: bool | None = None


class EngineVectorEnv(AdaptedVectorEnv):
    """The agents of one or several games; agents beyond the size of the batch get actions of zeros.

    Where somebody else has played a game since, such as an evaluation, its episodes are truncated at the last
    observation, and fresh ones begin.

    Args:
        games: closed with the batch. masks: whether forbidden actions are a part of what is seen; None where nobody
            says, which is an error where there are some.
    """

    def __init__(
        self, task: str, options: BatchOptions, games: Sequence[Game], masks: bool | None, unity: bool
    ) -> None:
        self._task, self._games, self._masks = task, games, masks
        self.dead_rows = unity and any(game.agents > 1 for game in games)  # a step waits for one that is alone
        about = games[0].about
        observation, action = _observation(task, about), _action(task, about)
        self._choices, self._width = sum(about["actions"].get("sizes", ())) if unity else 0, _width(about)
        if masks and self._choices:
            inner, count = observation, self._choices
            schema = masked(inner.schema, flag_names(action.schema))

            def encode(raw: Array) -> Array:
                seen = inner.encode(raw[:, :-count]).reshape(len(raw), -1)
                return np.concatenate([seen, raw[:, -count:]], 1, dtype=schema.dtype)

            observation = ObservationCodec(schema, encode)
        super().__init__(options, observation, action)
        self._raw: Array = np.zeros(0)
        self._alive: Array = np.zeros(self.num_envs, np.bool_)  # whose episodes run

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Fresh episodes of all agents; a seed does nothing, as engines take theirs when they start."""
        if options:
            raise GraftError(f"Games of engines take no reset options; got {', '.join(options)}.")
        for game in self._games:
            game.send({"do": "reset"})
        self._raw, _, _, flags = self._read([game.answer()[1] for game in self._games])
        return self._encode(self._raw), self._infos(flags)

    def _infos(self, flags: Array) -> dict[str, Any]:
        return {"alive": (flags & ALIVE) > 0} if self.dead_rows else {}

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        if len(actions) != self.num_envs:
            raise GraftError(
                f"Task '{self._task}' has {self.num_envs} rows, and takes an action of each; got {len(actions)}."
            )
        given = self._decode(np.asarray(actions)).reshape(self.num_envs, -1)
        agents = [game.agents for game in self._games]
        given = np.concatenate([given, np.zeros((sum(agents) - len(given), given.shape[1]), given.dtype)])
        kind = np.int32 if self.action_schema.kind != "box" else np.float32
        for game, own in zip(self._games, np.split(given.astype(kind), np.cumsum(agents)[:-1]), strict=True):
            game.send({"do": "step"}, own.tobytes())
        answers = [game.answer() for game in self._games]
        if any(said.get("taken") for said, _ in answers):
            last, ended = self._encode(self._raw), self._alive
            obs, infos = self.reset()
            none = np.zeros(self.num_envs, np.bool_)
            return obs, np.zeros(len(ended)), none, ended, {**infos, "final_obs": last, "_final_obs": ended}
        self._raw, final, rewards, flags = self._read([data for _, data in answers])
        terminated, truncated = (flags & TERMINATED) > 0, (flags & TRUNCATED) > 0
        infos, ended = self._infos(flags), terminated | truncated
        if ended.any():
            infos |= {"final_obs": self._encode(final), "_final_obs": ended}
        return self._encode(self._raw), rewards.astype(np.float64), terminated, truncated, infos

    def _read(self, answers: Sequence[bytes]) -> tuple[Array, Array, Array, Array]:
        """Observations, final ones, rewards and flags of the rows; raises GraftError where they are not finite."""
        parts: list[tuple[Array, ...]] = []
        for game, data in zip(self._games, answers, strict=True):
            count, width = game.agents, self._width
            cells, floats = count * width, np.frombuffer(data, np.float32, 2 * count * width + count)
            rest = np.frombuffer(data, np.uint8, offset=floats.nbytes)
            forbidden = rest[count:].reshape(count, -1)
            obs, final = floats[:cells].reshape(count, width), floats[cells : 2 * cells].reshape(count, width)
            if self._masks is None and forbidden.any():
                raise GraftError(
                    f"Task '{self._task}' forbids some actions; say whether masks are kept: "
                    f"kwargs: {{action_masks: true}} or false."
                )
            if self._masks and self._choices:
                obs, final = (np.concatenate([shown, forbidden], 1, dtype=np.float32) for shown in (obs, final))
            parts.append((obs, final, floats[2 * cells :], rest[:count]))
        obs, final, rewards, flags = (np.concatenate(part)[: self.num_envs].copy() for part in zip(*parts, strict=True))
        self._alive, ended = (flags & ALIVE) > 0, (flags & (TERMINATED | TRUNCATED)) > 0
        if not (np.isfinite(obs).all() and np.isfinite(rewards).all() and np.isfinite(final[ended]).all()):
            raise GraftError(f"Task '{self._task}' gave an observation or a reward that is not finite.")
        obs[~self._alive] = 0
        return obs, final, rewards, flags

    def close_extras(self, **kwargs: Any) -> None:
        for game in self._games:
            game.close()


def _width(about: Any) -> int:
    """Numbers of one agent's observation."""
    return len(about["features"]) + sum(int(math.prod(image["shape"])) for image in about["images"])


def _observation(task: str, about: Any) -> ObservationCodec:
    """The codec of raw observations (N, width): the game's numbers, then its images."""
    count, spaces, names, channels = len(about["features"]), dict[str, gym.Space[Any]](), {}, {}
    if count:
        spaces["vector"], names["vector"] = gym.spaces.Box(-np.inf, np.inf, (count,)), tuple(about["features"])
    for image in about["images"]:
        part, shape = image["name"].replace(".", "_"), tuple(image["shape"])
        high, kind = (255, np.uint8) if image["bytes"] else (1, np.float32)
        spaces[part] = gym.spaces.Box(image.get("low", 0), high, shape, kind)
        first = channels_first(shape) if image["channels"] is None else image["channels"] == "first"
        channels[part], depth = "first" if first else "last", shape[0 if first else -1]
        names[part] = COLOURS.get(depth) or tuple(f"channel_{i}" for i in range(depth))
    if list(spaces) == ["vector"]:
        return observation_codec(task, spaces["vector"], names["vector"])
    # In pairs: of a dictionary, the space would sort its parts.
    codec = observation_codec(task, gym.spaces.Dict(list(spaces.items())), names, channels)

    def encode(raw: Array) -> Array:
        found, start = {}, 0
        for name, space in spaces.items():
            shape = space.shape or ()
            part = raw[:, start : start + math.prod(shape)].reshape(len(raw), *shape)
            found[name], start = part.astype(space.dtype), start + math.prod(shape)
        return codec.encode(found)  # type: ignore[arg-type]

    return ObservationCodec(codec.schema, encode)


def _action(task: str, about: Any) -> ActionCodec:
    names, sizes = tuple(about["actions"]["names"]), about["actions"].get("sizes")
    if sizes is None:
        return action_codec(task, gym.spaces.Box(-1, 1, (len(names),)), names)
    if len(sizes) == 1:
        return action_codec(task, gym.spaces.Discrete(sizes[0]), tuple(f"{names[0]}={i}" for i in range(sizes[0])))
    return action_codec(task, gym.spaces.MultiDiscrete(sizes), names)


class EngineAdapter(Adapter):
    """``ENGINE:PORT`` and ``ENGINE:PATH``: see `EngineOptions` for the keywords."""

    def __init__(self, engine: str) -> None:
        self._engine, self.prefix = engine, f"{engine}:"

    def states(self) -> dict[str, str]:
        return {self._engine.capitalize(): missing(self._engine) if python_of(self._engine) is None else READY}

    def counts(self) -> dict[str, int]:
        return {}

    def make(self, task: Task, options: BatchOptions) -> TaskVectorEnv:
        target = task.id.removeprefix(self.prefix)
        given = build_options(f"task {task.id}", EngineOptions, task.kwargs)
        check_same_step(task, options.autoreset)
        if target.isdigit() and not 0 < int(target) < 2**16:
            raise GraftError(f"Task '{task.id}' names port {target}; ports are whole numbers from 1 to 65535.")
        if not target.isdigit() and not Path(target).exists():
            usual = f"{self.prefix}{PORTS[self._engine]}"
            raise GraftError(f"Task '{task.id}' names neither a port, such as {usual}, nor a build that is there.")
        games = [self._game(target, given, options.seed)]
        try:
            while (count := sum(game.agents for game in games)) < options.num_envs and not target.isdigit():
                games.append(self._game(target, given, options.seed + len(games)))
            options = options._replace(num_envs=min(count, options.num_envs))
            return EngineVectorEnv(task.id, options, games, given.action_masks, self._engine == "unity")
        except GraftError:
            for game in games:
                game.close()
            raise

    def _game(self, target: str, given: EngineOptions, seed: int) -> Game:
        return Game(self._engine, target, {**asdict(given), "seed": seed})


PORTS = {"unity": 5004, "godot": 11008}
"""Where the editors' play mode connects to, by default."""

for _engine in PORTS:
    ADAPTERS.add(_engine, EngineAdapter(_engine))
