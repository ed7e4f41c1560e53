"""Task, the vector environment of a task, and the base class of adapters, which make them."""

from __future__ import annotations

import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from graft.envs.core.faults import Faults
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.envs.core.teams import TeamEnv
from graft.errors import GraftError


@dataclass(frozen=True)
class Task:
    """One environment with its keyword arguments: ``Task("Graft/Gather-v0", {"slip": 0.3})``."""

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Short and unique within an experiment: ``Gather(slip=0.3)``."""
        name = self.id.removeprefix("Graft/").removesuffix("-v0")
        options = ", ".join(f"{k}={_short(v)}" for k, v in sorted(self.kwargs.items()))
        return f"{name}({options})" if options else name

    def __hash__(self) -> int:
        return hash((self.id, tuple(sorted(self.kwargs))))  # values may be lists; equal tasks have equal names

    def to_json(self) -> dict[str, Any]:
        """``{"id": ..., "kwargs": {...}}`` with sorted keys."""
        return {"id": self.id, "kwargs": dict(sorted(self.kwargs.items()))}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Task:
        return cls(data["id"], dict(data.get("kwargs", {})))


LONGEST = 60  # characters of a mapping that `Task.__str__` shows; longer ones have a checksum instead


def _short(value: Any) -> str:
    """A keyword argument's value as text; tasks within it have their own short names."""
    if isinstance(value, list | tuple) and value and all(isinstance(part, str) for part in value):
        return "+".join(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    if isinstance(value, dict) and "id" not in value and len(str(value)) > LONGEST:  # such as names
        return f"{zlib.crc32(json.dumps(value, sort_keys=True, default=str).encode()):08x}"
    is_task = isinstance(value, dict) and isinstance(value.get("id"), str) and isinstance(value.get("kwargs", {}), dict)
    return str(Task.from_json(value)) if is_task else str(value)


AVERAGED = "mean of the bounds of its tasks"  # `Bounds.how` of a mixture


class Bounds(NamedTuple):
    """Mean episode returns that a task's scores are normalised by: 0 = random policy, 1 = expert."""

    random: float
    expert: float
    how: str

    def normalise(self, value: float) -> float:
        """Score of a mean episode return; not clipped."""
        return (value - self.random) / (self.expert - self.random)


class Groups(NamedTuple):
    """Parts of a batch whose returns are reported apart, such as the tasks of a mixture."""

    names: tuple[str, ...]
    of_row: NDArray[np.int64]  # the index of each environment's part, (N,)
    scales: tuple[Bounds | None, ...]


class TaskVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """A Gymnasium vector environment that carries its schemas.

    ``metadata["autoreset_mode"]`` says which convention it follows. Under same-step autoreset, ``infos`` of a step
    in which environments ended holds ``final_obs``, an array (num_envs, *obs_shape) whose rows are valid where the
    boolean mask ``_final_obs`` (num_envs,) is set. ``terminated`` and ``truncated`` are never both set: what terminates
    in the last step of its time limit has terminated. Arrays that a step returns are the caller's to keep.

    ``reset()`` without a seed uses the seed given to `envs.make` the first time and goes on with the running random
    numbers after that; ``options={"reset_mask": (N,) bool}`` resets only those environments, where rows are games of
    their own. ``groups`` names the parts of a batch that has several. ``step_limit`` is the most steps of an episode;
    None where it is not known.

    Where ``dead_rows`` is set, rows can be out of play, such as agents that died: ``infos["alive"]`` (N,) of every
    reset and step says which of the observations that it returns are of rows in play. Where rows share a game,
    ``infos["over"]`` (N,) of every step says whose game it ended, also of rows that are out of play.
    """

    observation_schema: ObservationSchema
    action_schema: ActionSchema
    groups: Groups | None = None
    dead_rows: bool = False
    step_limit: int | None = None

    @property
    def schemas(self) -> Schemas:
        return Schemas(self.observation_schema, self.action_schema)

    @property
    def faults(self) -> Faults:
        """How often its environments failed and were restarted: third-party ones alone can."""
        return Faults()

    @property
    def savable(self) -> bool:
        """Whether `save_state` and `restore_state` work, as those of the built-in games do."""
        return False

    def save_state(self) -> dict[str, NDArray[Any]]:
        """Copies of everything that the future of the batch depends on."""
        raise NotImplementedError

    def restore_state(self, saved: dict[str, NDArray[Any]]) -> None:
        """Go back to a state of `save_state`, of a batch of the same tasks and size."""
        raise NotImplementedError

    def _set_schemas(self, num_envs: int, observation: ObservationSchema, action: ActionSchema) -> None:
        """Set the size, the schemas, and the spaces that follow from them."""
        self.num_envs, self.observation_schema, self.action_schema = num_envs, observation, action
        self.single_observation_space, self.single_action_space = observation.space(), action.space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)


def check_autoreset(mode: AutoresetMode | str) -> AutoresetMode:
    """``mode`` itself; raises GraftError for disabled autoreset."""
    mode = AutoresetMode(mode)
    if mode is AutoresetMode.DISABLED:
        raise GraftError("autoreset_mode 'Disabled' is not offered; allowed: 'SameStep', 'NextStep'.")
    return mode


class BatchOptions(NamedTuple):
    """How a batch is made: arguments of `envs.make`, and where pictures have their channels, as the user says."""

    num_envs: int
    seed: int
    autoreset: AutoresetMode = AutoresetMode.SAME_STEP
    max_threads: int = 1
    workers: int = 1
    channels: Any = None


class Adapter(ABC):
    """Makes the tasks whose ids start with ``prefix``, or one of ``prefixes``; the longest matching prefix wins.

    Attributes:
        renders: whether batches can be rendered: then ``render_mode`` is a keyword of the task.
        has_teams: whether its tasks are games of several teams, which `make_teams` makes.
        takes_wrappers: whether ``wrappers`` is a keyword of its tasks.
        reads_channels: whether pictures may have their channels first or last, as `BatchOptions` say.
        own_planes: whether its tasks see to the keyword ``channels`` themselves; else `envs.make` does.
    """

    prefix: str
    renders = has_teams = reads_channels = takes_wrappers = own_planes = False

    @property
    def prefixes(self) -> tuple[str, ...]:
        return (self.prefix,)

    def ids(self) -> Iterable[str]:
        """Full ids that can be made on this machine, for the nearest-name hint."""
        return self.prefixes

    @abstractmethod
    def make(self, task: Task, options: BatchOptions) -> TaskVectorEnv:
        """The batch; raises GraftError for an unknown id or keyword, or a package that is not installed."""

    def make_teams(self, task: Task, options: BatchOptions) -> TeamEnv:
        """Games with the agents of all teams; raises GraftError as `make`."""
        raise NotImplementedError

    def modules(self, task: Task) -> tuple[str, ...]:
        """Names of the modules that environments are from, where they aren't Graft's; raises GraftError as `make`."""
        return ()

    def part_modules(self, task: Task) -> tuple[str, ...]:
        """Names of the modules of views and wrappers of one's own that the task has; raises GraftError as `make`."""
        return ()

    def bounds(self, task: Task) -> Bounds | None:
        """Registered scores of the task, or None."""
        return None

    def states(self) -> dict[str, str]:
        """Of each part: "ready", or a sentence with the line that installs it; imports nothing."""
        return {}

    def counts(self) -> dict[str, int]:
        """How many ids each part has, `ids` for the only one; may import those that are ready."""
        return dict.fromkeys(self.states(), len(list(self.ids())))
