"""The README speaks of what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments.config import load_config, packaged_configs

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/results.md", "docs/cluster.md")
TEXT = "\n".join((ROOT / page).read_text() for page in PAGES)
LINKS = [(page, link) for page in PAGES for link in re.findall(r"\]\(([\w./-]+)\)", (ROOT / page).read_text())]


@pytest.mark.parametrize(("page", "link"), sorted(set(LINKS)))
def test_links_lead_somewhere(page, link):
    assert (ROOT / page).parent.joinpath(link).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"experiments\.run ([a-z0-9_]+)(?![\w.])", TEXT))))
def test_experiments_that_are_named_come_with_graft(name):
    assert name in packaged_configs()


@pytest.mark.parametrize("name", packaged_configs())
def test_every_experiment_is_mentioned(name):
    assert name in TEXT
    assert load_config(name).name == name
