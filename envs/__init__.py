"""Games, mechanics, schemas and adapters. Import it to register the built-in games with Gymnasium.

Examples:
    >>> from graft import envs
    >>> env = envs.make(envs.Task("Graft/Gather-v0", {"slip": 0.3}), num_envs=64, seed=0)
    >>> env.observation_schema.names
    ('is_self', 'is_solid', 'is_deadly', 'is_pickup', 'is_reward', 'is_outside')
"""

from graft.envs.adapters.builtin.games import register_with_gymnasium
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.envs.core.task import Bounds, Task, TaskVectorEnv
from graft.envs.factory import ADAPTERS, bounds, make, schemas
from graft.errors import GraftError

__all__ = [
    "ADAPTERS",
    "ActionSchema",
    "Bounds",
    "GraftError",
    "ObservationSchema",
    "Schemas",
    "Task",
    "TaskVectorEnv",
    "bounds",
    "make",
    "schemas",
]

register_with_gymnasium()
