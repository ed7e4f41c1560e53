"""MkDocs hook: fills the reference pages with tables that are made from the code, so that they cannot be stale.

A page holds markers such as ``<!-- generated: methods -->``; each is replaced by what the function of that name in
`GENERATED` writes. Pages of the checkout that lie outside ``docs/`` are published, too.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mkdocs.structure.files import File
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from graft.__main__ import COMMANDS
from graft.agents import rllib, sb3
from graft.agents.networks.encoder import ENCODERS
from graft.agents.training.backend import Evaluation, Resources
from graft.envs.adapters.gymnasium.tunable import CHANNEL, tunable_envs
from graft.envs.builtin.engine.game import GAMES
from graft.envs.builtin.engine.mechanics import MECHANICS, Mechanic
from graft.envs.core.faults import FaultRules
from graft.experiments.config import experiment
from graft.experiments.config.backends import PRESETS, parse_resources
from graft.experiments.config.patch import PatchConfig
from graft.experiments.search.definition import Asha, SearchFile
from graft.transfer import METHODS
from graft.transfer.method import FromSource

ROOT = Path(__file__).parents[1]

BESIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the checkout's root -> their names in the site."""

ALGORITHMS = {"sb3": sb3.ALGORITHMS, "rllib": rllib.ALGORITHMS}

TITLES = {
    "Common": "Every experiment",
    "Config": "Transfer experiments",
    "SequenceConfig": "Sequences",
    "CostFactors": "Cost",
    "SearchFile": "File",
    "PatchConfig": "File",
}
"""Model -> heading, where its name is not one that authors of configs know."""

SECTIONS = ("Args", "Attributes", "Raises", "Returns", "Source", "Yields")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def prose(text: str) -> str:
    """A docstring's text as Markdown: literals in one backtick, signs outside of code as they are."""
    pieces = re.sub(r"``([^`]+)``", r"`\1`", text).split("`")
    pieces[::2] = [piece.replace("<", "&lt;").replace("*", "\\*") for piece in pieces[::2]]
    return "`".join(pieces)


def sections(docstring: str) -> dict[str, str]:
    """The parts of a docstring by name; what stands before the first named one is called ''."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):", inspect.cleandoc(docstring), flags=re.MULTILINE)
    named = {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    return {"": parts[0].strip(), **named}


def meanings(text: str, names: list[str]) -> dict[str, str]:
    """What a section says of each of ``names``; several may stand on one line, ``gamma, gae_lambda: discounts.``"""
    one = "|".join(map(re.escape, names))
    parts = re.split(rf"(?:^|(?<=\s))((?:(?:{one}), )*(?:{one})): ", text)
    found: dict[str, str] = {}
    for heads, meaning in zip(parts[1::2], parts[2::2], strict=True):
        found |= dict.fromkeys(heads.split(", "), " ".join(meaning.split()).rstrip())
    return found


def type_name(hint: Any) -> str:
    """A type as an author of a config reads it."""
    if hint is None or hint is type(None):
        return "null"
    origin, inner = typing.get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return type_name(inner[0]) + _limits(inner[1:])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, type(int | str)):
        return " or ".join(type_name(part) for part in inner)
    if origin in (list, tuple) or (origin is not None and issubclass(origin, list | tuple | typing.Sequence)):
        return "list of " + type_name(inner[0]) if inner else "list"
    if origin is not None and issubclass(origin, Mapping):
        return "mapping"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", dict: "mapping"}
    if hint in words:
        return words[hint]
    if inspect.isclass(hint) and issubclass(hint, BaseModel):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return getattr(hint, "__name__", "any value").replace("JsonValue", "any value").replace("Any", "any value")


def _limits(metadata: tuple[Any, ...]) -> str:
    """`` from 1``, `` above 0``, `` at most 1``: of a number."""
    words = {"ge": "from {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
    checks = [check for item in metadata for check in (item, *getattr(item, "metadata", ()))]
    found = [text.format(f"{getattr(c, key):g}") for c in checks for key, text in words.items() if hasattr(c, key)]
    return " " + ", ".join(dict.fromkeys(found)) if found else ""


def default_of(value: Any) -> str:
    """A default as YAML would spell it."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_unset=True) or None
    words = {None: "", True: "`true`", False: "`false`"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, tuple | list):
        return "`[" + ", ".join(str(item) for item in value) + "]`"
    if isinstance(value, Mapping):
        return "`{" + ", ".join(f"{key}: {item}" for key, item in value.items()) + "}`"
    return f"`{value}`"


def options(kind: type[Any], common: type[Any] | None = None) -> str:
    """The fields of a dataclass as a table; meanings are those of its own docstring, else of the nearest base's.

    Args:
        common: fields that ``kind`` has from it, unchanged, are left out.
    """
    hints, names = get_type_hints(kind, include_extras=True), [option.name for option in fields(kind)]
    left_out = {o.name: o.default for o in fields(common)} if common and issubclass(kind, common) else {}
    known: dict[str, str] = {}
    for base in kind.__mro__:
        if is_dataclass(base):
            known = meanings(sections(base.__doc__ or "").get("Attributes", ""), names) | known
    rows = []
    for option in fields(kind):
        if option.name in left_out and left_out[option.name] == option.default and kind is not common:
            continue
        default = option.default if option.default_factory is MISSING else option.default_factory()
        shown = "required" if default is MISSING else default_of(default)
        rows.append((f"`{option.name}`", type_name(hints[option.name]), shown, prose(known.get(option.name, ""))))
    shared = (
        f"It takes the [options of every such method](#{ANCHOR}), too.\n" if left_out and kind is not common else ""
    )
    made = table(("option", "type", "default", "meaning"), rows) if rows else "" if shared else "No options.\n"
    return made + ("\n" if made and shared else "") + shared


def entry(name: str, kind: type[Any], level: int = 2, common: type[Any] | None = None) -> str:
    """A heading, what the docstring says, the options, the source."""
    said = sections(kind.__doc__ or "")
    source = f"Source: {prose(' '.join(said['Source'].split()))}\n\n" if "Source" in said else ""
    return f"{'#' * level} {name}\n\n{prose(said[''])}\n\n{source}{options(kind, common)}\n"


ANCHOR = "options-of-every-method-that-starts-from-the-source"


def methods() -> str:
    """Every transfer method, after the options that most of them share."""
    common = f"## {ANCHOR.replace('-', ' ').capitalize()}\n\n{options(FromSource)}\n"
    return "\n".join([common, *(entry(name, kind, common=FromSource) for name, kind in METHODS.items())])


def algorithms() -> str:
    """Every algorithm of each backend, under headings that do not repeat."""
    made = [entry(f"{name} ({by})", kind) for by, registry in ALGORITHMS.items() for name, kind in registry.items()]
    return "\n".join(made)


def encoders() -> str:
    """Every encoder with the keyword arguments of its constructor."""
    made = []
    for name, kind in ENCODERS.items():
        said, given = sections(kind.__doc__ or ""), list(inspect.signature(kind).parameters.values())[1:]
        hints = get_type_hints(kind.__init__, include_extras=True)
        known = meanings(said.get("Args", ""), ["schema", *(option.name for option in given)])
        rows = [
            (f"`{o.name}`", type_name(hints[o.name]), default_of(o.default), prose(known.get(o.name, "")))
            for o in given
        ]
        takes = f"Takes observations of kind {', '.join(kind.kinds)}; the default for {', '.join(kind.default_for)}."
        head = ("option", "type", "default", "meaning")
        made.append(f"## {name}\n\n{prose(said[''])}\n\n{takes}\n\n{table(head, rows)}")
    return "\n".join(made)


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """``model`` and all models within it."""
    yield model
    for field in model.model_fields.values():
        for hint in _within(field.annotation):
            yield from _models(hint)


def _within(hint: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(hint) and issubclass(hint, BaseModel):
        yield hint
    for part in get_args(hint):
        yield from _within(part)


def _key(name: str, field: FieldInfo) -> tuple[str, ...]:
    default = "required" if field.is_required() else default_of(field.default)
    if field.default is PydanticUndefined and field.default_factory is not None:
        default = default_of(field.default_factory())  # type: ignore[call-arg]
    kind = type_name(field.annotation) + _limits(tuple(field.metadata))
    return f"`{field.alias or name}`", kind, default, prose(field.description or "")


def keys(model: type[BaseModel], leave_out: type[BaseModel] | None = None) -> str:
    """A heading, what the model's docstring says, and its keys, without those of ``leave_out``."""
    known = leave_out.model_fields if leave_out else {}
    rows = [_key(name, field) for name, field in model.model_fields.items() if name not in known]
    columns = ("key", "type", "default", "meaning")[: 4 if any(row[3] for row in rows) else 3]
    head = f"## {TITLES.get(model.__name__, model.__name__)}\n\n{prose(inspect.getdoc(model) or '')}\n\n"
    return head + table(columns, [row[: len(columns)] for row in rows]) + "\n"


def configs() -> str:
    """Every model of a config once: first what all experiments have, then what each kind adds."""
    common = experiment.Common
    made = [keys(common), keys(experiment.Config, common), keys(experiment.SequenceConfig, common)]
    known = {common, experiment.Config, experiment.SequenceConfig}
    for model in (*_models(experiment.Config), *_models(experiment.SequenceConfig)):
        if model not in known:
            known.add(model)
            made.append(keys(model))
    return "\n".join([*made, entry("Evaluation", Evaluation), entry("Resources", Resources), _presets()])


def _presets() -> str:
    names = [field.name for field in fields(Resources)]
    rows = [(f"`{name}`", *(str(getattr(parse_resources(name), n)) for n in names)) for name in PRESETS]
    return "Presets:\n\n" + table(("preset", *(f"`{name}`" for name in names)), rows)


def searches() -> str:
    """The keys of a search, and its scheduler."""
    return keys(SearchFile) + "\n## Schedulers\n\n" + entry("asha", Asha, 3)


def patches() -> str:
    """The keys of a patch check."""
    return "\n".join(keys(model) for model in dict.fromkeys(_models(PatchConfig)))


def games() -> str:
    """Every built-in game with its mechanics."""
    made = []
    for name, game in GAMES.items():
        made.append(f"## {name.removeprefix('Graft/').removesuffix('-v0')}\n\n`{name}`: {prose(game.goal)}\n")
        rows = [_mechanic(m) for m in game.mechanics.values() if not MECHANICS[m.name].everywhere]
        made.append(table(("keyword", "range", "default", "meaning"), rows) if rows else "Only those of every game.\n")
    everywhere = [_mechanic(m) for m in MECHANICS.values() if m.everywhere]
    head = "## Mechanics of every game\n\n" + table(("keyword", "range", "default", "meaning"), everywhere)
    return "\n".join([head, *made])


def _mechanic(m: Mechanic) -> tuple[str, ...]:
    return f"`{m.name}`", m.range, default_of(m.default), prose(m.meaning)


def tunable() -> str:
    """Gymnasium's environments whose constants are keyword arguments."""
    head, made = ("keyword", "range", "default", "meaning"), []
    for name, has in tunable_envs().items():
        made.append(f"### {name}\n\n{table(head, [_mechanic(m) for m in has.mechanics])}")
        made += [f"`{stem}<{what}>`: the same of one {what} alone.\n" for stem, what in has.stems.items()]
    channel = [_mechanic(m) for m in CHANNEL]
    return "\n".join([f"### All of them\n\n{table(head, channel)}", *made])


def faults() -> str:
    """The rules by which environments of others may fail."""
    return options(FaultRules)


def commands() -> str:
    """What each command prints for ``--help``."""
    made = []
    for name, (module, _) in COMMANDS.items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            import_module(module).main(["--help"])
        made.append(f"## graft {name}\n\n```text\n{printed.getvalue().rstrip()}\n```\n")
    return "\n".join(made)


GENERATED: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (algorithms, commands, configs, encoders, faults, games, methods, patches, searches, tunable)
}


def on_files(files: Any, config: Any) -> Any:
    """Called by MkDocs: adds the pages of `BESIDE`."""
    for name, page in BESIDE.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs for every page: fills its markers, and leads links out of ``docs/`` to the published pages."""
    up = "../" * page.file.src_uri.count("/")
    for name, own in BESIDE.items():
        markdown = markdown.replace(f"](../{up}{name}", f"]({up}{own}")
    if page.file.src_uri in BESIDE.values():
        markdown = markdown.replace("](docs/", "](")
    return re.sub(r"<!-- generated: (\w+) -->", lambda found: GENERATED[found[1]](), markdown)
