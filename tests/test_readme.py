"""README and docs: short, with links, commands, keys and snippets that are there."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from graft.__main__ import COMMANDS
from graft.agents.checkpoints.checkpoint import Checkpoint
from graft.agents.networks.policy_network import NetworkConfig, build_network
from graft.envs.core.task import Task
from graft.envs.factory import schemas
from graft.experiments.config.experiment import Config, SequenceConfig, load_config
from graft.experiments.config.packaged import PACKAGED, packaged_configs
from graft.experiments.plan.stage import Comparison
from graft.experiments.report import continual, lifelong, transfer
from graft.experiments.search.definition import SearchFile, load_search
from graft.transfer import METHODS
from graft.transfer.metrics import Curve

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    str(page.relative_to(ROOT)) for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
)
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
LINKS = sorted({(page, link) for page in PAGES for link in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("`", TEXTS[page]))})


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """(page, text) of every fenced block in ``language``."""
    for page, text in TEXTS.items():
        for of, found in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            if of == language:
                yield page, found


def commands() -> list[str]:
    """Every ``graft ...`` of a line of a block, or of a literal, without its comment."""
    found = set()
    for _, block in blocks(""):
        found |= {line.partition("  #")[0].strip() for line in block.splitlines()}
    for text in TEXTS.values():
        found |= set(re.findall(r"`((?:\S*/)?graft [^`\n]+)`", text))
    return sorted({re.sub(r"^\S*bin/", "", line) for line in found if re.match(r"(\S*bin/)?graft \w", line)})


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as code hosts and MkDocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)  # comments
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def test_the_readme_is_a_page():
    assert len(TEXTS["README.md"].splitlines()) <= 200


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_lead_somewhere(page, link):
    if "://" in link:
        return
    file, _, anchor = link.partition("#")
    leads_to = (ROOT / page).parent.joinpath(file) if file else ROOT / page
    assert leads_to.exists()
    assert not anchor or anchor in anchors(leads_to)


def test_every_page_is_in_the_navigation():
    nav = set(re.findall(r"^ +- .+: ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}
    assert pages == nav - {"contributing.md", "changelog.md"}  # these two are published from the root


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command, monkeypatch):
    _, name, *words = shlex.split(command)
    if name != "COMMAND":
        module = importlib.import_module(COMMANDS[name][0])
    if not words or "--help" in words or any(word.isupper() or "[" in word for word in words):
        return  # no full command: its name alone, or placeholders
    parsed = _parsed(module, words, monkeypatch)
    for word in parsed:
        if name == "run" and "=" not in word and "/" not in word and not word.endswith(".yaml"):
            assert word in packaged_configs()
        if name == "tune" and "=" not in word and not word.endswith(".yaml"):
            assert (PACKAGED / "searches" / f"{word}.yaml").exists()


class Understood(Exception):
    """Raised in the place of what a command would do."""


def _parsed(module: Any, words: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a command read its options and stop there; returns the words that are no options."""
    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, _then_stop(getattr(argparse.ArgumentParser, name)))
    with pytest.raises(Understood) as caught:
        module.main(words)
    return next((value for value in caught.value.args[0].values() if isinstance(value, list)), [])


def _then_stop(parse: Callable[..., argparse.Namespace]) -> Callable[..., None]:
    def read(self: argparse.ArgumentParser, *args: Any) -> None:
        raise Understood(vars(parse(self, *args)))

    return read


BASE = {"name": "x", "sources": "Graft/Gather-v0", "targets": "Graft/Hunt-v0", "methods": "finetune", "seeds": 1}


@pytest.mark.parametrize(("page", "text"), list(blocks("yaml")))
def test_yaml_is_valid(page, text, tmp_path):
    keys = yaml.safe_load(text)
    if "space" in keys:
        (tmp_path / "search.yaml").write_text(text, encoding="utf-8")
        search = load_search(str(tmp_path / "search.yaml"))
        search.config()
        return
    base = {key: BASE[key] for key in ("name", "methods", "seeds")} if "sequence" in keys else BASE
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump({**base, **keys}), encoding="utf-8")
    config = load_config(str(file))
    config.method_list()
    config.algorithm_and_name()
    config.resources_asked()
    config.evaluation_plan()


def test_the_table_of_keys_has_every_key():
    table = TEXTS["docs/experiments.md"].partition("## Keys")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)[\w.:]*", table))
    elsewhere = {"sequence", "heads", "task_known"}  # in sequences.md
    assert set(Config.model_fields) | set(SequenceConfig.model_fields) <= named | elsewhere
    assert elsewhere <= set(re.findall(r"\w+", TEXTS["docs/sequences.md"]))


def test_the_table_of_a_searchs_keys_has_every_key():
    assert set(SearchFile.model_fields) == set(re.findall(r"^\| `(\w+)` \|", TEXTS["docs/search.md"], re.MULTILINE))


def test_every_method_is_named():
    assert {name for name in METHODS if f"`{name}" not in TEXTS["docs/methods.md"]} == set()


@pytest.mark.parametrize("page", sorted({page for page, _ in blocks("python")}))
def test_python_runs_and_prints_what_it_says(page, tmp_path, capsys):
    source = Task("Graft/Dodge-v0")
    Checkpoint.of(build_network(schemas(source), NetworkConfig(), seed=0), source).save(tmp_path / "checkpoint")
    code = "\n".join(text for of, text in blocks("python") if of == page)
    code = code.replace("runs/quickstart/stages/<id>", str(tmp_path))
    exec(compile(code, page, "exec"), {})
    said = re.findall(r"^print\(.+\)  # (.+)$", code, re.MULTILINE)
    assert said
    assert capsys.readouterr().out.splitlines()[: len(said)] == said


@pytest.mark.parametrize("name", packaged_configs())
def test_every_experiment_is_mentioned(name):
    assert f"`{name}`" in TEXTS["docs/experiments.md"]
    assert load_config(name).name == name


def fields_of(page: str, heading: str) -> set[str]:
    """Names in the first column of the table under a heading."""
    section = re.split(r"^## ", TEXTS[page].partition(f"## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def measured() -> transfer.TransferResult:
    curve = Curve([0, 1, 2], [0.0, 0.5, 1.0])
    comparison = Comparison(None, Task("Graft/Dodge-v0"), METHODS["scratch"](), (0,), ("a",), ("b",))
    return transfer.TransferResult(comparison, (curve,), (curve,), 0)


def test_fields_of_results_are_those_in_the_docs():
    assert fields_of("docs/output.md", "Fields of a row") == {*transfer.rows([measured()], 0.5)[0], "cost"}


def test_fields_of_a_sequences_results_are_those_in_the_docs():
    curves = ((Curve([0, 1], [0.0, 1.0]),) * 2,)
    lived = continual.ContinualResult(
        METHODS["finetune"](), np.eye(2)[None], curves, ({"parameters": 1, "bytes_beside": 0},), 0
    )
    fields = {*continual.row(lived, lived), "lifelong", "cost"}  # which other modules add
    assert fields_of("docs/output.md", "Fields of a sequence's row") == fields
    suite = fields_of("docs/output.md", "Which of them are those of l2metrics?")
    assert suite == set(lifelong.metrics_of(lived, lived, ["A", "B"]))
