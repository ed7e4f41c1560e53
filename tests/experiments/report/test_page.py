"""``report.html`` and the exports of runs whose numbers are known, read back as a reader's programs would."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from support.html_page import Page
from support.known_run import HOSTILE, LEVELS, SCALE, TARGET, assert_numbers_are_those_of, numbers, write_run

from graft.agents.pretrained import FOLDER
from graft.experiments.config.experiment import GIVEN
from graft.experiments.report import continual, lifelong
from graft.experiments.report.__main__ import main
from graft.experiments.report.common import NO_SCRATCH, UNLEARNED
from graft.experiments.report.exports import latex_text
from graft.experiments.report.page.curves import running
from graft.experiments.report.results import VERSION
from graft.experiments.report.serve import LivePage
from graft.experiments.report.so_far import latest
from graft.transfer import METHODS
from graft.transfer.metrics import Curve
from graft.transfer.statistics import interquartile_mean


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """The folder of the run, its results, its page, and the page's text."""
    out = tmp_path_factory.mktemp("known")
    data = write_run(out)
    assert main([str(out), "--csv", str(out / "csv"), "--latex", str(out / "tables" / "t.tex")]) == 0
    page = Page.of(out / "report.html")
    return out, data, page, page.text


def copied(known, folder):
    """A copy of the run in ``folder``; returns its results, to change."""
    folder.mkdir(exist_ok=True)
    for name in ("results.json", "experiment.json", "stages"):
        (shutil.copytree if name == "stages" else shutil.copy)(known[0] / name, folder / name)
    return json.loads((folder / "results.json").read_text())


def rewritten(known, folder, change=lambda data: None, *options):
    """The page of a copy of the run whose results ``change`` has altered, and the exit code."""
    data = copied(known, folder)
    change(data)
    (folder / "results.json").write_text(json.dumps(data))
    code = main([str(folder), *map(str, options)])
    return code, Page.of(folder / "report.html") if code == 0 else None


def beside(known, folder, first, second):
    """The page of two copies, ``one`` and ``two``, whose results these have altered."""
    for name, change in (("one", first), ("two", second)):
        data = copied(known, folder / name)
        change(data)
        (folder / name / "results.json").write_text(json.dumps(data))
    file = folder / "new" / "both.html"
    assert main([str(folder / "one"), str(folder / "two"), "--html", str(file)]) == 0
    return Page.of(file)


def of_class(page, kind):
    """The text of the first element of a class."""
    return next(text for _, a, text in page.elements if a.get("class") == kind)


def warned(page):
    return of_class(page, "warnings")


def summed_up(page):
    return of_class(page, "summary")


def test_the_pages_numbers_are_those_of_the_results(known):
    _, data, page, _ = known
    assert_numbers_are_those_of(data, page)


def test_curves_are_those_of_the_stages(known):
    """The table beside a chart has the interquartile mean over seeds at each evaluation."""
    _, _, page, _ = known
    start = next(i for i, e in enumerate(page.elements) if e[0] == "table" and e[1].get("class") == "points")
    cells = [text for tag, _, text in page.elements[start:] if tag == "td"][: 3 * 4]
    for k in range(4):
        for j, levels in enumerate(LEVELS.values()):
            expected = interquartile_mean([(levels[k] + seed / 10) / 10 for seed in range(5)])
            assert float(cells[3 * k + j].split()[0]) == pytest.approx(expected, abs=0.0006)
    assert [text for _, _, text in page.all("button")].count("single seeds") == 1


def test_a_stage_that_runs_is_drawn_up_to_its_half_written_line(known, tmp_path):
    out, data = tmp_path / "run", copied(known, tmp_path / "run")
    stage = {**next(s for s in data["stages"] if s["id"] == "frozen4"), "id": "live", "status": "running"}
    data["stages"].append(stage)
    shutil.copytree(out / "stages" / "frozen4", out / "stages" / "live")
    (out / "results.json").write_text(json.dumps(data))
    record = {"status": "running", "label": stage["label"], "spec": {"source": "p0", "budget": 5000}}
    (out / "stages" / "live" / "stage.json").write_text(json.dumps(record))
    logged = out / "stages" / "live" / "metrics.jsonl"
    whole = logged.read_bytes()
    lines = whole.splitlines(keepends=True)
    logged.write_bytes(b"".join([*lines[:3], b'{"env_steps": 2500, "rollout/return_mean": 1.0}\n', lines[3][:20]]))
    section = running(latest(out))
    assert section is not None
    (drawn,) = section.charts
    assert (drawn.title, [line.name for line in drawn.lines]) == (str(TARGET), ["frozen · seed 4 (running, 50 %)"])
    returns = [json.loads(line)["eval/return_mean"] for line in lines[:3]]
    assert [(p.text, p.values[0].iqm) for p in drawn.points] == list(zip(("0", "1,000", "2,000"), returns, strict=True))
    assert "(running, 50 %)" in LivePage(out).text()
    assert main([str(out)]) == 0
    assert "(running, 50 %)" in (out / "report.html").read_text(encoding="utf-8")
    for odd in (b"", b"[1]\n", b'{"env_steps": 1, "eval/return_mean": "x"}\n', b'{"env_steps": NaN}\n', b"\xff\n"):
        logged.write_bytes(odd)
        assert running(latest(out)) is None
    logged.write_bytes(b'{"env_steps": 0, "eval/return_mean": Infinity}\n' + lines[1])
    assert [p.text for p in running(latest(out)).charts[0].points] == ["1,000"]


def test_lines_are_drawn_where_their_values_are(known):
    """Both ends of a line, in the picture's units, against the ticks of its axis."""
    *_, text = known
    plot = text[text.index('class="plot') : text.index("</svg>", text.index('class="plot'))]
    ticks = {float(label): float(y) for y, label in re.findall(r'y2="([\d.]+)"/><text [^>]*>([-\d.]+)</text>', plot)}
    (low, low_y), *_, (high, high_y) = sorted(ticks.items())
    scratch = re.findall(r'class="mean" d="M([^"]+)"', plot)[0]
    for point, k in ((scratch.split("L")[0], 0), (scratch.split("L")[-1], 3)):
        expected = interquartile_mean([(LEVELS["scratch"][k] + seed / 10) / 10 for seed in range(5)])
        y = float(point.split()[1])
        assert low + (y - low_y) / (high_y - low_y) * (high - low) == pytest.approx(expected, abs=0.005)


def test_names_are_text_and_nothing_is_fetched(known):
    _, _, page, text = known
    ((_, _, script),) = page.all("script")
    assert not page.all("link", "iframe", "object", "embed", "base")
    assert not any(name.startswith("on") for _, attributes, _ in page.elements for name in attributes)
    targets = [a[key] for _, a, _ in page.elements for key in ("src", "href", "action", "srcset") if key in a]
    assert all(re.match(r"#|data:text/yaml;base64,|data:image/gif;base64,", target) for target in targets)
    assert "url(" not in text
    assert "@import" not in text
    assert HOSTILE in page.all("main")[0][2], "it is shown as it is"
    policy = next(a["content"] for _, a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_a_screen_reader_finds_its_way(known):
    _, _, page, _ = known
    levels = [int(tag[1]) for tag, _, _ in page.all("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [a["id"] for _, a, _ in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a["id"] in ids for a in ({"id": a["href"][1:]} for _, a, _ in page.all("a") if a["href"][0] == "#"))
    assert all(a["type"] == "button" and a["aria-pressed"] in ("true", "false") for _, a, _ in page.all("button"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for _, a, _ in page.all("svg"))
    assert all(a.get("alt") for _, a, _ in page.all("img"))
    assert all(a["tabindex"] == "0" and a["aria-label"] for _, a, _ in page.all("div") if a.get("class") == "scroll")
    assert page.all("html")[0][1] == {"lang": "en"}


BEST = "The best method on each target"
COST = "All that each method took on each target, for a seed"


def texts(page, caption, heading):
    """The rows of a table: head -> text, by what the rows are of."""
    start = next(i for i, (tag, _, text) in enumerate(page.elements) if tag == "caption" and text == caption)
    heads = itertools.takewhile(lambda element: element[0] != "tbody", page.elements[start:])
    names = [text for tag, _, text in heads if tag == "th"]
    rows = page.rows(caption, heading)
    return {cells[0][0]: dict(zip(names, (text for text, _ in cells), strict=True)) for cells in rows}


def test_what_is_best_and_what_it_cost_come_first(known):
    """finetune reaches 0.5 at step 1,000 and scratch never: 5,000 / (3,000 - 1,000) transfers, rounded up, at most."""
    _, data, page, _ = known
    first = summed_up(page).strip()
    assert first.startswith(f"finetune is best on {TARGET}, surely better than training from scratch.")
    assert f"frozen hurts on {TARGET}: surely worse than scratch." in first
    assert f"Source {HOSTILE}: pretrained by this run; 5,000 env steps for each seed." in first
    assert "Another method ends higher" not in first
    ((_, *cells),) = page.rows(BEST, "Summary")
    assert [text for text, _ in cells[3:]][::3] == ["positive", "2"]
    assert [numbers(a) for _, a in cells[1:3]] == [
        [data["rows"][k]["auc"][e] for e in ("iqm", "low", "high")] for k in (1, 0)
    ]
    assert numbers(cells[4][1]) == [data["rows"][1]["auc"]["iqm"] - data["rows"][0]["auc"]["iqm"]]
    assert numbers(cells[5][1]) == [3000]
    found = texts(page, COST, "Cost")
    assert found[f"finetune on {TARGET}"]["has paid after"] == "at most 3"
    assert found[f"frozen on {TARGET}"]["has paid after"] == "never"
    assert [found[f"finetune on {TARGET}"][key] for key in ("pretraining", "core seconds before")] == ["5,000", "2.5"]
    assert "The same for all of them, for a seed: env steps 3,000, core seconds 2.5." in page.all("main")[0][2]
    assert "energy and CO2e are not recorded" in page.all("main")[0][2]


def test_a_subtitle_says_what_the_run_is(known):
    *_, page, _ = known
    assert page.all("p")[0][2] == f"From {HOSTILE} to 1 target, 5 seeds, 3,000 env steps for each transfer."
    assert "frozen: The first depth blocks of the encoder keep" in " ".join(
        f"{cells[0][0]}: {cells[1][0]}" for cells in page.rows("What the methods do", "Summary")
    )


@pytest.mark.parametrize(
    ("checkpoint", "source", "words"),
    [
        ("foundation", None, ["a checkpoint that comes with Graft, trained elsewhere for ", "which comes with Graft"]),
        (
            "foundation",
            "0" * 64,
            ["a checkpoint, trained elsewhere; its env steps are not recorded.", f"(id {'0' * 64})"],
        ),
        (
            "../x",
            "f" * 64,
            ["a checkpoint, trained elsewhere; its env steps are not recorded.", "checkpoint ../x (id f"],
        ),
    ],
)
def test_a_checkpoint_is_named_with_what_it_took_or_that_this_is_not_known(known, tmp_path, checkpoint, source, words):
    """That of another id is not the one that comes with Graft."""
    made = json.loads((FOLDER / "foundation" / "manifest.json").read_text())
    data = copied(known, tmp_path)
    for row in data["rows"][1:]:
        row["env_steps"]["pretrain"] = None
    data["stages"] = data["stages"][1:]
    (tmp_path / "results.json").write_text(json.dumps(data))
    for stage in (tmp_path / "stages").glob("f*/stage.json"):
        record = json.loads(stage.read_text()) | {"spec": {"source": source or made["id"]}}
        stage.write_text(json.dumps(record))
    config = {"sources": [{"name": HOSTILE, "checkpoint": checkpoint}]}
    (tmp_path / "experiment.json").write_text(json.dumps({"config": config}))
    assert main([str(tmp_path)]) == 0
    text = Page.of(tmp_path / "report.html").all("main")[0][2]
    assert all(word in text for word in words)
    assert "0 env steps of pretraining" not in text
    assert "unknown number" not in text
    assert ("has paid after" in text.lower()) == (source is None)
    assert (f"for {made['record']['env_steps']:,} env steps." in text) == (source is None)


def test_a_checkpoint_without_a_name_is_called_by_its_folder(known, tmp_path):
    data = copied(known, tmp_path)
    for row in data["rows"]:
        row["source"] = row["source"] and "checkpoint ../x"
    (tmp_path / "results.json").write_text(json.dumps(data))
    config = {"sources": [{"name": None, "checkpoint": "../x"}]}
    (tmp_path / "experiment.json").write_text(json.dumps({"config": config}))
    assert main([str(tmp_path)]) == 0
    text = Page.of(tmp_path / "report.html").all("main")[0][2]
    assert "Source checkpoint ../x: a checkpoint, trained elsewhere; its env steps are not recorded." in text
    assert "pretrained by this run" not in text


def test_another_method_that_ends_higher_is_named(known, tmp_path):
    _, page = rewritten(known, tmp_path, lambda data: data["rows"][0].update(final=5.0))
    assert (
        f"Another method ends higher, in the last tenth of training, on {TARGET} (scratch (control): 5.00 against"
        in (summed_up(page))
    )


def test_warnings_come_before_the_numbers(known):
    _, _, page, text = known
    assert "NEGATIVE: frozen on Gather(slip=0.3) learns worse than scratch." in warned(page)
    assert text.index('class="warnings"') < text.index('class="summary"') < text.index("<table")


def test_what_was_carried_and_logged_is_shown(known):
    _, _, page, _ = known
    carried = page.rows("Weights taken from the source", "What was carried over")
    assert [text for text, _ in carried[0]] == [str(TARGET), "50% (1 padded)", "is_prey"]
    logged = page.rows(str(TARGET), "What transfers did to the network")
    assert [(cells[1][0], numbers(cells[1][1])) for cells in logged] == [("0.25 → 0.25", [0.25])] * 2
    assert "cka: similarity of the features to the source's" in page.all("main")[0][2]
    assert "dormant:" not in page.all("main")[0][2], "a legend is of what is shown"


def test_a_control_has_no_likeness_to_a_source(known, tmp_path):
    _, page = rewritten(known, tmp_path, lambda data: data["rows"][2].update(source=None, method="random_frozen"))
    logged = page.rows(str(TARGET), "What transfers did to the network")
    assert [cells[0][0] for cells in logged if cells[1][0] != "-"] == ["finetune"]
    verdicts = {cells[0][0]: cells[1] for cells in page.rows(str(TARGET), "Results")}
    assert verdicts["random_frozen (control)"][1]["class"] == "baseline", "no alarm"


def test_what_became_of_stages_is_a_warning(known, tmp_path):
    def change(data):
        data["stages"][1] |= {"status": "failed", "error": "boom <b>"}
        data["stages"][2] |= {"status": "running"}
        data["stages"][3] |= {"resumed_with_fresh_episodes": {"count": 1, "env_steps": [512]}}

    said = warned(rewritten(known, tmp_path, change)[1])
    assert "FAILED: 1 of 16 stages; the first, scratch" in said
    assert "UNFINISHED: 1 of 16 stages have not ended" in said
    assert "Stopped, and gone on with fresh episodes" in said


def test_two_runs_stand_side_by_side_with_warnings(known, tmp_path):
    """Several sources of a method are told apart, and other scales named."""

    def twice(data):
        data["rows"] += [{**row, "source": "Other"} for row in data["rows"][1:]]

    def scaled(data):
        twice(data)
        data["bounds"][str(TARGET)]["expert"] = 20.0

    page = beside(known, tmp_path, twice, scaled)
    assert [text for _, _, text in page.all("h2")] == ["All runs", "known (one)", "known (two)"]
    said = next(text for _, _, text in page.all("article"))
    assert "one: NEGATIVE: frozen" in said
    assert "two: NEGATIVE: frozen" in said
    assert "different scales (0 to 10 in one and 0 to 20 in two): they do not compare" in said
    names = [cells[0][0] for cells in page.rows("one and two", "Runs side by side")]
    assert len(set(names)) == len(names) == 5
    assert f"finetune from Other on {TARGET}" in names


def test_a_sequence_has_its_matrix(tmp_path):
    curves = tuple((Curve([0, 10], [0.0, 0.5 + i / 10]), Curve([0, 10], [0.1, 0.9])) for i in range(3))
    matrices = np.array([[[0.5 + i / 10, math.nan], [0.25, 0.9]] for i in range(3)])
    sizes = ({"parameters": 10, "bytes_beside": 0},) * 3
    stages = tuple((f"a{i}", f"b{i}") for i in range(3))
    found = continual.ContinualResult(METHODS["finetune"](), matrices, curves, sizes, 0, {"training": 20}, (), stages)
    row = continual.row(found, None, found) | {"lifelong": lifelong.metrics_of(found, None, ["A", "B"])}
    alone = row | {"method": "random_frozen", "network_per_task": True, "forgetting": dict(row["forgetting"], iqm=7.0)}
    against = {
        "performance": {"iqm": 0.2, "low": 0.1, "high": 0.3},
        "forgetting": {"iqm": 0.5, "low": 0.4, "high": 0.6},
    }
    row |= {"reference": True, "against_reference": against}
    own = {**SCALE._asdict(), "how": "estimated from this experiment"}
    data = {"version": VERSION, "name": "s", "sequence": ["A", "B"], "heads": "shared", "task_known": False}
    data |= {"bounds": [own, {**own, "how": NO_SCRATCH}], "rows": [row, alone], "stages": []}
    (tmp_path / "results.json").write_text(json.dumps(data))
    assert main([str(tmp_path), "--csv", str(tmp_path), "--latex", str(tmp_path / "t.tex")]) == 0
    page = Page.of(tmp_path / "report.html")
    cells = page.rows("finetune", "Scores after each task")
    assert [[numbers(a) for _, a in line[1:]] for line in cells] == [[[row["matrix"][0][0]], []], [[0.25], [0.9]]]
    text = page.all("main")[0][2]
    assert "finetune: 50% [40%, 60%] of finetune's forgetting, performance +0.20 [+0.10, +0.30]." in text
    assert "Scores: 0 = random policy, 1 = expert; where estimated, 0 = untrained scratch" in text
    assert "NO SCALE for B: no run of scratch has finished there" in warned(page)
    assert "No forward transfer and no intransigence: no run of scratch has finished" in warned(page)
    assert [line.count("--") for line in (tmp_path / "t.tex").read_text().splitlines() if "frozen &" in line] == [2]
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert scores["seed"].isna().all(), "the folder has no stages, whose labels name it"
    assert scores.groupby("task")["final"].mean().to_dict() == pytest.approx({"A": 0.25, "B": 0.9})


def test_tables_open_in_pandas(known):
    out, data, _, _ = known
    rows = pd.read_csv(out / "csv" / "rows.csv")
    assert rows["method"].tolist() == [row["method"] for row in data["rows"]]
    for key in ("auc", "transfer_ratio", "gain", "kept"):
        for end, ending in (("iqm", ""), ("low", "_low"), ("high", "_high")):
            expected = [
                math.nan if row[key] is None or row[key][end] is None else row[key][end] for row in data["rows"]
            ]
            np.testing.assert_array_equal(rows[key + ending], expected)
    assert rows["env_steps_pretrain"].tolist() == [0, 5000, 5000]
    assert rows["source"].tolist()[1] == HOSTILE
    scores = pd.read_csv(out / "csv" / "scores.csv")
    assert scores["seed"].tolist() == [0, 1, 2, 3, 4] * 3
    assert scores["auc"].tolist() == [area for row in data["rows"] for area in row["areas"]]
    curves = pd.read_csv(out / "csv" / "curves.csv")
    assert len(curves) == 3 * 5 * 4
    assert curves.query("stage == 'frozen3'")["seed"].tolist() == [3] * 4
    assert curves.query("stage == 'scratch2'")["score"].tolist() == pytest.approx([0.02, 0.12, 0.22, 0.32])
    assert pd.read_csv(out / "csv" / "stages.csv")["seconds"].sum() == 2.5 * 16
    with np.load(out / "csv" / "final.npz") as matrices:
        assert {name: matrices[name].shape for name in matrices} == dict.fromkeys(LEVELS, (5, 1))
        assert matrices["finetune"][:, 0].tolist() == data["rows"][1]["finals"]


def test_latex_is_balanced_and_has_the_numbers(known):
    out, data, _, _ = known
    text = (out / "tables" / "t.tex").read_text(encoding="utf-8")
    body = re.sub(r"(?m)^%.*", "", text)
    bare = re.sub(r"\\[{}$&#_%\\]", "", body)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert len(re.findall(r"\\begin", body)) == len(re.findall(r"\\end", body)) == 2
    assert all(line.count("&") == 5 for line in bare.splitlines() if "&" in line)
    ratio = data["rows"][1]["transfer_ratio"]
    assert f"finetune & ${data['rows'][1]['auc']['iqm']:.2f}\\;[" in text
    assert f"${ratio['iqm']:+.2f}" in text


def test_signs_of_latex_are_escaped():
    assert latex_text("a_b & 50% → {x}\\ ü \N{SNOWMAN}") == (r"a\_b \& 50\% $\rightarrow$ \{x\}\textbackslash{} ü ?")


def test_latex_has_lower_bounds_and_no_returns_as_scores(known, tmp_path):
    def change(data):
        data["rows"][1]["transfer_ratio"] = {"iqm": None, "low": 1.5, "high": None}
        data["rows"][2] |= {"scored": False, "target": "Hunt"}

    rewritten(known, tmp_path, change, "--latex", tmp_path / "t.tex")
    text = (tmp_path / "t.tex").read_text(encoding="utf-8")
    assert "$> +1.50$" in text
    assert text.count("mean returns, as there is no scale") == 1


@pytest.mark.slow
def test_latex_without_packages_has_all_letters(tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("no LaTeX here")
    lines = "\n\n".join(latex_text(chr(code)) for code in range(0x20, 0x250))
    (tmp_path / "t.tex").write_text(f"\\documentclass{{article}}\\begin{{document}}\n{lines}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_results_of_an_older_graft_are_read(known, tmp_path):
    """Version 1 had no version, no stages of rows and other fields; its curves are found by the labels of stages."""

    def change(data):
        del data["version"]
        for row in data["rows"]:
            for key in ("stages", "zero_shot", "kept_of", "evaluations", "heads", "better_heads", "estimated"):
                del row[key]

    _, page = rewritten(known, tmp_path, change)
    assert len(page.all("figure")) == 3
    assert numbers(page.rows(str(TARGET), "Results")[0][2][1])[0] == known[1]["rows"][0]["auc"]["iqm"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "has no results"),
        ("{", "can't be read"),
        ('{"version": 99, "rows": []}', "a newer Graft wrote"),
        ('{"version": 2, "rows": [{"auc": "x"}]}', "not the results that `graft run` writes"),
        ('{"version": "x", "rows": 3}', "not the results that `graft run` writes"),
        ('{"version": 2, "name": "a", "threshold": NaN}', "not the results that `graft run` writes"),
        ('{"version": 2, "name": "a", "sequence": ["A"], "rows": [], "stages": []}', "not the results that"),
        ('{"rows": [[1]], "stages": []}', "not the results that `graft run` writes"),
        ('{"rows": [{"method": "a", "target": "b", "auc": 3}], "stages": []}', "not the results that"),
        ("[" * 100_000, "can't be read"),
    ],
)
def test_other_folders_are_refused(tmp_path, capsys, content, sentence):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    assert main([str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err


def test_no_file_outside_of_the_folder_is_read(known, tmp_path, capsys):
    def change(data):
        data["rows"][0]["stages"][0] = "../../secret"

    assert rewritten(known, tmp_path, change)[0] == 2
    assert "no id of one" in capsys.readouterr().err


def test_clips_beyond_the_limit_are_named_only(known, tmp_path, monkeypatch):
    monkeypatch.setattr("graft.experiments.report.page.render.CLIP_BYTES", 12)
    for number in (1, 2):
        (tmp_path / f"clip_{number}.gif").write_bytes(b"GIF89a....")
    _, page = rewritten(known, tmp_path)
    ((_, attributes, _),) = page.all("img")
    assert base64.b64decode(attributes["src"].removeprefix("data:image/gif;base64,")) == b"GIF89a...."
    assert "clip_2.gif is too large for this page" in page.all("main")[0][2]


def test_targets_without_scratch_are_named(known, tmp_path):
    """Their runs are in no table, so that a reader would take them for not planned."""

    def change(data):
        data["bounds"] |= {"Hunt": SCALE._asdict(), "Dodge": SCALE._asdict()}
        data["stages"][-1]["label"] = "frozen · Hunt · seed 0"

    _, page = rewritten(known, tmp_path, change)
    assert "No table of Hunt: no run of scratch has finished there" in warned(page)
    assert "No table of Dodge: no run has finished there." in warned(page)


def test_without_any_scratch_the_page_says_so(known, tmp_path):
    _, page = rewritten(known, tmp_path, lambda data: data.update(rows=[]))
    assert f"No table of {TARGET}: no run of scratch has finished there" in warned(page)
    assert "No comparison has finished yet" not in warned(page)


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (["scratch"], f"scratch (control) is all that has finished on {TARGET}, so nothing is compared yet."),
        (["scratch", "frozen"], f"scratch has the highest mean on {TARGET}; no transfer has a higher one."),
    ],
)
def test_scratch_is_not_called_best_of_nothing(known, tmp_path, methods, words):
    def change(data):
        data["rows"] = [row for row in data["rows"] if row["method"] in methods]

    _, page = rewritten(known, tmp_path, change)
    assert words in summed_up(page)
    named = [cells[0][0] for cells in page.rows(str(TARGET), "Results")]
    assert named == (["scratch (control)"] if len(methods) == 1 else ["scratch (control) (highest mean)", "frozen"])


def test_a_higher_mean_that_is_not_sure_is_not_called_next(known, tmp_path):
    def change(data):
        higher = {"iqm": 5.0, "low": 0.0, "high": 9.0}
        data["rows"][2] |= {"auc": higher, "verdict": "unclear"}

    _, page = rewritten(known, tmp_path, change)
    assert "the mean of frozen (5.00) is higher, but it is not surely better than training" in summed_up(page)


def test_scale_and_undefined_ratios_are_explained(known, tmp_path):
    def change(data):
        for row in data["rows"]:
            row |= {"estimated": True, "heads": {"fresh": {"start": 0.5, "seeds": 5}}}
        data["rows"][1] |= {"transfer_ratio": {"iqm": None, "low": None, "high": None}, "bimodal": True}
        for row in data["rows"][1:]:
            row["env_steps"]["pretrain"] = None

    _, page = rewritten(known, tmp_path, change)
    text = page.all("main")[0][2]
    assert "Scores: 0 = untrained scratch, 1 = best of this experiment." in text
    assert "1 = expert" not in text
    assert "Where scratch's mean score is below 0.01 the ratio is undefined" in text
    assert "Heads on Gather(slip=0.3) of scratch, finetune, frozen: fresh" in text
    assert "Switch on single seeds" in warned(page)
    assert "areas.png" not in text
    assert "pretraining" not in texts(page, COST, "Cost")["frozen on " + str(TARGET)], "a column without anything"
    assert "pretrained by this run; env steps are not recorded." in summed_up(page)


def test_what_a_fine_tuning_run_took_is_shown(known, tmp_path):
    """finetune takes 2 core seconds to 0.5, of 6; scratch's whole training 3: 5 / (3 - 2) transfers, at most."""
    own = {"updates": 10, "wall_seconds": 9, "core_seconds": 3, "gpu_seconds": 0, "flops": 2e9, "peak_bytes": 5 * 10**8}
    own |= {"watt_hours": 0.01, "grams_co2e": 0.00473}
    factors = {"watts_per_core": 12, "watts_per_gpu": 200, "grams_per_kwh": 473}

    def change(data):
        data["cost"] = {"factors": factors, "total": own}
        for row in data["rows"]:
            taken = {**own, "core_seconds": 6} if row["method"] == "finetune" else own
            row["cost"] = {"before": {**own, "core_seconds": 5}, "own": taken, "inference_ms": 0.25}

    _, page = rewritten(known, tmp_path, change)
    found, text = texts(page, COST, "Cost")[f"finetune on {TARGET}"], page.all("main")[0][2]
    assert [found[key] for key in ("core seconds before", "core seconds")] == ["5.0", "6.0"]
    assert [found[key] for key in ("has paid after", "by core seconds")] == ["at most 3", "at most 5"]
    assert found["domain gap"].startswith("0.08"), "0.5 - 0.42, the middle seed"
    assert "updates 10, FLOP 2 GFLOP, memory 500 MB, energy 10 mWh, CO2e 4.73 mg, ms 0.25." in text
    seconds = page.rows("Core seconds of a transfer, mean over seeds", "Cost")
    assert [numbers(a) for _, a in seconds[0][1:]] == [[3], [6], [3]]
    assert "estimates, not measured: 12 W for each busy core" in text


def test_a_method_keeps_its_colour(known, tmp_path):
    """Also on a target on which an earlier method has no row."""

    def change(data):
        data["bounds"]["Hunt"] = SCALE._asdict()
        data["rows"] += [{**row, "target": "Hunt"} for row in (data["rows"][0], data["rows"][2])]

    _, page = rewritten(known, tmp_path, change)
    pairs = re.findall(r'class="(swatch colour\d dashes\d)"[^>]*><path[^>]*></svg>(\w+)', page.text)
    assert len(pairs) == 3 + 3, "a legend for the learning curves, and one for the profiles"
    assert len(set(pairs)) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["rows"][1].update(final=math.nan),
        lambda data: data["rows"][1].update(areas=[0.5], finals=[]),
        lambda data: data["rows"][1].update(stages=["p0"]),
        lambda data: data["bounds"][str(TARGET)].update(random=math.inf),
        lambda data: data["stages"][0].update(clipped={"task": "A"}),
        lambda data: data["rows"][1].update(heads={"fresh": {}}),
    ],
)
def test_results_that_do_not_fit_are_refused(known, tmp_path, capsys, change):
    assert rewritten(known, tmp_path, change)[0] == 2
    assert f"{tmp_path} has not the results that `graft run` writes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("transplant.json", '{"rows": [{"tensor": "a", "status": "new"}]}'),
        ("stage.json", '{"spec": [1]}'),
        ("metrics.jsonl", '{"env_steps": 0, "eval/return_mean": 1.0, "transfer/cka": null}'),
    ],
)
def test_files_of_stages_that_do_not_fit_are_named(known, tmp_path, capsys, file, content):
    copied(known, tmp_path)
    (tmp_path / "stages" / "finetune0" / file).write_text(content)
    assert main([str(tmp_path)]) == 2
    assert f"finetune0/{file} can't be read" in capsys.readouterr().err


def test_odd_names_and_gaps_are_shown(known, tmp_path):
    """Half a pair of surrogates, a mean that is missing, a folder where a clip should be, a name that is a path."""
    (tmp_path / "clip_1.gif").mkdir()

    def change(data):
        data["name"] = "../../etc/\ud800"
        data["rows"][1]["kept_of"]["iqm"] = None

    code, page = rewritten(known, tmp_path, change)
    assert code == 0
    assert "../../etc/?" in page.all("h2")[0][2]
    assert "graft run etc.yaml --out runs/etc" in page.all("main")[0][2]
    assert [a["download"] for _, a, _ in page.all("a") if "download" in a] == ["etc.yaml"]


def test_runs_without_warnings_may_be_compared(known, tmp_path):
    def clean(data):
        data["rows"], data["bounds"] = (
            data["rows"][:2],
            {str(TARGET): {**SCALE._asdict(), "how": GIVEN}},
        )
        for row in data["rows"]:
            row["evaluations"] = 9

    page = beside(known, tmp_path, clean, clean)
    assert "Nothing speaks against comparing these runs." in page.all("article")[0][2]
    assert not [a for _, a, _ in page.all("section") if a.get("class") == "warnings"]


def browser(page, *options):
    """What a browser has made of a page."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium here")
    command = [chromium, "--headless", "--no-sandbox", *options, "--dump-dom", page]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_long_page_stays_small_and_fits_a_phone(known, tmp_path):
    """Ten methods on ten targets with all the clips that it takes: less than 6 MB, and no wider than its window."""

    def change(data):
        first = data["rows"]
        targets = [f"Gather(slip=0.{k})" for k in range(10)]
        data["bounds"] = {target: SCALE._asdict() for target in targets}
        data["rows"] = [
            {**row, "target": target, "method": row["method"] if k == 0 else f"{row['method']}(option={k})"}
            for target in targets
            for k in range(4)
            for row in first[min(k, 1) :]
        ]

    for number in range(4):
        tmp_path.joinpath(f"clip_{number}.gif").write_bytes(b"GIF89a" + bytes(999_000))
    code, _ = rewritten(known, tmp_path, change)
    assert code == 0
    file = tmp_path / "report.html"
    assert 4_000_000 < file.stat().st_size < 6_000_000
    for width in (360, 1600):
        frame = tmp_path / f"frame{width}.html"
        script = "onload=()=>{const d=f.contentDocument.documentElement;document.title=d.scrollWidth+' '+d.clientWidth}"
        frame.write_text(
            f'<iframe id="f" src="report.html" width="{width}" height="900"></iframe><script>{script}</script>'
        )
        done = browser(f"file://{frame}", "--allow-file-access-from-files")
        whole, seen = map(int, re.search(r"<title>(\d+) (\d+)</title>", done.stdout).groups())
        assert whole <= seen
        assert width - 20 <= seen <= width


def test_sliders_say_of_which_chart_they_are(known):
    _, _, page, _ = known
    labels = [a["aria-label"] for _, a, _ in page.all("input")]
    assert len(set(labels)) == len(labels) == 3


@pytest.mark.slow
def test_a_browser_runs_the_page(known):
    """Its script runs under the page's own policy, reads values, and says nothing on the console."""
    done = browser(f"file://{known[0]}/report.html", "--enable-logging=stderr", "--v=0")
    page = Page(done.stdout)
    assert page.all("html")[0][1]["class"] == "script"
    assert of_class(page, "read").startswith("at 3,000 scratch (control): 0.320")
    assert "CONSOLE" not in done.stderr


def test_a_target_without_a_scale_shows_returns(known, tmp_path):
    def change(data):
        data["bounds"][str(TARGET)] = {"random": 0.0, "expert": 1.0, "how": UNLEARNED}
        for row in data["rows"]:
            row |= {"scored": False, "transfer_ratio": None, "steps_to_threshold": None, "forward_transfer": None}

    _, page = rewritten(known, tmp_path, change)
    assert "Scores are mean returns" in summed_up(page)
    assert "Has paid after" not in page.text
    assert f"NOTHING LEARNED on {TARGET}" in warned(page)
    assert [text for _, a, text in page.all("p") if a.get("class") == "axis"] == ["mean return"]


def test_pairs_are_coloured_by_their_ratio(known, tmp_path):
    """Full at a ratio of 3, either way; where it is undefined, by its lower bound."""
    ratios = {("A", "X"): (3.0, 2.0, 9.0), ("A", "Y"): (None, 1.5, None), ("B", "X"): (-1.0, -2.0, 0.1)}

    def change(data):
        scratch, good, _ = data["rows"]
        data["rows"] = [scratch]
        for (source, target), found in ratios.items():
            ratio = dict(zip(("iqm", "low", "high"), found, strict=True))
            data["rows"].append({**good, "source": source, "target": target, "transfer_ratio": ratio})

    _, page = rewritten(known, tmp_path, change)
    cells = page.rows("finetune", "From every source to every target")
    shown = [[(a.get("style"), a.get("class"), text) for text, a in line[1:]] for line in cells]
    assert shown == [
        [("--heat: 55%", "more", "+3.0 [+2.0, +9.0]"), ("--heat: 28%", "more", "> +1.5")],
        [("--heat: 18%", "less", "-1.0 [-2.0, +0.1]"), (None, None, "-")],
    ]


def test_a_transfer_to_reality_has_its_own_table(known, tmp_path):
    row = {"source": "Gather", "target": str(TARGET), "method": "finetune", "seeds": 5, "scored": True}
    keys = ("simulator", "zero_shot", "gap", "final", "worst_at_first", "worst_at_last", "forgotten")
    row |= {key: {"iqm": 0.5, "low": 0.25, "high": 0.75} for key in keys} | {"recovery_steps": 2000.0}
    _, page = rewritten(known, tmp_path, lambda data: data.update(recovery=[row]))
    ((*_, last),) = found = page.rows("Sim-to-sim proxy of a transfer to reality", "Kept and forgotten")
    assert [numbers(a) for _, a in found[0][2:8]] == [[0.5, 0.25, 0.75]] * 6
    assert last[0] == "2,000"
