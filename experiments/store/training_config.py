"""The config that makes a checkpoint again, from what its manifest and those of its ancestors say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError

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
    try:
        return _config_text(members)
    except RecursionError:
        raise GraftError("What the checkpoint says of its training cannot be read (nested too deeply).") from None


def _config_text(members: Sequence[Member]) -> str:
    last = members[-1]
    stage = _recorded(last)
    what = {"consolidate": "a consolidation"}.get(stage.kind, "")
    what = what or ("of a sequence" if stage.place is not None else "of a squad" if stage.squad is not None else "")
    if what:
        raise GraftError(f"The checkpoint is {what}; only its run's folder (experiment.json) has the whole config.")
    config = _config(stage, members)
    versions, git = last.record.get("versions") or {}, last.record.get("git") or {}
    dirty = ", with uncommitted changes" if git.get("dirty") else ""
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "numpy") if name in versions)
    how = f"graft pretrain {NAME}.yaml --save {NAME}" if stage.kind == "pretrain" else f"graft run {NAME}.yaml"
    comments = [
        f"Makes checkpoint {last.id} again; save this as {NAME}.yaml:",
        f"  {how}",
        f"It was made by Graft {stage.graft}, commit {git.get('commit', 'not known')}{dirty}; {libraries}.",
        "`graft inspect MADE --diff THIS` says whether the weights are the same.",
    ]
    if foreign := _foreign(config, members):
        said = f"Not checked, as that would run what it names: {', '.join(foreign)}. Look at it before you do."
        comments.append(said)
    else:
        made = _expanded(config, last.record["stage"])
        if changed := _differences(last.record["stage"], made.to_json()):
            raise GraftError(
                f"No config of this Graft ({__version__}; the checkpoint is of {stage.graft}) makes the "
                f"checkpoint again: {', '.join(changed)} would differ. The folder of its run has the whole config."
            )
        comments[1] += f", which makes it in runs/{NAME}/{STAGES}/{made.id}" * (stage.kind == "transfer")
    text = "".join(f"# {''.join(c for c in line if c.isprintable())}\n" for line in comments)
    return text + yaml.dump(config, Dumper=_Plain, sort_keys=False, width=120)


def _foreign(config: Mapping[str, Any], members: Sequence[Member]) -> list[str]:
    """Names in a config, and in the checkpoints that it starts from, that may be of a module or a program."""
    folders = {str(member.folder) for member in members} - {str(members[-1].folder)}
    of_checkpoints = [member.manifest.get(key) for member in members for key in ("task", "network")]
    words = set(_words([config, *of_checkpoints]))
    if "checkpoint" in config["sources"]:
        words -= folders & {config["sources"]["checkpoint"]}
    return sorted(word for word in words if ":" in word or "." in word)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _words(value: Any) -> Iterator[str]:
    """All words in a config."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield str(key)
            yield from _words(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _words(entry)


class _Named(BaseModel, strict=True, extra="allow"):
    """A method, an algorithm or a task: its name and its options."""

    name: str


class _TaskRecord(BaseModel, strict=True, extra="forbid"):
    id: str
    kwargs: dict[str, Any]


class _Backend(BaseModel, strict=True):
    name: str
    runners: int
    learners: int


class _Recorded(BaseModel, strict=True):
    """What `Stage.to_json` writes, as far as a config needs it."""

    graft: str = ""
    kind: Literal["pretrain", "transfer", "consolidate"]
    task: _TaskRecord
    seed: int
    budget: int
    network: dict[str, Any]
    algorithm: _Named
    evaluation: dict[str, Any]
    method: _Named | None = None
    source: str | None = None
    backend: _Backend | None = None
    recall_episodes: int | None = None
    divergence_retries: int = 0
    place: Any = None
    squad: Any = None


def _recorded(member: Member) -> _Recorded:
    stage = member.record.get("stage")
    if stage is None:
        why = {"merge": "was merged of others", "import": "was imported"}
        said = next((words for key, words in why.items() if member.record.get(key)), "does not say how it was trained")
        raise GraftError(f"Checkpoint {member.id[:12]} {said}, so there is no config that makes it again.")
    try:
        return _Recorded.model_validate(stage)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "stage"
        raise GraftError(f"What checkpoint {member.id[:12]} says of its training cannot be read ({place}).") from error


def _config(stage: _Recorded, members: Sequence[Member]) -> dict[str, Any]:
    """The config's keys and values, in the order in which people write them."""
    made: dict[str, Any] = {
        "name": NAME,
        "sources": stage.task.model_dump(),
        "targets": stage.task.model_dump(),
        "methods": [_entry(stage.method.model_dump())] if stage.method else ["finetune"],
        "seeds": [stage.seed],
        stage.kind: {"steps": stage.budget},
    }
    trained: _Recorded | None = stage
    if stage.source is not None:
        made["sources"], trained = _source(stage.source, members)
        if trained is not None:
            made["pretrain"] = {"steps": trained.budget}
    if trained is not None:
        network = trained.network
        kept = {key: network[key] for key in ("encoder", "options", "head") if network.get(key) is not None}
        made["network"] = {**kept, "activation": network.get("activation", "own")}
    if stage.backend is not None:
        made["backend"] = stage.backend.name
        made["resources"] = {"num_env_runners": stage.backend.runners, "num_learners": stage.backend.learners}
    made["algorithm"] = stage.algorithm.model_dump()
    made["evaluation"] = {key: value for key, value in stage.evaluation.items() if value is not None}
    if stage.recall_episodes is not None:
        made["recall"] = stage.recall_episodes
    return made | {"divergence_retries": stage.divergence_retries}


def _entry(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method, and those among its options, as a config has them."""
    options = {key: _entries(value) for key, value in method.items() if key != "name"}
    return {str(method["name"]): options}


def _entries(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    return [_entry(one) if isinstance(one, Mapping) and "name" in one else one for one in value]


def _source(source: str, members: Sequence[Member]) -> tuple[dict[str, Any], _Recorded | None]:
    """What a transfer started from, for ``sources``; and the stage of its own run that trained it, if any."""
    for name in pretrained():
        if read_manifest(checkpoint_folder(name))["id"] == source:
            return {"checkpoint": name}, None
    given = CHECKPOINT_ID.fullmatch(source) is not None
    for member in reversed(members[:-1]):
        if member.folder is None or (given and member.id != source):
            continue
        if given:
            return {"checkpoint": str(member.folder)}, None
        found = _recorded(member)
        if found.source is None:
            return found.task.model_dump(), found
        source, given = found.source, CHECKPOINT_ID.fullmatch(found.source) is not None
    raise GraftError(
        f"The checkpoint that it was transferred from ({source[:12]}) was not found; --search DIR says where to look."
    )


def _expanded(config: Mapping[str, Any], like: Mapping[str, Any]) -> Stage:
    """The stage that a run of ``config`` would make in place of ``like``."""
    graph = expand(parse_model(Config, longhand(config), f"{NAME}.yaml"))
    return min(graph.stages.values(), key=lambda stage: len(_differences(like, stage.to_json())))


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    keys = sorted((one.keys() | other.keys()) - {"graft"})
    return [key for key in keys if _plain(one.get(key)) != _plain(other.get(key))]


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
