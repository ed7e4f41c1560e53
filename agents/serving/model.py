"""A policy that decides many states in one call of onnxruntime, which takes a fifth of torch's time and less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.export.contract import checked_model, digest
from graft.agents.export.formats.onnx import OnnxExporter, raw_interface
from graft.agents.export.onnx_file import runner, to_onnx
from graft.agents.export.parity import Run, check
from graft.agents.export.policy import SQUASHED, UNDRAWN
from graft.agents.export.ports import MASKS, Arrays, Port, allowed_actions, leaf_ports, leaves, mask_port, split_leaves
from graft.agents.export.recording import drawn, reference
from graft.agents.parity import Array, choices
from graft.envs.core.schema import ActionSchema, ObservationSchema, Schemas
from graft.errors import GraftError

STATES = 128  # in which a traced model is compared with its network

Agent = Checkpoint | Path | str
"""A checkpoint, its folder, or an ONNX file that ``graft export --to onnx`` wrote, with its contract beside it."""


class Decided(NamedTuple):
    """Actions as the environment takes them, (N,), (N, M) or (N, A), and which rows have finite outputs, (N,)."""

    actions: Array
    finite: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Model:
    """A policy that plays.

    Attributes:
        schemas: what it reads and plays.
        version: the checkpoint's id, or the sha256 of the ONNX file.
        sampling: how actions are drawn, as `score_ports` says it.
        run: inputs by name -> outputs by name.
    """

    schemas: Schemas
    version: str
    sampling: str
    run: Run

    @classmethod
    def of(cls, agent: Agent) -> Model:
        """Load an agent; raises GraftError where it is missing, altered, of another format, no ONNX can be made, or it
        does not play what the network plays.
        """
        if not isinstance(agent, Checkpoint) and Path(agent).suffix == ".onnx":
            return cls._of_file(Path(agent))
        checkpoint = agent if isinstance(agent, Checkpoint) else Checkpoint.load(agent)
        network, schemas = checkpoint.build().eval(), checkpoint.schemas
        interface = raw_interface(network)
        data = to_onnx(interface)
        run = runner(data)
        # The tracer takes one way through an encoder of one's own that branches, without an error.
        states = drawn(schemas.observation, STATES, np.random.default_rng(0))
        recording = reference(network, states, "drawn from the bounds of the schema")
        try:
            check(interface, run, recording, schemas.action, "The traced model")
        except GraftError as error:
            reason = str(error).partition(";")[0]
            raise GraftError(f"This agent cannot be played by onnxruntime. {reason}.") from error
        return cls(schemas, checkpoint.id or digest(data), interface.sampling, run)

    @classmethod
    def _of_file(cls, path: Path) -> Model:
        data, found = checked_model(path)
        if found["format"] != "onnx":
            raise GraftError(f"{path} is an export --to {found['format']}; give a checkpoint, or an export --to onnx.")
        observation, actions = (
            ObservationSchema.from_json(found["observation"]),
            ActionSchema.from_json(found["actions"]),
        )
        run = OnnxExporter().runner(data, found, str(path))
        return cls(Schemas(observation, actions), found["model"]["sha256"], found["sampling"], run)

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """The inputs."""
        seen, actions = self.schemas
        return leaf_ports(seen) + ((mask_port(actions),) if seen.flags else ())

    def inputs(self, obs: Array, masks: Array | None = None) -> Arrays:
        """Observations (N, *obs_shape) as the inputs; ``masks`` (N, A), 1 is allowed, replace those that they hold."""
        found = split_leaves(self.schemas.observation, obs)
        if self.schemas.observation.flags:
            found[MASKS] = allowed_actions(self.schemas, obs) if masks is None else masks.astype(np.float32)
        return found

    def fits(self, obs: Array, inputs: Arrays, masked: bool) -> NDArray[np.bool_]:
        """Which rows, (N,), the inputs hold as they were given: finite, whole where they are, an action allowed.

        Args:
            inputs: of ``obs``, see `inputs`.
            masked: whether their masks were given, not read from ``obs``.
        """
        found, flat, start = np.ones(len(obs), np.bool_), obs.reshape(len(obs), -1), 0
        for name in leaves(self.schemas.observation):
            values = inputs[name].reshape(len(obs), -1)
            given = flat[:, start : start + values.shape[1]]
            start += values.shape[1]
            if values.dtype.kind == "f":
                found &= np.isfinite(values).all(1)
            elif values.dtype != given.dtype:
                found &= (values == given).all(1)
        if masked:
            masks = inputs[MASKS]
            found &= ((masks == 0) | (masks == 1)).all(1)
            for part in choices(masks, self.schemas.action):
                found &= part.any(1)
        return found

    def decide(self, inputs: Mapping[str, Array], rng: np.random.Generator | None = None) -> Decided:
        """Greedy actions, or, with ``rng``, drawn ones; a policy of Q values is always greedy, see `check_drawn`."""
        found = self.run(inputs)
        greedy = found.pop("action")
        finite = np.all([np.isfinite(values).all(1) for values in found.values()], 0)
        return Decided(greedy if rng is None or "q_values" in found else self._drawn(found, rng), finite)

    def _drawn(self, found: Mapping[str, Array], rng: np.random.Generator) -> Array:
        actions = self.schemas.action
        if "logits" in found:
            logits = found["logits"]
            # The largest of logits - log(exponential noise) is distributed as their softmax; the noise is never 0.
            noise = np.maximum(rng.standard_exponential(logits.shape, np.float32), np.finfo(np.float32).tiny)
            chosen = [part.argmax(1) for part in choices(logits - np.log(noise), actions)]
            return np.stack(chosen, 1) if actions.sizes else chosen[0]
        mean, std = found["mean"], found["std"]
        low, high = np.array(actions.low, np.float32), np.array(actions.high, np.float32)
        drawn = mean + std * rng.standard_normal(mean.shape, np.float32)
        if self.sampling == SQUASHED:
            drawn = low + 0.5 * (np.tanh(drawn) + 1) * (high - low)
        clipped: Array = np.clip(drawn, low, high)
        return clipped

    def check_drawn(self) -> None:
        """Raise GraftError for a policy that has no distribution to draw from."""
        if self.sampling == UNDRAWN:
            raise GraftError(
                "This agent has Q values and no distribution, so that no actions are drawn; leave sampled out."
            )

    def check_successor(self, new: Model) -> None:
        """Raise GraftError where ``new`` reads or plays something else than this model, in whose place it comes."""
        differences = [
            *_differences("observations", self.schemas.observation, new.schemas.observation),
            *_differences("actions", self.schemas.action, new.schemas.action),
        ]
        if differences:
            raise GraftError(
                f"The new model has other {' and other '.join(differences)} than the one that plays; only a model of "
                f"the same contract may take its place."
            )


def _differences(what: str, old: Any, new: Any) -> list[str]:
    """``what`` with the fields in which two schemas differ, and the names; empty where they are equal."""
    other = [part.name for part in fields(old) if getattr(old, part.name) != getattr(new, part.name)]
    names = [f"+{name}" for name in new.names if name not in old.names]
    names += [f"-{name}" for name in old.names if name not in new.names]
    return [f"{what} ({', '.join(other)}{': ' if names else ''}{' '.join(names)})"] if other else []
