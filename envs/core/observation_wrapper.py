"""Base class of what shows the observations of a batch in another form."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from graft.envs.core.faults import Faults
from graft.envs.core.schema import ObservationSchema
from graft.envs.core.task import TaskVectorEnv


class ObservationWrapper(TaskVectorEnv):
    """A batch whose observations are laid out as ``schema``: a subclass says how, in `_shown`."""

    def __init__(self, env: TaskVectorEnv, schema: ObservationSchema) -> None:
        self._env = env
        self.metadata, self.render_mode = env.metadata, env.render_mode
        self.groups, self.dead_rows, self.step_limit = env.groups, env.dead_rows, env.step_limit
        self._set_schemas(env.num_envs, schema, env.action_schema)

    def _shown(self, obs: Any) -> Any:
        """Observations (N, *shape) of the wrapped batch in the new form."""
        raise NotImplementedError

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, infos = self._env.reset(seed=seed, options=options)
        return self._shown(obs), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, rewards, terminated, truncated, infos = self._env.step(actions)
        if "final_obs" in infos:
            infos = {**infos, "final_obs": self._shown(infos["final_obs"])}
        return self._shown(obs), rewards, terminated, truncated, infos

    @property
    def faults(self) -> Faults:
        return self._env.faults

    def render(self) -> tuple[Any, ...] | None:
        return self._env.render()

    @property
    def savable(self) -> bool:
        return self._env.savable

    def save_state(self) -> dict[str, NDArray[Any]]:
        return self._env.save_state()

    def restore_state(self, saved: dict[str, NDArray[Any]]) -> None:
        self._env.restore_state(saved)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._env, name)

    def close_extras(self, **kwargs: Any) -> None:
        self._env.close(**kwargs)
