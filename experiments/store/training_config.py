"""The config that makes a checkpoint again, from what its manifest and those of its ancestors say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from graft import __version__
from graft.agents.checkpoints.checkpoint import read_manifest
from graft.agents.pretrained import checkpoint_folder, pretrained
from graft.errors import GraftError
from graft.experiments.config.experiment import Config, longhand
from graft.experiments.config.options import parse_model
from graft.experiments.plan.pairs import expand
from graft.experiments.plan.stage import Stage
from graft.experiments.store.lineage import STAGES, Member

NAME = "again"
CHECKPOINT_ID = re.compile(r"[0-9a-f]{64}")


def config_text(members: Sequence[Member]) -> str:
    """A YAML file for ``graft pretrain`` or ``graft run``, with comments.

    Args:
        members: the checkpoint last, its ancestors before it, as `family` gives them.
    Raises:
        GraftError: no training of a config with sources made it, an ancestor was not found, or this Graft would make a
            stage of that config that is another one.
    """
    last = members[-1]
    stage = _stage_of(last)
    config = _config(stage, members)
    versions, git = last.record.get("versions") or {}, last.record.get("git") or {}
    dirty = ", with uncommitted changes" if git.get("dirty") else ""
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "numpy") if name in versions)
    how = f"graft pretrain {NAME}.yaml --save {NAME}" if stage["kind"] == "pretrain" else f"graft run {NAME}.yaml"
    comments = [
        f"Makes checkpoint {last.id} again; save this as {NAME}.yaml:",
        f"  {how}",
        f"It was made by Graft {stage.get('graft')}, commit {git.get('commit', 'not known')}{dirty}; {libraries}.",
        "`graft inspect MADE --diff THIS` says whether the weights are the same.",
    ]
    if foreign := sorted({word for word in _words(config) if ":" in word}):
        comments.append(
            f"Not checked, as that would run what it names: {', '.join(foreign)}. Look at it before you do."
        )
    else:
        made = _expanded(config, stage)
        if changed := _differences(stage, made.to_json()):
            raise GraftError(
                f"No config of this Graft ({__version__}; the checkpoint is of {stage.get('graft')}) makes the "
                f"checkpoint again: {', '.join(changed)} would differ. The folder of its run has the whole config."
            )
        comments[1] += f", which makes it in {STAGES}/{made.id}" * (stage["kind"] == "transfer")
    text = "".join(f"# {''.join(c for c in line if c.isprintable())}\n" for line in comments)
    return text + yaml.dump(config, Dumper=_Plain, sort_keys=False, width=120)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _words(value: Any) -> Iterator[str]:
    """All words in a config but the folders of checkpoints."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield str(key)
            yield from () if key == "checkpoint" else _words(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _words(entry)


def _stage_of(member: Member) -> Mapping[str, Any]:
    stage = member.record.get("stage")
    if not isinstance(stage, Mapping):
        why = {"merge": "was merged of others", "import": "was imported"}
        said = next((words for key, words in why.items() if member.record.get(key)), "does not say how it was trained")
        raise GraftError(f"The checkpoint {said}, so there is no config that makes it again.")
    what = {"consolidate": "a consolidation"}.get(str(stage.get("kind")), "")
    what = what or ("of a sequence" if "place" in stage else "of a squad" if "squad" in stage else "")
    if what:
        raise GraftError(f"The checkpoint is {what}; only its run's folder (experiment.json) has the whole config.")
    return stage


def _config(stage: Mapping[str, Any], members: Sequence[Member]) -> dict[str, Any]:
    """The config's keys and values, in the order in which people write them."""
    algorithm, method, seed = dict(stage["algorithm"]), stage["method"], stage["seed"]
    made = {
        "name": NAME,
        "sources": stage["task"],
        "targets": stage["task"],
        "methods": [_entry(method)] if method else ["finetune"],
        "seeds": [seed],
    }
    budgets = {"pretrain": {"steps": stage["budget"]}}
    network: dict[str, Any] | None = _network(stage)
    if stage["kind"] == "transfer":
        budgets = {"transfer": {"steps": stage["budget"]}}
        if stage["source"] is not None:
            source, trained = _source(stage, members)
            made["sources"] = source
            network = None if trained is None else _network(trained)
            budgets |= {} if trained is None else {"pretrain": {"steps": trained["budget"]}}
    made |= budgets
    if network is not None:
        made["network"] = network
    if backend := stage.get("backend"):
        made["backend"] = backend["name"]
        made["resources"] = {"num_env_runners": backend["runners"], "num_learners": backend["learners"]}
    made["algorithm"] = {"name": algorithm.pop("name"), **algorithm}
    made["evaluation"] = {key: value for key, value in stage["evaluation"].items() if value is not None}
    if "recall_episodes" in stage:
        made["recall"] = stage["recall_episodes"]
    made["divergence_retries"] = stage.get("divergence_retries", 0)
    return made


def _entry(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method, and those among its options, as a config has them."""
    options = {key: _entries(value) for key, value in method.items() if key != "name"}
    return {str(method["name"]): options}


def _entries(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    return [_entry(one) if isinstance(one, Mapping) and "name" in one else one for one in value]


def _network(stage: Mapping[str, Any]) -> dict[str, Any]:
    given = stage["network"]
    kept = {key: given[key] for key in ("encoder", "options", "head") if given.get(key) is not None}
    return {**kept, "activation": given.get("activation", "own")}


def _source(stage: Mapping[str, Any], members: Sequence[Member]) -> tuple[Any, Mapping[str, Any] | None]:
    """What a transfer started from, for ``sources``; and the stage of its own run that trained it, if any."""
    source = str(stage["source"])
    for name in pretrained():
        if read_manifest(checkpoint_folder(name))["id"] == source:
            return {"checkpoint": name}, None
    for member in reversed(members[:-1]):
        if CHECKPOINT_ID.fullmatch(source):
            if member.id == source:
                if member.folder is None:
                    break
                return {"checkpoint": str(member.folder)}, None
            continue
        if member.folder is None:
            break
        found = _stage_of_ancestor(member)
        if found["kind"] == "pretrain":
            return found["task"], found
        source = str(found["source"])
    raise GraftError(
        f"The checkpoint that it was transferred from ({source[:12]}) was not found; --search DIR says where to look."
    )


def _stage_of_ancestor(member: Member) -> Mapping[str, Any]:
    stage = member.record.get("stage")
    if not isinstance(stage, Mapping):
        raise GraftError(f"The ancestor {member.id[:12]} does not say how it was trained.")
    return stage


def _expanded(config: Mapping[str, Any], like: Mapping[str, Any]) -> Stage:
    """The stage that a run of ``config`` would make in place of ``like``."""
    graph = expand(parse_model(Config, longhand(config), f"{NAME}.yaml"))
    made = [stage for stage in graph.stages.values() if stage.kind == like["kind"]]
    return min(made, key=lambda stage: len(_differences(like, stage.to_json())))


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    keys = sorted((one.keys() | other.keys()) - {"graft"})
    return [key for key in keys if _plain(one.get(key)) != _plain(other.get(key))]


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
