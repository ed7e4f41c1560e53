"""Games, mechanics, schemas and adapters. Import it to register the built-in games with Gymnasium.

Examples:
    >>> import envs
    >>> env = envs.make(envs.Task("Graft/Gather-v0", {"slip": 0.3}), num_envs=64, seed=0)
    >>> env.observation_schema.names
    ('player', 'wall', 'hazard', 'coin')
"""

from envs.adapters.builtin import register_with_gymnasium
from envs.errors import GraftError
from envs.factory import ADAPTERS, bounds, make, schemas
from envs.schema import ActionSchema, ObservationSchema, Schemas
from envs.task import Bounds, Task, TaskVectorEnv

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
