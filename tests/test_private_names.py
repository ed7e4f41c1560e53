"""Private parts of other libraries that Graft uses: a new release may lose them without a word."""

from __future__ import annotations

import importlib
import inspect
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

RLLIB, SB3 = "ray.rllib", "stable_baselines3"
PRIVATE = {
    "ray._raylet:AuthenticationTokenLoader.instance": "agents/ray_session/auth.py",
    "ray._raylet:AuthenticationTokenLoader.reset_cache": "agents/ray_session/auth.py",
    "ray._raylet:Config.initialize": "agents/ray_session/auth.py",
    "ray._raylet:GcsClient": "agents/ray_session/auth.py",
    "ray._private.services:get_ray_address_from_environment": "agents/ray_session/session.py",
    "ray.tune.trainable:Trainable._setup_logdir": "agents/rllib/algorithm_mixin.py",
    "ray.tune.trainable:Trainable._logdir": "agents/rllib/algorithm_mixin.py",
    f"{RLLIB}.algorithms.impala.impala_learner:IMPALALearner._learner_thread": "agents/rllib/algorithms/appo.py",
    f"{RLLIB}.algorithms.appo.appo_learner:APPOLearner._last_update_ts_by_mid": "agents/rllib/algorithms/appo.py",
    f"{RLLIB}.algorithms.sac.torch.sac_torch_learner:SACTorchLearner._temp_losses": "agents/rllib/algorithms/sac.py",
    f"{RLLIB}.core.learner.learner:Learner._learner_index": "agents/rllib/remote_training.py",
    f"{RLLIB}.core.learner.learner:Learner._make_batch_if_necessary": "agents/rllib/learner.py",
    f"{RLLIB}.core.learner.learner:Learner._create_iterator_if_necessary": "agents/rllib/learner.py",
    f"{RLLIB}.core.learner.torch.torch_learner:TorchLearner._make_modules_ddp_if_necessary": "agents/rllib/learner.py",
    f"{RLLIB}.core.learner.torch.torch_learner:TorchLearner._uncompiled_update": "agents/rllib/learner.py",
    f"{RLLIB}.core.rl_module.multi_rl_module:MultiRLModule._rl_modules": "agents/rllib/module.py",
    f"{RLLIB}.core.rl_module.rl_module:RLModule._forward": "agents/rllib/module.py",
    f"{RLLIB}.core.rl_module.rl_module:RLModule._forward_train": "agents/rllib/critics.py",
    f"{RLLIB}.env.env_runner_group:EnvRunnerGroup._worker_manager": "experiments/benchmarks/scaling.py",
    f"{SB3}.common.base_class:BaseAlgorithm._get_torch_save_params": "agents/sb3/learner_state.py",
    f"{SB3}.common.base_class:BaseAlgorithm._last_episode_starts": "agents/sb3/learner_state.py",
    f"{SB3}.common.base_class:BaseAlgorithm._last_obs": "agents/sb3/learner_state.py",
    f"{SB3}.common.base_class:BaseAlgorithm._stats_window_size": "agents/sb3/learner_state.py",
    f"{SB3}.common.policies:ActorCriticPolicy._build": "agents/sb3/policy.py",
    f"{SB3}.common.policies:BasePolicy._predict": "agents/sb3/algorithms/dqn.py",
    f"{SB3}.common.vec_env:VecEnv._get_indices": "agents/sb3/vec_env.py",
    f"{SB3}.dqn.policies:DQNPolicy._build": "agents/sb3/algorithms/dqn.py",
    f"{SB3}.sac.policies:SACPolicy._build": "agents/sb3/algorithms/sac.py",
    "torch:_foreach_add": "transfer/regulariser.py",
    "torch:_foreach_addcmul": "transfer/methods/si.py",
    "torch:_foreach_mul": "transfer/regulariser.py",
    "torch:_foreach_sub": "transfer/regulariser.py",
    "torch.utils.tensorboard:SummaryWriter._get_file_writer": "experiments/sinks/tensorboard.py",
}
"""``module:name`` or ``module:Class.attribute`` -> the file that uses it."""

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", PRIVATE)
def test_the_library_still_has_it(name):
    module, _, rest = name.partition(":")
    library = module.partition(".")[0]
    told = f"{library} {metadata.version(library)} has no {name}, which {PRIVATE[name]} uses; mend that, or bound it."
    owner, _, attribute = rest.partition(".")
    found = getattr(importlib.import_module(module), owner, None)
    assert found is not None, told
    assert not attribute or hasattr(found, attribute) or sets(found, attribute), told


def sets(kind, attribute):
    """Whether a class or one that it comes from mentions the attribute of its objects."""
    sources = [inspect.getsource(base) for base in kind.__mro__ if base.__module__ != "builtins"]
    return any(f"self.{attribute}" in source for source in sources)


@pytest.mark.parametrize("name", PRIVATE)
def test_the_file_named_uses_it(name):
    assert name.replace(":", ".").rpartition(".")[2] in (ROOT / PRIVATE[name]).read_text()


@pytest.mark.parametrize("library", ["ray", "stable-baselines3", "torch", "gymnasium"])
def test_the_library_has_an_upper_bound(library):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = next(r for r in map(Requirement, project["dependencies"]) if r.name == library)
    assert any(bound.operator in ("<", "<=") for bound in found.specifier), found
