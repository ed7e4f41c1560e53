"""Commands: exit codes, readers that leave early, and terminals of few characters."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from graft.__main__ import COMMANDS, main
from graft.command import command
from graft.errors import GraftError, unknown
from graft.experiments import compare

ROOT = Path(__file__).parents[1]


def ended_by(error):
    @command
    def main() -> int:
        print("begun")
        if error is not None:
            raise error
        return 3

    return main()


def in_a_process(program, *arguments):
    """What a program prints on the standard output."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", program, *arguments]
    return subprocess.run(words, env=environ, capture_output=True, text=True, check=True).stdout


def test_help_of_every_command_loads_no_library():
    program = """if True:
        import sys
        from graft.__main__ import main
        for name in sys.argv[1:]:
            try:
                main([name, "--help"])
            except SystemExit as ended:
                assert ended.code == 0
        print("loaded:", *({"gymnasium", "numba", "numpy", "pydantic", "ray", "rich", "torch"} & sys.modules.keys()))
    """
    lines = in_a_process(program, *COMMANDS).splitlines()
    for name in COMMANDS:
        assert any(line.startswith(f"usage: graft {name} ") for line in lines)
        assert any(line.startswith(f"  graft {name} ") for line in lines), "an example"
    assert lines[-1] == "loaded:"


MISSPELT = [
    "seedz=2",
    "seeds=many",
    "methods=[frozn]",
    "sources=[{id: Graft/Gather-v0, methods: [{frozn: {depth: 1}}]}]",
    "network.encoder=grid_cn",
    "algorithm=ppp",
    "backend=sb4",
    "sources=Graft/Gathr-v0",
    "targets.0.kwargs.slp=0.2",
    "no_such_config",
]


def test_a_bad_config_is_refused_without_torch():
    program = """if True:
        import sys
        from graft.__main__ import main
        for word in sys.argv[1:]:
            print(main(["run", word]))
        print(main(["tune", "tune_ewc", "seedz=2"]))
        print(main(["tune", "tune_ewc", "methods.0={frozn: {}}"]))
        print("loaded:", *({"ray", "stable_baselines3", "torch"} & sys.modules.keys()))
    """
    assert in_a_process(program, *MISSPELT).splitlines() == ["2"] * (len(MISSPELT) + 2) + ["loaded:"]


def test_unknown_names_are_listed_once():
    said = str(unknown("task", "Graft/Hun-v0", ["Graft/Hunt-v0", "Graft/Dodge-v0", "Graft/Hunt-v0"]))
    assert said == (
        "Unknown task 'Graft/Hun-v0'; allowed: Graft/Dodge-v0, Graft/Hunt-v0. Did you mean 'Graft/Hunt-v0'?"
    )


def test_the_command_lists_its_commands(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    for name, (_, meaning) in COMMANDS.items():
        assert f"  {name:{max(map(len, COMMANDS))}}  {meaning}\n" in printed
    assert main(["tun"]) == 2
    assert "Unknown command 'tun'" in capsys.readouterr().err


def test_modules_in_the_working_directory_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["elsewhere", *sys.path])
    monkeypatch.setattr(sys, "argv", ["graft"])
    with pytest.raises(SystemExit):
        main(["catalog", "--help"])
    assert sys.path[0] == str(tmp_path)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [(None, 3, ""), (GraftError("No such game."), 2, "error: No such game.\n"), (KeyboardInterrupt(), 130, "")],
)
def test_exit_codes(error, code, words, capsys):
    assert ended_by(error) == code
    assert capsys.readouterr() == ("begun\n", words)


def test_other_errors_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        ended_by(ZeroDivisionError())


def test_a_reader_that_leaves_early_ends_it_quietly(monkeypatch, capfd):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        assert ended_by(None) == 1
    assert capfd.readouterr() == ("", "")


def printed_in_ascii(monkeypatch, main, *arguments):
    """What a command prints on a terminal that shows ASCII alone."""
    raw = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
        assert main(*arguments) == 0
        return raw.getvalue().decode("ascii")


def test_what_a_terminal_lacks_is_replaced(monkeypatch):
    @command
    def main() -> int:
        print("a → b · \N{MINUS SIGN}1.5 ± 0.2, 3 \N{MULTIPLICATION SIGN} café 語")
        table = Table("score", title="a → b")
        table.add_row("≥ 1")
        Console(width=40).print(table)
        return 0

    words = printed_in_ascii(monkeypatch, main)
    assert words.startswith("a -> b - -1.5 +- 0.2, 3 x cafe ?\n")
    assert ">= 1" in words
    assert "?" not in words.splitlines()[2:]


def test_a_comparison_of_several_sources_on_such_a_terminal(monkeypatch, tmp_path):
    interval = {"iqm": 0.5, "low": 0.4, "high": 0.6}
    row = {"target": "T", "method": "finetune", "auc": interval, "transfer_ratio": {**interval, "low": -0.25}}
    rows = [{**row, "source": source, "transfer_ratio_above": None} for source in ("A", "B")]
    (tmp_path / "results.json").write_text(json.dumps({"rows": rows}))
    words = printed_in_ascii(monkeypatch, compare.main, [str(tmp_path), str(tmp_path)])
    assert "A -> T" in words
    assert "[-0.2, +0.6]" in words


def test_files_are_utf_8_whatever_the_locale(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_bytes(
        "name: ferry # Überfahrt\nsources: Graft/Gather-v0\ntargets: Graft/Dodge-v0\nmethods: frozen\nseeds: 1\n"
        "pretrain: {steps: 128}\ntransfer: {steps: 128}\n".encode()
    )
    program = (
        "import sys; from graft.experiments.config.experiment import load_config; print(load_config(sys.argv[1]).name)"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environ = {**os.environ, **locale, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", program, str(config)], env=environ, capture_output=True, text=True, check=False
    )
    assert found.stdout == "ferry\n", found.stderr


def test_errors_are_short_and_nothing_that_a_terminal_obeys(capsys):
    said = str(GraftError("a\x1b[2J\nb" + "x" * 10_000))
    assert said.startswith("a?[2J\nbx")
    assert len(said) < 5000
    assert str(GraftError("Bild\u00a0\u3000é.png\u202e")) == "Bild\u00a0\u3000é.png?", (
        "spaces of any width are a path's"
    )
    assert ended_by(OSError(36, "File name too long", "x" * 3)) == 2
    assert capsys.readouterr().err == "error: xxx cannot be used (File name too long).\n"


@pytest.mark.parametrize(("words", "found"), [(["inspect", "none"], False), (["run", "none"], True)])
def test_modules_of_the_working_directory_are_for_commands_that_play(tmp_path, monkeypatch, words, found):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(words) == 2
    assert (str(tmp_path) in sys.path) is found
