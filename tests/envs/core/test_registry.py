"""The registry that fills itself, and the error that names the nearest name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from graft.envs import GraftError
from graft.envs.core.registry import Registry
from graft.errors import nearest, unknown


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[str]:
    """A registry over a package of two modules, each of which registers one entry."""
    package = tmp_path / "pets_for_test"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from graft.envs.core.registry import Registry\nPETS = Registry('pet', __name__)\n"
    )
    for name in ("dog", "cat"):
        text = f"from pets_for_test import PETS\nPETS.add('{name}', '{name} entry')\n"
        (package / f"{name}_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for module in [m for m in sys.modules if m.startswith("pets_for_test")]:
        monkeypatch.delitem(sys.modules, module)
    import pets_for_test  # type: ignore[import-not-found]

    registry: Registry[str] = pets_for_test.PETS
    return registry


def test_modules_are_imported_at_the_first_look_up(pets: Registry[str]) -> None:
    assert "pets_for_test.dog_module" not in sys.modules
    assert list(pets) == ["cat", "dog"]
    assert pets["dog"] == "dog entry"
    assert pets.items() == [("cat", "cat entry"), ("dog", "dog entry")]
    assert "cat" in pets
    assert "cow" not in pets


def test_unknown_name_is_answered_with_the_nearest(pets: Registry[str]) -> None:
    with pytest.raises(GraftError, match=r"Unknown pet 'dgo'; allowed: cat, dog\. Did you mean 'dog'\?"):
        pets["dgo"]


def test_two_entries_of_one_name_are_a_programming_error(pets: Registry[str]) -> None:
    entry = pets.add("cow", "moo")
    assert pets.add("cow", entry) == "moo"
    with pytest.raises(RuntimeError, match="two pets are called 'cow'"):
        pets.add("cow", "another")


def test_register_is_the_decorator_form(pets: Registry[str]) -> None:
    assert pets.register("hen")("cluck") == "cluck"
    assert pets["hen"] == "cluck"


def test_nearest_ignores_case_and_gives_up_on_strangers() -> None:
    assert nearest("GRAFT/gather-v0", ["Graft/Gather-v0", "Graft/Hunt-v0"]) == "Graft/Gather-v0"
    assert nearest("xyz", ["Graft/Gather-v0"]) is None


def test_long_lists_are_counted_not_printed() -> None:
    message = str(unknown("task", "n7x", [f"n{i}" for i in range(25)]))
    assert message == "Unknown task 'n7x'; allowed: one of 25 names. Did you mean 'n7'?"
    assert "allowed: n0, n1, n2." in str(unknown("task", "zzz", ["n2", "n1", "n0"]))
