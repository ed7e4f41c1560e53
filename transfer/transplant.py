"""Transplant of weights by name: the stem by observation names, the policy's rows by action names, the rest copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch

from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.box_units import Affine, carried_units
from graft.agents.networks.encoder import Stem, build_encoder
from graft.agents.networks.normaliser import normalisers, varied
from graft.agents.networks.policy_network import Distribution, NetworkConfig, PolicyNetwork, can_play
from graft.agents.training.critics import CRITICS, ENCODER, HEADS, LOG_ALPHA, ONLINE, TARGET, stored
from graft.agents.training.transitions import ACTIONS, NEXT_OBSERVATIONS, OBSERVATIONS, TRANSITIONS, check_transitions
from graft.envs.core.schema import Schemas
from graft.errors import GraftError, some, unknown
from graft.transfer.transplant_report import Status, TensorRow, TransplantReport

Heads = Literal["fresh", "by_name"]
NewChannels = Literal["zero", "random", "attributes"]
Meaning = Literal["weights", "importances"]

ROWS_ARE_ACTIONS = {f"policy.{n}" for n in ("out.weight", "out.bias", "log_std", "spread.weight", "spread.bias")}
"""Parameters of a network whose first dimension counts the action names."""


class Match(NamedTuple):
    """Which of the source's names each of the target's takes its weights from.

    ``sources``: per target name, the source indices whose mean it takes. ``new``: target names that the source lacks ->
    how each was initialised. ``dropped``: source names without use. ``identical``: same names in the same order.
    """

    sources: list[list[int]]
    new: dict[str, str]
    dropped: list[str]
    identical: bool


def match_names(
    source: tuple[str, ...],
    target: tuple[str, ...],
    rename: Mapping[str, str],
    otherwise: Callable[[int], list[int]] = lambda _: [],
) -> Match:
    """Match ``target`` names to ``source`` names; ``rename`` is target name -> source name.

    ``otherwise(j)`` gives the source indices for target j, a name without a counterpart; by default none.
    """
    index = {name: i for i, name in enumerate(source)}
    sources: list[list[int]] = []
    new: dict[str, str] = {}
    used: set[str] = set()
    for j, name in enumerate(target):
        origin = name if rename.get(name) not in index else rename[name]
        if origin in index:
            used.add(origin)
            sources.append([index[origin]])
            continue
        stand_ins = otherwise(j)
        used.update(source[i] for i in stand_ins)
        sources.append(stand_ins)
        new[name] = "mean of " + " and ".join(source[i] for i in stand_ins) if stand_ins else ""
    identical = not new and [s[0] for s in sources] == list(range(len(source)))
    return Match(sources, new, [name for name in source if name not in used], identical)


def most_similar(source: Stem, attributes: tuple[str, ...]) -> list[int]:
    """Names of the source that share the most of ``attributes``, if any; of equals, those with the fewest others."""
    wanted = set(attributes)

    def similarity(i: int) -> tuple[int, float]:
        has = set(source.attributes[i])
        return len(has & wanted), len(has & wanted) / max(1, len(has | wanted))

    best = max(map(similarity, range(len(source.names))), default=(0, 0.0))
    return [i for i in range(len(source.names)) if similarity(i) == best] if best[0] else []


def _by_name(tensor: torch.Tensor, dim: int, group: int) -> torch.Tensor:
    """A view in which dimension ``dim`` counts names, and the next one the ``group`` indices of each."""
    return tensor.view(*tensor.shape[:dim], -1, group, *tensor.shape[dim + 1 :])


@dataclass
class _Assembly:
    """Collects the target's tensors and the report's rows."""

    source: Mapping[str, torch.Tensor]
    target: Mapping[str, torch.Tensor]
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    rows: list[TensorRow] = field(default_factory=list)
    lost: dict[str, None] = field(default_factory=dict)

    def fresh(self, name: str, detail: str, wanted: bool) -> None:
        self.tensors[name] = self.target[name]
        self.rows.append(TensorRow(name, "initialised", 0.0, detail, wanted))
        if wanted:
            self.lost[name] = None

    def copy(self, name: str) -> None:
        if name not in self.source:
            self.fresh(name, "the source has no such tensor", wanted=True)
        elif self.source[name].shape != self.target[name].shape:
            old, new = tuple(self.source[name].shape), tuple(self.target[name].shape)
            self.fresh(name, f"shape {old} became {new}", wanted=True)
        else:
            self.tensors[name] = self.source[name].clone()
            self.rows.append(TensorRow(name, "copied", 1.0))

    def remap(self, name: str, dim: int, match: Match, new_is: str) -> None:
        """Fill dimension ``dim`` of a tensor, as many indices for each name, from the matched names of the source."""
        new = self.target[name].clone()
        group = new.shape[dim] // len(match.sources)
        old = self.source.get(name, new.narrow(dim, 0, 0))  # what reads a part that the source does not have
        if old.shape[:dim] + old.shape[dim + 1 :] != new.shape[:dim] + new.shape[dim + 1 :]:
            self.fresh(name, f"shape {tuple(old.shape)} became {tuple(new.shape)}", wanted=True)
            return
        new_slices = _by_name(new, dim, group)
        for j, origins in enumerate(match.sources):
            if origins:
                old_slices = _by_name(old, dim, group).index_select(dim, torch.tensor(origins))
                new_slices.select(dim, j).copy_(old_slices.mean(dim))
            elif new_is == "zero":
                new_slices.select(dim, j).zero_()
        self.tensors[name] = new
        came = sum(1 for origins in match.sources if origins) / len(match.sources)
        status: Status = "copied" if match.identical else "padded" if match.new else "remapped"
        self.rows.append(TensorRow(name, status, came, _detail(match, new_is)))
        self.lost.update(dict.fromkeys([*match.new, *match.dropped]))


def _detail(match: Match, new_is: str) -> str:
    parts = []
    if match.new:
        parts.append("new: " + some([f"{name} ({how or new_is})" for name, how in match.new.items()]))
    if match.dropped:
        parts.append("dropped: " + some(match.dropped))
    if not parts and not match.identical:
        parts.append("reordered by name")
    return "; ".join(parts)


def _check_rename(rename: Mapping[str, str], source: Schemas, target: Schemas) -> None:
    old = (source.observation.names, source.action.names)
    new = (target.observation.names, target.action.names)
    for now, before in rename.items():
        if now not in new[0] + new[1]:
            raise unknown("name on the left of rename (a name of the target)", now, new[0] + new[1])
        # An observation has no counterpart among actions, nor the other way round.
        allowed = [name for was, names in zip(old, new, strict=True) if now in names for name in was]
        if before not in allowed:
            raise unknown("name on the right of rename (a name of the source)", before, allowed)


class Fit(NamedTuple):
    """How a stem is filled from the source's; ``boards``: shapes in source and target, where they have other cells;
    ``random``: whether names that the source lacks keep the fresh network's weights.
    """

    match: Match
    boards: tuple[tuple[int, ...], tuple[int, ...]] | None
    dim: int
    random: bool


def _match_observations(
    source: Checkpoint, network: PolicyNetwork, rename: Mapping[str, str], new_channels: NewChannels
) -> dict[str, Fit]:
    """Name of a stem's parameter in ``network`` -> its `Fit`."""
    before = {stem.name: stem for stem in source.stems or _rebuilt(source)}
    fits = {}
    for stem in network.encoder.stems:
        old = before.get(stem.name, stem._replace(names=(), attributes=()))
        same_cells = old.group == stem.group and (stem.group == 1 or old.board == stem.board)
        match = _match_stem(old, stem, rename, new_channels)
        if stem.dim == 0:
            match = match._replace(sources=_of_varied(source, old, match.sources))
        # Statistics of a new feature are those of nothing seen yet. Of a new part, zeros in what reads its features
        # keep it out until it is learned; with zeros below these as well, no gradient would ever reach it.
        random = new_channels == "random" or stem.dim == 0 or (stem.within and stem.name not in before)
        fits[f"encoder.{stem.name}"] = Fit(match, None if same_cells else (old.board, stem.board), stem.dim, random)
    return fits


def _of_varied(source: Checkpoint, stem: Stem, sources: list[list[int]]) -> list[list[int]]:
    """``sources`` of statistics without names that were never seen, or never varied, where others did: their mean says
    nothing.
    """
    path = f"encoder.{stem.name.rpartition('.')[0]}"
    mean, var, count = (source.tensors.get(f"{path}.running_{name}") for name in ("mean", "var", "count"))
    if mean is None or var is None or count is None:
        return sources
    known = (varied(mean, var) & (count > 0)).view(-1, stem.group).any(1).tolist()
    return [[i for i in origins if known[i]] or origins for origins in sources]


def _rebuilt(source: Checkpoint) -> tuple[Stem, ...]:
    with torch.random.fork_rng(devices=[]):
        return build_encoder(str(source.network.encoder), source.schemas.observation, source.network.options).stems


def _check_shared_names(source: Schemas, target: Schemas, rename: Mapping[str, str], new_channels: NewChannels) -> None:
    """Raises GraftError where source and target share no name."""
    had, new = (Stem.of("", 1, schemas.observation.plain) for schemas in (source, target))
    if not any(_match_stem(had, new, rename, new_channels).sources):
        raise GraftError(
            f"The target shares nothing with the source: its observations are {some(new.names)}, "
            f"the source's {some(had.names)}; give 'rename' (target name: source name) if some mean the same."
        )


def _match_stem(old: Stem, new: Stem, rename: Mapping[str, str], new_channels: NewChannels) -> Match:
    def otherwise(j: int) -> list[int]:
        return most_similar(old, new.attributes[j]) if new_channels == "attributes" else []

    return match_names(old.names, new.names, rename, otherwise)


def _match_actions(source: Schemas, target: Schemas, rename: Mapping[str, str]) -> Match:
    match = match_names(source.action.names, target.action.names, rename)
    if source.action.kind != target.action.kind or not any(match.sources):
        raise GraftError(
            f"Heads cannot be carried by name: the target's actions are {target.action.kind} "
            f"({some(target.action.names)}), the source's {source.action.kind} "
            f"({some(source.action.names)}); use heads: fresh, or give 'rename' (target name: source name)."
        )
    return match


def heads_fit(
    source: Checkpoint, target: Schemas, rename: Mapping[str, str], strict: bool, distribution: Distribution | None
) -> bool:
    """Whether `transplant` could carry heads by name; under ``strict``, without a loss."""
    try:
        match = _match_actions(source.schemas, target, rename)
    except GraftError:
        return False
    partial = bool(match.new or match.dropped)
    return source.network.distribution == distribution and not (strict and partial)


def action_units(source: Schemas, target: Schemas, match: Match) -> Affine | None:
    """From the units of a source's actions to the target's; None where all keep theirs."""
    if source.action.kind != "box" or target.action.kind != "box":
        return None
    units = carried_units(source.action, target.action, match.sources)
    return None if units.identity else units


def _fill(
    assembly: _Assembly,
    source: Checkpoint,
    observations: Mapping[str, Fit],
    actions: Match | None,
    units: Affine | None,
) -> None:
    """Fill every tensor of the target, and report the source's remaining ones as dropped."""
    for name in assembly.target:
        if name in observations:
            match, boards, dim, random = observations[name]
            if boards is None:
                assembly.remap(name, dim, match, "random" if random else "zero")
            else:
                old, new = boards
                why = f"its input is the whole board, and {old} became {new}" if old != new else "its input is another"
                assembly.fresh(name, why, wanted=True)
        elif name.startswith("encoder."):
            assembly.copy(name)
        elif actions is None:
            assembly.fresh(name, "fresh head", wanted=False)
        elif name in ROWS_ARE_ACTIONS:
            assembly.remap(name, 0, actions, "random")
            if units is not None:
                assembly.tensors[name] = units.of_rows(name, assembly.tensors[name])
        else:
            assembly.copy(name)
    for name in [n for n in source.tensors if n not in assembly.target]:
        wanted = name.startswith("encoder.") or actions is not None
        assembly.rows.append(TensorRow(name, "dropped", 0.0, "the target has no such tensor", wanted))
        if wanted:
            assembly.lost[name] = None


def transplant(
    source: Checkpoint,
    target: Schemas,
    *,
    heads: Heads,
    new_channels: NewChannels,
    rename: Mapping[str, str],
    strict: bool,
    seed: int,
    distribution: Distribution | None = None,
) -> tuple[PolicyNetwork, TransplantReport]:
    """A network for ``target`` with the weights that ``source`` has under the same names.

    The encoder's stem takes its input slices by observation name and the rest of the encoder is copied. Heads are
    fresh, or carried: the policy's last layer takes its rows by action name, all other layers are copied. Box actions
    keep their place between their bounds, whatever these are, or their numbers where only one task has bounds
    (`carried_units`). Features that never varied in the source count as not seen (`Normaliser`).

    Args:
        heads: ``fresh`` or ``by_name``.
        new_channels: what an observation name that the source lacks starts from: ``zero``, ``random`` (a fresh
            network's weights), or ``attributes`` (`most_similar`; zero where nothing is). Of a new part of the
            observation, only what reads its features starts from that. A new action's row is always fresh.
        rename: target name -> name it had in the source.
        strict: raise where anything that was to be carried over is lost.
        seed: of all fresh weights.
        distribution: of the target's actions, as the algorithm that will train it plays them.
    Returns:
        The network, nothing of it frozen, and the report.
    Raises:
        GraftError: a source of several columns, no name in common, observations that the encoder cannot read, an
            unknown name in ``rename``, heads of another distribution, or a loss under ``strict``.
    """
    if source.network.kind != NetworkConfig().kind:
        raise GraftError(
            f"The source is a {source.network.kind} network of several columns, whose tensors cannot be moved one by "
            f"one; use the method that made it, or a source of one network."
        )
    _check_rename(rename, source.schemas, target)
    _check_shared_names(source.schemas, target, rename, new_channels)
    actions = _match_actions(source.schemas, target, rename) if heads == "by_name" else None
    if actions is not None and source.network.distribution != distribution:
        raise GraftError(
            f"Heads of one algorithm cannot serve another: the source's policy head has the distribution "
            f"'{source.network.distribution or 'default'}', the target's '{distribution or 'default'}'; "
            f"use heads: fresh."
        )
    network = PolicyNetwork(target, replace(source.network, distribution=distribution), seed)
    assembly = _Assembly(source.tensors, network.state_dict())
    units = None if actions is None else action_units(source.schemas, target, actions)
    _fill(assembly, source, _match_observations(source, network, rename, new_channels), actions, units)
    report = TransplantReport(tuple(assembly.rows), tuple(assembly.lost))
    if strict and report.partial:
        raise GraftError(f"strict=true, and the transplant would lose or invent {some(report.lost)}.")
    network.load_exactly(assembly.tensors)
    for normaliser in normalisers(network):
        normaliser.forget_constant()
    return network, report


def carried_critics(
    source: Checkpoint, network: PolicyNetwork, *, new_channels: NewChannels, rename: Mapping[str, str]
) -> tuple[dict[str, torch.Tensor], tuple[TensorRow, ...]]:
    """The source's critics, their target and temperature, moved by name as `transplant` moves the network.

    Of a new observation, columns that are to be random are those of ``network``, which `transplant` made. Columns of a
    new action are zero: the estimate is then the source's whatever that action does, and learns from the first step on,
    where random columns would push the action to one of its bounds.

    Returns:
        Tensors as of `CriticState`, and a row for each of them; nothing where the source has none.
    Raises:
        GraftError: no action in common.
    """
    held = source.parts.get(CRITICS, {})
    if not held:
        return {}, ()
    fits = _match_observations(source, network, rename, new_channels)
    actions = _match_actions(source.schemas, network.schemas, rename)
    encoder, features = stored(network.encoder), network.encoder.out_dim
    tensors: dict[str, torch.Tensor] = {}
    rows: list[TensorRow] = []
    for group in (ONLINE, TARGET):
        own = {name.removeprefix(f"{group}."): t for name, t in held.items() if name.startswith(f"{group}.")}
        wanted = {name: torch.zeros_like(t) for name, t in own.items() if not name.startswith(f"{ENCODER}.")}
        if any(name.startswith(f"{ENCODER}.") for name in own):
            wanted |= {f"{ENCODER}.{name}": t for name, t in encoder.items()}
        first = {name for name in wanted if name.startswith(f"{HEADS}.") and name.endswith(".0.weight")}
        for name in first:
            wanted[name] = torch.zeros(len(own[name]), len(actions.sources))
        heads = {name: own[name][:, features:] if name in first else own[name] for name in own}
        assembly = _Assembly(heads, wanted)
        for name in wanted:
            if name in first:
                assembly.remap(name, 1, actions, "zero")
                assembly.tensors[name] = torch.cat([own[name][:, :features], assembly.tensors[name]], 1)
            elif name in fits and fits[name].boards is None:
                assembly.remap(name, fits[name].dim, fits[name].match, "random" if fits[name].random else "zero")
            elif name in fits:
                assembly.fresh(name, "its input is another board", wanted=True)
            else:
                assembly.copy(name)
        tensors |= {f"{group}.{name}": t for name, t in assembly.tensors.items()}
        rows += [replace(row, tensor=f"{CRITICS}.{group}.{row.tensor}") for row in assembly.rows]
    if LOG_ALPHA in held:
        tensors[LOG_ALPHA] = held[LOG_ALPHA].clone()
        rows.append(TensorRow(f"{CRITICS}.{LOG_ALPHA}", "copied", 1.0))
    return tensors, tuple(rows)


def carried_transitions(
    source: Checkpoint, target: Schemas, rename: Mapping[str, str]
) -> tuple[dict[str, torch.Tensor], tuple[TensorRow, ...]]:
    """The source's transitions, laid out as the target's by name: what it did not show, or do, is zero.

    Those of a discrete action that the target lacks are left out.

    Returns:
        Tensors as of `TransitionTensors`, and a row for observations and actions; nothing where the source has none, or
        where a name has another shape or actions other units.
    Raises:
        GraftError: no action in common, or a checkpoint whose transitions are not of its task.
    """
    held = dict(source.parts.get(TRANSITIONS, {}))
    check_transitions(held, source.schemas)
    actions = _match_actions(source.schemas, target, rename) if held else None
    if actions is None or action_units(source.schemas, target, actions) is not None:
        return {}, ()
    old, new = source.schemas.observation, target.observation
    match = match_names(old.names, new.names, rename)
    width, before, places = new.shape[0], old.places, new.places
    pairs = [(before[origins[0]], places[j]) for j, origins in enumerate(match.sources) if origins]
    if old.shape[1:] != new.shape[1:] or any(a.stop - a.start != b.stop - b.start for a, b in pairs):
        return {}, ()
    for name in (OBSERVATIONS, NEXT_OBSERVATIONS):
        shown, made = held[name], torch.zeros(len(held[name]), width, *new.shape[1:], dtype=held[name].dtype)
        for a, b in pairs:
            made[:, b] = shown[:, a]
        held[name] = made
    if target.action.kind == "box":
        done = torch.zeros(len(held[ACTIONS]), len(actions.sources))
        for j, origins in enumerate(actions.sources):
            if origins:
                done[:, j] = held[ACTIONS][:, origins[0]]
        held[ACTIONS] = done
    else:
        number = torch.full((len(source.schemas.action.names),), -1)
        for j, origins in enumerate(actions.sources):
            number[origins] = j
        taken = number[held[ACTIONS].long().flatten()]
        held[ACTIONS] = taken[:, None].to(held[ACTIONS].dtype)
        held = {name: tensor[taken >= 0] for name, tensor in held.items()}
    return held, tuple(
        TensorRow(
            f"{TRANSITIONS}.{name}",
            "copied" if found.identical else "padded" if found.new else "remapped",
            sum(map(bool, found.sources)) / len(found.sources),
            _detail(found, "zero"),
        )
        for name, found in ((OBSERVATIONS, match), (ACTIONS, actions))
    )


def carried(
    source: Checkpoint,
    tensors: Mapping[str, torch.Tensor],
    target: Schemas,
    *,
    new_channels: NewChannels,
    rename: Mapping[str, str],
    meaning: Meaning | None = None,
) -> dict[str, torch.Tensor]:
    """Tensors about the source's parameters (importances, anchors), moved to the target's as `transplant` moves those.

    Args:
        tensors: parameter name -> tensor of that parameter's shape in ``source``; encoder and policy only.
        meaning: of ``tensors``, which decides how they change with the units of box actions; None: not at all.
    Returns:
        The same for the target's parameters of equal shape; zero where the source has no counterpart.
    Raises:
        GraftError: no name in common.
    """
    config = replace(source.network, kind="plain", parts={})
    if not can_play(config.distribution, target.action):
        config = replace(config, distribution=None)  # the encoder's numbers can still be moved
    network = PolicyNetwork(target, config, 0)
    wanted = {name: torch.zeros_like(p) for name, p in network.state_dict().items() if name in tensors}
    assembly = _Assembly(tensors, wanted)
    stems = {f"encoder.{stem.name}" for stem in network.encoder.stems} & wanted.keys()
    if stems:
        _check_shared_names(source.schemas, target, rename, new_channels)
    fits = _match_observations(source, network, rename, new_channels) if stems else {}
    for name in wanted:
        if name in stems:
            if fits[name].boards is None:
                assembly.remap(name, fits[name].dim, fits[name].match, "zero")
        elif name in ROWS_ARE_ACTIONS:
            match = _match_actions(source.schemas, target, rename)
            assembly.remap(name, 0, match, "zero")
            units = action_units(source.schemas, target, match)
            if units is not None and meaning is not None:
                change = units.of_rows if meaning == "weights" else units.of_importances
                assembly.tensors[name] = change(name, assembly.tensors[name])
        elif tensors[name].shape == wanted[name].shape:
            assembly.copy(name)
    return assembly.tensors
