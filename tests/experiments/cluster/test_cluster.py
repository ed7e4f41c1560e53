"""The files that start an experiment on a cluster, checked without one: their schemas, their order, their command."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from graft.experiments import run

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "experiments" / "cluster"
DATA = Path(__file__).parent / "data"
SCHEMA = json.loads((DATA / "rayjob.schema.json").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(path):
    """Name -> version of a file of pinned requirements; extras are left out."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    found = [re.fullmatch(r"([\w.-]+)(?:\[\w+\])?==(\S+)", line) for line in lines]
    assert all(found), "a requirement is not pinned"
    return {re.sub(r"[-_.]+", "-", match[1]).lower(): match[2] for match in found}


# The Dockerfile


def instructions():
    """(instruction, its arguments), comments left out and continued lines joined, as Docker reads them."""
    lines = [line for line in (CLUSTER / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def arguments(name):
    return [rest for instruction, rest in instructions() if instruction == name]


def ignored(path):
    """Whether `.dockerignore` keeps ``path`` out of the build: the last pattern that matches it or a parent counts."""
    out = False
    for pattern in (ROOT / ".dockerignore").read_text().split("\n"):
        if pattern and not pattern.startswith("#"):
            keep, bare = pattern.startswith("!"), pattern.removeprefix("!").removeprefix("**/")
            names = Path(path).parts if pattern.startswith("**/") else [Path(path).parts[0]]
            if any(fnmatch.fnmatchcase(name, bare) for name in names):
                out = not keep
    return out


def test_the_image_is_built_from_known_instructions_on_a_python_that_graft_supports():
    known = {"FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "CMD", "ENTRYPOINT", "LABEL", "EXPOSE", "VOLUME"}
    names = [name for name, _ in instructions()]
    assert set(names) <= known
    assert names[0] == "FROM"
    assert names.count("FROM") == names.count("CMD") == 1
    image = re.fullmatch(r"python:(3)\.(\d+)-slim", arguments("FROM")[0])
    least = re.fullmatch(r">=3\.(\d+)", PROJECT["requires-python"])
    assert int(image[2]) >= int(least[1])


def test_the_image_copies_what_exists_and_what_the_build_is_given():
    copied = [source for line in arguments("COPY") for source in line.split()[:-1]]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= set(copied)
    assert set(PROJECT["license-files"]) <= set(copied)


@pytest.mark.parametrize("path", ["runs/x", ".git/HEAD", ".venv/bin", "docs/x.png", "tests/x.py", "envs/__pycache__/x"])
def test_the_build_is_not_given(path):
    assert ignored(path)


def test_the_image_installs_pinned_versions_and_extras_that_exist():
    installs = [shlex.split(part) for line in arguments("RUN") for part in line.split("&&") if "pip install" in part]
    assert all("uv==" in " ".join(words) or words[words.index("-c") + 1] == "constraints.txt" for words in installs)
    defaults = dict(line.split("=") for line in arguments("ARG"))
    assert set(defaults["EXTRAS"].split(",")) <= PROJECT["optional-dependencies"].keys()
    used = set(re.findall(r"\$\{(\w+)\}", "\n".join(line for _, line in instructions())))
    assert used == defaults.keys()
    ours, cluster = pins(ROOT / "constraints.txt"), pins(CLUSTER / "requirements.txt")
    assert {name: ours[name] for name in ours.keys() & cluster.keys()} == {"ray": cluster["ray"]}


def test_the_image_runs_as_the_user_that_the_pods_ask_for():
    assert arguments("USER") == ["1000"]
    after = instructions()[[name for name, _ in instructions()].index("USER") :]
    assert "RUN" not in [name for name, _ in after]
    assert all(pod["securityContext"]["runAsUser"] == 1000 for pod in pods(rayjob()))


# The RayJob


def text_of_rayjob(everything=False):
    """The manifest; with ``everything``, the lines that can be switched on are."""
    text = (CLUSTER / "rayjob.yaml").read_text()
    return re.sub(r"(?m)^(\s*)#(?=\S)", r"\1", text) if everything else text


def validate(document):
    """Errors of a Kubernetes object, each as `path: message`."""
    schema = {**SCHEMA, "anyOf": [{"$ref": f"#/$defs/{document['kind']}"}]}
    return [f"{e.json_path}: {e.message}" for e in Draft202012Validator(schema).iter_errors(document)]


def rayjob():
    return next(d for d in yaml.safe_load_all(text_of_rayjob()) if d["kind"] == "RayJob")


def groups(job):
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pods(job):
    return [group["template"]["spec"] for group in groups(job)]


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("everything", [False, True])
def test_the_rayjob_fits_kuberays_schema(everything):
    documents = list(yaml.safe_load_all(text_of_rayjob(everything)))
    assert [document["kind"] for document in documents] == ["PersistentVolumeClaim", "RayJob"]
    assert [error for document in documents for error in validate(document)] == []


MISTAKES = [
    ("spec", "shutdownAfterJobFinish", True),
    ("spec", "backoffLimit", "3"),
    ("spec.rayClusterSpec", "workerGroupSpec", []),
    ("spec.rayClusterSpec.headGroupSpec.rayStartParams", "num-cpus", 0),
    ("spec.rayClusterSpec.workerGroupSpecs.0", "minReplica", 0),
    ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec", "toleration", []),
    ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0", "volumeMount", []),
    ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.resources.limits", "memory", "32 GB"),
]


@pytest.mark.parametrize(("where", "key", "value"), MISTAKES)
def test_the_schema_finds(where, key, value):
    job = rayjob()
    place = job
    for step in where.split("."):
        place = place[int(step) if step.isdigit() else step]
    place[key] = value
    assert len(validate(job)) == 1


def test_every_pod_mounts_the_claim_that_all_may_write_and_runs_the_same_image():
    claim = next(yaml.safe_load_all(text_of_rayjob()))
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    found = pods(rayjob())
    for pod in found:
        volume = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]}
        mounts = {m["mountPath"]: volume[m["name"]] for m in pod["containers"][0]["volumeMounts"]}
        assert mounts == {"/shared": claim["metadata"]["name"]}
    assert len({pod["containers"][0]["image"] for pod in found}) == 1


def test_ray_is_the_version_that_is_installed_and_takes_the_start_parameters():
    job = rayjob()
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pins(ROOT / "constraints.txt")["ray"]
    given = {name for group in groups(job) for name in group["rayStartParams"]}
    assert given <= ray_options()


def test_stages_fill_a_worker():
    job = rayjob()
    options = command_options(shlex.split(job["spec"]["entrypoint"]))
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    has = group["template"]["spec"]["containers"][0]["resources"]
    assert has["limits"] == has["requests"]
    fit = float(has["limits"]["cpu"]) / float(options["--cpus"])
    assert fit * float(options["--gpus"]) == has["limits"]["nvidia.com/gpu"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert int(options["--jobs"]) == fit * group["maxReplicas"]
    assert group["minReplicas"] or int(options["--wait"]), "no node is there when the command begins"


# The Slurm script

BATCH = CLUSTER / "graft.sbatch"

ON_A_NODE = re.search(r"bash -c '(.*)' ray-on-a-node", BATCH.read_text())[1]
"""What runs Ray on a node."""

SBATCH_OPTIONS = set((DATA / "sbatch-options.txt").read_text().splitlines()[1:])

STUB = f"""#!{sys.executable}
import os, pathlib, signal, sys, time
log, name = pathlib.Path(os.environ["LOG"]), pathlib.Path(sys.argv[0]).name
words = sys.argv[1:]
def write(*text):
    with log.open("a") as file:
        file.write(" ".join(text) + "\\n")
def ended(*_):
    write("TERM", name, *words[:2])
    sys.exit(143)
signal.signal(signal.SIGTERM, ended)
write(name, *words)
"""

STUBS = {
    "hostname": 'print(os.environ.get("ADDRESSES", "::1 10.0.0.7"))',
    "scontrol": 'words[0] == "show" and print("n1", "n2", "n3", sep="\\n")',
    "srun": """
own = [word for word in words if word.startswith("--")][: [w.startswith("--") for w in words].index(False)]
if words[len(own)] == "rm":
    sys.exit(0)
node = dict(word.split("=", 1) for word in own if "=" in word)["--nodelist"]
if node not in os.environ.get("LOST", "").split():
    with (log.parent / "nodes").open("a") as file:
        file.write(node + "\\n")
time.sleep(60)
""",
    "python": """
if words[0] == "-":
    os.execv(sys.executable, [sys.executable, *words])
""",
    "graft": """
time.sleep(float(os.environ.get("LASTS", "0")))
sys.exit(int(os.environ.get("STATUS", "0")))
""",
}

FAKE_RAY = """
import os, pathlib
nodes_file = pathlib.Path(os.environ["LOG"]).parent / "nodes"
def is_initialized():
    return nodes_file.exists()
def init(address, **_):
    if not nodes_file.exists():
        raise ConnectionError
    assert address == "10.0.0.7:21234"
def nodes():
    return [{"Alive": True} for _ in nodes_file.read_text().split()]
"""


@pytest.fixture
def batch(tmp_path):
    """Starts the script as Slurm would, with programs in the place of Slurm's, Ray's and Python."""
    for name, body in STUBS.items():
        (tmp_path / name).write_text(STUB + body)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "ray.py").write_text(FAKE_RAY)
    slurm = {"JOB_ID": 11234, "JOB_NODELIST": "n[1-3]", "JOB_NUM_NODES": 3, "CPUS_PER_TASK": 8, "GPUS_ON_NODE": 1}
    started = []

    def start(*words, **changes):
        process = subprocess.Popen(
            ["bash", str(BATCH), *words],
            env={
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "PYTHONPATH": str(tmp_path / "fake"),
                "LOG": str(tmp_path / "log"),
                **{f"SLURM_{name}": str(value) for name, value in slurm.items()},
                **changes,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start, tmp_path / "log"
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def lines(log):
    return log.read_text().splitlines() if log.exists() else []


def wait_for(log, start, seconds=20):
    deadline = time.monotonic() + seconds
    while not any(line.startswith(start) for line in lines(log)):
        assert time.monotonic() < deadline, lines(log)
        time.sleep(0.02)


def ray_options():
    """The options of `ray start`, without the dashes."""
    from ray.scripts.scripts import start

    return {name.lstrip("-") for option in start.params for name in option.opts}


def test_bash_can_read_the_script():
    subprocess.run(["bash", "-n", str(BATCH)], check=True)


def test_slurm_documents_every_option():
    directives = re.findall(r"(?m)^#SBATCH (.*)$", BATCH.read_text())
    options = dict(re.fullmatch(r"--([a-z-]+)(?:=(\S+))?", line).groups() for line in directives)
    assert options.keys() <= SBATCH_OPTIONS
    assert len(options) == len(directives)
    assert {"requeue", "no-kill"} <= options.keys()
    assert re.fullmatch(r"B:USR1@\d+", options["signal"])
    assert options["open-mode"] == "append"
    body = BATCH.read_text().split("set -uo pipefail")
    assert "#SBATCH" not in body[1], "Slurm stops reading at the first command"


def test_the_head_starts_first_then_workers_and_when_all_have_joined_the_command(batch):
    start, log = batch
    process = start("my/patch.yaml", "--jobs", "4", GRAFT_SHARED="/lustre", STATUS="1")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "exit code 1" in out
    seen = [line for line in lines(log) if not line.startswith("TERM")]

    def step(node, where):
        return (
            f"srun --nodes=1 --ntasks=1 --nodelist={node} --cpus-per-task=8 --no-kill --kill-on-bad-exit=0 "
            f"bash -c {ON_A_NODE} ray-on-a-node /tmp/ray-11234 ray start {where} "
            f"--num-cpus=8 --num-gpus=1 --temp-dir=/tmp/ray-11234 --disable-usage-stats --block"
        )

    head = "--head --node-ip-address=10.0.0.7 --port=21234 --include-dashboard=false"
    assert set(seen[:2]) == {"hostname --ip-address", "scontrol show hostnames n[1-3]"}
    assert set(seen[2:4]) == {step("n1", head), "python - 10.0.0.7:21234 1 300"}
    assert set(seen[4:7]) == {
        *(step(node, "--address=10.0.0.7:21234") for node in ("n2", "n3")),
        "python - 10.0.0.7:21234 3 300",
    }
    assert seen[7] == (
        "graft run my/patch.yaml --launcher ray --address auto --out /lustre/runs/patch "
        "--gpus 0.125 --cpus 1 --retries 20 --jobs 4"
    )
    assert seen[8:] == ["srun --ntasks-per-node=1 --no-kill rm -rf /tmp/ray-11234"]
    assert lines(log).count("TERM srun --nodes=1 --ntasks=1") == 3
    given = {word.split("=")[0].lstrip("-") for line in seen[2:7] for word in line.partition("ray start")[2].split()}
    assert given <= ray_options()


def test_near_its_time_limit_the_job_ends_the_command_then_ray_and_queues_itself_again(batch):
    start, log = batch
    process = start(LASTS="60")
    wait_for(log, "graft run mechanics")
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert process.returncode == 0
    after = lines(log)[-6:]
    assert after[0] == "TERM graft run mechanics"
    assert after[1:4] == ["TERM srun --nodes=1 --ntasks=1"] * 3
    assert after[4:] == [
        "srun --ntasks-per-node=1 --no-kill rm -rf /tmp/ray-11234",
        "scontrol requeue Incomplete 11234",
    ]


def test_where_ray_ends_on_a_node_its_files_go(tmp_path):
    """Slurm sends TERM to all processes of a step."""
    files, began = tmp_path / "ray", tmp_path / "began"
    files.mkdir()
    ray = f"import pathlib, time; pathlib.Path({str(began)!r}).touch(); time.sleep(60)"
    words = ["bash", "-c", ON_A_NODE, "ray-on-a-node", str(files), sys.executable, "-c", ray]
    process = subprocess.Popen(words, start_new_session=True)
    deadline = time.monotonic() + 20
    while not began.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert not files.exists()


def test_a_cancelled_job_ends_everything_and_is_not_queued_again(batch):
    start, log = batch
    process = start(LASTS="60")
    wait_for(log, "graft run")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert lines(log).count("TERM srun --nodes=1 --ntasks=1") == 3
    assert "TERM graft run mechanics" in lines(log)
    assert not any("requeue" in line for line in lines(log))


def test_a_lost_worker_does_not_hold_up_the_others_but_a_lost_head_ends_the_job(batch):
    start, log = batch
    out, _ = start(LOST="n3", GRAFT_JOIN_SECONDS="2").communicate(timeout=30)
    assert "not all nodes joined" in out
    assert any(line.startswith("graft run") for line in lines(log))
    log.unlink()
    (log.parent / "nodes").unlink()
    process = start(LOST="n1", GRAFT_JOIN_SECONDS="1")
    assert "head did not start" in process.communicate(timeout=30)[0]
    assert process.returncode == 1
    assert not any(line.startswith("graft") for line in lines(log))


def test_an_address_that_other_nodes_cannot_reach_is_an_error(batch):
    start, log = batch
    process = start(ADDRESSES="127.0.1.1")
    assert "GRAFT_HEAD_IP" in process.communicate(timeout=30)[0]
    assert process.returncode == 2
    assert not any("ray start" in line for line in lines(log))


# The command


def commands():
    """Where a command stands -> its words, from `graft` on."""
    last = json.loads(arguments("CMD")[0])[-1]
    script = BATCH.read_text().replace("\\\n", "")
    line = re.search(r"(?m)^graft run.*$", script)[0]
    for variable, value in {"$config": "mechanics", "$shared": "/shared", "$name": "mechanics"}.items():
        line = line.replace(variable, value)
    return {
        "Dockerfile": shlex.split(last[last.index("graft run") :]),
        "rayjob.yaml": shlex.split(rayjob()["spec"]["entrypoint"]),
        "graft.sbatch": shlex.split(line.replace('"${@:2}" &', "")),
    }


def command_options(words):
    """`--option` -> value."""
    return dict(zip(words[3::2], words[4::2], strict=True))


def test_all_start_the_same_command_where_nodes_come_it_waits_and_only_the_cpu_image_asks_for_no_gpu():
    found = commands()
    grows = found["rayjob.yaml"]
    assert grows[len(found["graft.sbatch"]) :: 2] == ["--jobs", "--wait"]
    assert grows[: len(found["graft.sbatch"])] == found["graft.sbatch"]
    assert command_options(found["Dockerfile"])["--gpus"] == "0"
    same = [word if word != "0" else "0.125" for word in found["Dockerfile"]]
    assert same == found["graft.sbatch"]


@pytest.mark.parametrize("where", ["Dockerfile", "rayjob.yaml", "graft.sbatch"])
def test_the_command_line_takes_the_command(where):
    words = commands()[where]
    assert words[:2] == ["graft", "run"]
    options = run.parser().parse_intermixed_args(words[2:])
    assert options.launcher == "ray"
    assert options.address == "auto"
    assert options.out == Path("/shared/runs/mechanics")
    assert options.config == ["mechanics"]


def test_the_page_names_every_file_and_the_files_name_the_page():
    page = (ROOT / "docs" / "rllib-and-clusters.md").read_text()
    for path in CLUSTER.iterdir():
        assert path.name in page
    assert "docs/rllib-and-clusters.md" in BATCH.read_text()
    assert "docs/rllib-and-clusters.md" in text_of_rayjob()
