"""What the updates of a replay algorithm will cost, said before they are paid for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch

from graft.agents.training.algorithm import ReplayOptions
from graft.experiments.config.backends import DEFAULT, backend
from graft.experiments.plan.stage import Stage


def update_cost(stages: Sequence[Stage]) -> str | None:
    """A line for the trainings among ``stages``; None where none of them learns from a replay buffer.

    The time is measured with Stable-Baselines3's learner. It is left out where a GPU would do the work.
    """
    trained = [stage for stage in stages if stage.kind != "consolidate" and isinstance(stage.algorithm, ReplayOptions)]
    if not trained:
        return None
    options = trained[0].algorithm
    assert isinstance(options, ReplayOptions)
    counts = [options.updates(stage.budget) for stage in trained]
    each = 1.0 if options.gradient_steps < 0 else options.gradient_steps / options.num_envs / options.train_freq
    text = (
        f"{trained[0].algorithm_name}: updates of {options.batch} states, {each:g} per env step after the first "
        f"{options.learning_starts:,} of each training, {sum(counts):,} in all"
    )
    if not torch.cuda.is_available():
        seconds = _seconds(trained, counts)
        text += (
            f", about {1000 * seconds / max(1, sum(counts)):,.1f} ms of processor time each (measured just now): "
            f"{_duration(seconds)}, the environments' not counted"
        )
    return f"{text}. gradient_steps and train_freq say how many, batch and network what one costs."


def _seconds(stages: Sequence[Stage], counts: Sequence[int]) -> float:
    """Processor time of all updates; those of networks that look alike are measured once."""
    from graft.agents.sb3.off_policy import OffPolicy
    from graft.agents.sb3.update_time import seconds_per_update

    times: dict[str, float] = {}
    total = 0.0
    for stage, count in zip(stages, counts, strict=True):
        key = f"{stage.schemas.observation.shape} {len(stage.schemas.action.names)} {stage.network}"
        if key not in times:
            algorithm = backend(DEFAULT).ALGORITHMS[stage.algorithm_name](**asdict(stage.algorithm))
            assert isinstance(algorithm, OffPolicy)
            times[key] = seconds_per_update(algorithm, stage.schemas, stage.network)
        total += count * times[key]
    return total


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
