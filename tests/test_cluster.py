"""The files of cluster/ agree with each other, with Ray and with hnmine; a cluster of two nodes works."""

from __future__ import annotations

import configparser
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kubernetes import submit as submitter
from cluster.vm import submit_job
from hnmine import cli
from hnmine.config.load import load
from hnmine.embedding.encode import BLOCK_TEXTS
from hnmine.nights.lease import hold
from hnmine.runs.directory import Directory
from tests.builders.collections import append_documents, write_collection
from tests.builders.commands import REPOSITORY, end_process_tree, free_ports, ray_command, wait_until_it_answers
from tests.builders.folders import result_hashes
from tests.builders.models import tiny_cross_encoder, tiny_letter_encoder
from tests.builders.parquet_collections import as_parquet, put_there
from tests.builders.settings import quick_options
from tests.builders.texts import random_texts

CLUSTER = REPOSITORY / "cluster"
KUBERNETES = CLUSTER / "kubernetes"
VM = (CLUSTER / "vm" / "aws.yaml", CLUSTER / "vm" / "gcp.yaml")
CRONTAB = CLUSTER / "vm" / "crontab"
RAYJOB = KUBERNETES / "job" / "rayjob.yaml"
SERVICE = CLUSTER / "systemd" / "hnmine-nightly.service"
TIMER = CLUSTER / "systemd" / "hnmine-nightly.timer"
README = CLUSTER / "README.md"
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
DOCKERFILE = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
GPU_NODE = "gpu_node"
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""What Kubernetes' profile `restricted` asks of a container, beside what it asks of the pod."""

# The fields of KubeRay's CRDs (ray.io/v1 of version 1.7.0, read on 2026-11-21) that are used; [] is a list.
KUBERAY = {
    "": "entrypoint entrypointResources shutdownAfterJobFinishes ttlSecondsAfterFinished activeDeadlineSeconds "
    "backoffLimit submitterPodTemplate",
    "rayClusterSpec.": "rayVersion authOptions.mode enableInTreeAutoscaling autoscalerOptions.version "
    "autoscalerOptions.idleTimeoutSeconds autoscalerOptions.securityContext",
    "rayClusterSpec.headGroupSpec.": "serviceType enableIngress rayStartParams template",
    "rayClusterSpec.workerGroupSpecs[].": "groupName replicas minReplicas maxReplicas rayStartParams resources "
    "template",
}
FREE = ("rayStartParams", "template", "submitterPodTemplate", "securityContext", "resources")
"""Fields whose content the CRD leaves open: they belong to Ray or to Kubernetes, or are maps."""


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def one(kind: str) -> dict[str, Any]:
    every = [each for path in KUBERNETES.rglob("*.yaml") for each in documents(path)]
    (found,) = [each for each in every if each.get("kind") == kind]
    return found


def shell_lines() -> dict[str, list[list[str]]]:
    """Split every command line of these files as a shell does; a line quoted within another one is listed too."""
    fenced = re.findall(r"^ *```\n(.*?)^ *```$", README.read_text(), re.MULTILINE | re.DOTALL)
    vm = [yaml.safe_load(path.read_text()) for path in VM]
    starts = [line for each in vm for line in each["head_start_ray_commands"] + each["worker_start_ray_commands"]]
    sources = {
        "README": [line for block in fenced for line in block.splitlines()],
        "inline": re.findall(r"`([^`\n]+)`", README.read_text()),
        "crontab": [line.split(maxsplit=5)[5] for line in CRONTAB.read_text().splitlines() if line[:1] != "#"],
        "RayJob": [one("RayJob")["spec"]["entrypoint"]],
        "systemd": [unit(SERVICE)["Service"]["ExecStart"]],
        "vm": starts,
    }
    found: dict[str, list[list[str]]] = {}
    for source, lines in sources.items():
        split = [shlex.split(line, comments=True) for line in lines]
        found[source] = [
            *split,
            *(shlex.split(word) for words in split for word in words if " " in word and "{" not in word),
        ]
    return found


def called(program: str, words: list[str]) -> list[str] | None:
    """Return the arguments of the program if these words call it: first of all, or behind a word that runs commands."""
    words = words[: words.index(">>")] if ">>" in words else words
    for at, word in enumerate(words):
        runs = (
            at == 0
            or words[at - 1] == "--"
            or words[at - 2 : at]
            in (
                ["exec", "hnmine"],
                ["-u", "hnmine"],
                ["python", "/mnt/hnmine/submit_job.py"],
            )
        )
        if runs and Path(word).name == program and words[at + 2 :]:  # a lone word only mentions it
            return words[at + 1 :]
    return None


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser


# Agreement of the files with each other, with Ray and with hnmine


def test_the_same_versions_everywhere():
    pinned = dict(
        line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert one("RayJob")["spec"]["rayClusterSpec"]["rayVersion"] == pinned["ray"]
    text = "".join(path.read_text() for path in CLUSTER.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert set(re.findall(r"hnmine:([\d.]+)-(?:cpu|gpu)", text)) == {PYPROJECT["project"]["version"]}
    python = re.search(r"FROM python:(\d+\.\d+)-", DOCKERFILE)[1]
    assert python == PYPROJECT["tool"]["mypy"]["python_version"]


def test_every_command_of_hnmine_is_understood_by_its_parser():
    for source, lines in shell_lines().items():
        found = [arguments for line in lines if (arguments := called("hnmine", line))]
        assert found or source == "vm", source
        for arguments in found:
            cli.command_parser().parse_args(arguments)


def test_the_settings_of_a_cluster_are_settings():
    config = load(CLUSTER / "nightly.yaml")
    group = one("RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    most = {group["maxReplicas"], *(yaml.safe_load(path.read_text())["max_workers"] for path in VM)}
    assert most == {config.embed.actors}
    assert config.device == "gpu"


_RAY = """
import json, sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.modules.job.cli import job_cli_group
from ray.scripts.scripts import cli
files, commands = json.load(sys.stdin)
for file in files:
    config = prepare_config(yaml.safe_load(open(file)))
    validate_config(config)
    print(json.dumps(config))
for words in commands:
    group = job_cli_group if words[0] == "job" else cli
    words = words[1:] if words[0] == "job" else words
    name, command, rest = group.resolve_command(group.make_context("ray", list(words), resilient_parsing=True), words)
    command.make_context(name, rest)
"""


def ray_reads(files: list[Path], commands: list[list[str]]) -> list[dict[str, Any]]:
    """Let Ray read cluster files as `ray up` does, and parse commands without running them, in another process."""
    given = json.dumps([[str(file) for file in files], commands])
    done = subprocess.run([sys.executable, "-c", _RAY], input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_every_command_of_ray_is_understood_by_its_parser():
    words = [arguments for lines in shell_lines().values() for line in lines if (arguments := called("ray", line))]
    names = {" ".join(each[: 1 + (each[0] == "job")]) for each in words}
    assert names >= {"up", "down", "start", "exec", "rsync-up", "dashboard", "get-auth-token"}
    ray_reads([], words)


def test_ray_up_reads_its_files_and_gpus_scale_from_zero():
    for file, config in zip(VM, ray_reads(list(VM), []), strict=True):
        head, gpu = (config["available_node_types"][name] for name in ("head", "gpu"))
        assert config["head_node_type"] == "head"
        assert head["resources"] == {"CPU": 0}
        assert gpu["min_workers"] == 0 < gpu["max_workers"] == config["max_workers"]
        assert gpu["resources"]["GPU"] == gpu["resources"][GPU_NODE] == 1
        assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
        assert not config["setup_commands"], "no setup commands of Ray, which would install another Ray"
        (start,) = [line for line in config["head_start_ray_commands"] if "--head" in line]
        assert "--dashboard-host=127.0.0.1" in start
        assert "RAY_AUTH_MODE" not in file.read_text().replace("RAY_AUTH_MODE=token", "")


def test_the_job_asks_for_what_only_gpu_workers_have():
    assert json.loads(one("RayJob")["spec"]["entrypointResources"]) == submit_job.RESOURCES == {GPU_NODE: 0.01}
    lines = [words for found in shell_lines().values() for words in found if "nightly" in words and "hnmine" in words]
    on_the_head = [words for words in lines if "/mnt/hnmine/submit_job.py" in words]
    assert len(on_the_head) == 2, "the first night and the crontab"
    assert not any("submit" in words for words in lines), "`ray job submit` hides how a job ended"


def test_the_image_is_pinned_owned_by_nobody_great_and_asks_for_a_token():
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    names = [stage.splitlines()[0].rpartition(" AS ")[2] for stage in stages]
    assert names == ["base", "cpu", "gpu"]
    assert "RAY_AUTH_MODE=token" in stages[0]
    for name, stage in zip(names[1:], stages[1:], strict=True):
        installs = re.findall(r"pip install (.*)", stage)
        assert installs[0].startswith("--constraint constraints.txt ")
        extras = set(re.search(r"\.\[(.*)\]", installs[0])[1].split(","))
        assert extras == {name, "adapters", "demo"} <= PYPROJECT["project"]["optional-dependencies"].keys()
        assert "--no-deps" in installs[1]
        assert re.findall(r"^USER (.*)", stage, re.MULTILINE) == ["1000:1000"]
    for copied in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE):
        assert all((REPOSITORY / name).exists() for name in copied.split())
    assert not re.search(r"(?i)(secret|password|api_?key)", DOCKERFILE)


def fields(value: Any, prefix: str = "") -> set[str]:
    if isinstance(value, list):
        return set().union(*(fields(each, f"{prefix}[]") for each in value))
    if isinstance(value, dict) and prefix.rpartition(".")[2] not in FREE:
        return set().union(*(fields(below, f"{prefix}.{name}".lstrip(".")) for name, below in value.items()))
    return {prefix}


def test_the_rayjob_has_only_fields_that_kuberay_knows_and_none_is_left_open():
    spec = one("RayJob")["spec"]
    assert fields(spec) == {prefix + name for prefix, names in KUBERAY.items() for name in names.split()}
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["enableIngress"] is False
    assert cluster["enableInTreeAutoscaling"] is True
    (group,) = cluster["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
    assert group["resources"] == {GPU_NODE: "1"}
    assert spec["shutdownAfterJobFinishes"] is True


def pods() -> dict[str, dict[str, Any]]:
    cluster = one("RayJob")["spec"]["rayClusterSpec"]
    return {
        "head": cluster["headGroupSpec"]["template"]["spec"],
        "gpu": cluster["workerGroupSpecs"][0]["template"]["spec"],
        "job": one("RayJob")["spec"]["submitterPodTemplate"]["spec"],
        "submit": one("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"],
        "shell": one("Pod")["spec"],
    }


def test_every_pod_is_unprivileged_and_mounts_what_is_there():
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        confined = container["securityContext"] | {"readOnlyRootFilesystem": True}
        assert confined == RESTRICTED | {"readOnlyRootFilesystem": True}
        volumes = {each["name"]: each for each in pod.get("volumes", [])}
        assert {each["name"] for each in container.get("volumeMounts", [])} == volumes.keys()
        if name not in ("submit", "job"):
            assert container["volumeMounts"] == [{"name": "hnmine", "mountPath": "/hnmine"}]
            assert (
                volumes["hnmine"]["persistentVolumeClaim"]["claimName"]
                == one("PersistentVolumeClaim")["metadata"]["name"]
            )
        assert container["image"].endswith("-gpu" if name == "gpu" else "-cpu")
    assert one("RayJob")["spec"]["rayClusterSpec"]["autoscalerOptions"]["securityContext"] == RESTRICTED
    assert one("PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]
    paths = [word for word in one("RayJob")["spec"]["entrypoint"].split() if word.startswith("/")]
    paths += [each["value"] for pod in ("head", "gpu") for each in pods()[pod]["containers"][0]["env"]]
    assert paths
    assert all(path.startswith("/hnmine/") for path in paths)


def test_the_cronjob_forbids_a_second_night_and_may_only_make_and_read_rayjobs():
    spec = one("CronJob")["spec"]
    job, rayjob = spec["jobTemplate"]["spec"], one("RayJob")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert job["activeDeadlineSeconds"] > (1 + rayjob["backoffLimit"]) * rayjob["activeDeadlineSeconds"]
    assert job["template"]["spec"]["restartPolicy"] == "Never", "a podFailurePolicy allows no other"
    assert one("Role")["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}]
    account = one("ServiceAccount")["metadata"]["name"]
    assert one("RoleBinding")["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "hnmine"}]
    assert one("RoleBinding")["roleRef"]["name"] == one("Role")["metadata"]["name"]
    assert pods()["submit"]["serviceAccountName"] == account
    (container,) = pods()["submit"]["containers"]
    variables = {each["name"] for each in container["env"]}
    assert variables == set(re.findall(r'os\.environ\["(\w+)"\]', Path(submitter.__file__).read_text()))


def test_prometheus_reaches_the_pods_that_it_is_to_scrape():
    selector = one("NetworkPolicy")["spec"]["podSelector"]
    assert one("PodMonitor")["spec"]["selector"] == selector
    (endpoint,) = one("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics", "as KubeRay calls port 8080"
    opened = [port["port"] for rule in one("NetworkPolicy")["spec"]["ingress"] for port in rule.get("ports", [])]
    assert opened == [8265, 8080]


def test_kustomize_brings_the_rayjob_into_both_schedules():
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, whose kustomize builds these files")

    def built(folder: Path) -> dict[str, dict[str, Any]]:
        command = ["kubectl", "kustomize", str(folder)]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        return {each["kind"]: each for each in yaml.safe_load_all(text)}

    default = built(KUBERNETES)
    assert default["ConfigMap"]["data"] == {
        "rayjob.yaml": RAYJOB.read_text(),
        "submit.py": Path(submitter.__file__).read_text(),
    }
    pod = default["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["configMap"]["name"] == default["ConfigMap"]["metadata"]["name"]
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert pod["containers"][0]["command"][1:] == [
        f"{mount['mountPath']}/{name}" for name in ("submit.py", "rayjob.yaml")
    ]
    assert {each["metadata"].get("namespace", "hnmine") for each in default.values()} == {"hnmine"}
    assert built(KUBERNETES / "monitoring").keys() == {"PodMonitor", "PrometheusRule"}
    alternative = built(KUBERNETES / "raycronjob")
    assert alternative.keys() == {"RayCronJob"}
    assert alternative["RayCronJob"]["spec"]["jobTemplate"] == one("RayJob")["spec"]
    assert alternative["RayCronJob"]["spec"]["schedule"] == default["CronJob"]["spec"]["schedule"]


def test_systemd_takes_the_units_and_knows_the_exit_codes(tmp_path: Path):
    service = unit(SERVICE)["Service"]
    assert cli.main(["nightly", "--data", str(tmp_path / "none"), "--home", str(tmp_path / "home")]) == 2
    with hold(Directory.at(tmp_path / "home")):
        running = cli.main(["nightly", "--data", str(tmp_path / "none"), "--home", str(tmp_path / "home")])
    assert service["SuccessExitStatus"].split() == [str(running), "143"] == ["3", "143"]
    assert service["RestartPreventExitStatus"] == "2"
    assert unit(TIMER)["Timer"]["Persistent"] == "true"
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for path in (SERVICE, TIMER):
        text = path.read_text().replace("/opt/hnmine/bin/hnmine", sys.executable)
        (tmp_path / path.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.glob("hnmine-nightly.*")))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = [line for line in done.stderr.splitlines() if "hnmine" in line]
    assert not said
    assert done.returncode == 0, done.stderr


# The pod of the CronJob, against a server that answers as Kubernetes does


@dataclass
class Kubernetes:
    """A Kubernetes API that knows RayJobs; a test sets the states they go through."""

    states: list[dict[str, str] | int] = field(default_factory=list)
    """Answers to questions for the status, one after the other: a status or an HTTP error. The last one stays."""
    refusal: int = 0
    rayjobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    address: str = ""

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, dict[str, Any]]:
        self.tokens.add(token)
        prefix = "/apis/ray.io/v1/namespaces/here/rayjobs"
        if self.refusal or not path.startswith(prefix):
            return self.refusal or 404, {"message": "no"}
        if method == "POST":
            rayjob = json.loads(body)
            if rayjob["metadata"]["name"] in self.rayjobs:
                return 409, {"message": "already exists"}
            self.rayjobs[rayjob["metadata"]["name"]] = rayjob
            return 201, rayjob
        found = self.rayjobs.get(path.removeprefix(f"{prefix}/"))
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, int):
            return state, {"message": "trouble"}
        return (200, found | {"status": state}) if found else (404, {"message": "not found"})


@pytest.fixture
def kubernetes() -> Iterator[Kubernetes]:
    api = Kubernetes()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, answer = api.answer(self.command, self.path, self.headers["Authorization"], body)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    api.address = f"http://127.0.0.1:{server.server_port}"
    yield api
    server.shutdown()
    server.server_close()


@pytest.fixture
def submit(kubernetes: Kubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Call the pod's program as its container does."""
    (tmp_path / "token").write_text("let me in\n")
    seconds = {"seconds": 0.01, "tries": 5}
    rayjobs = submitter.RayJobs

    def called() -> int:
        monkeypatch.setattr(
            submitter, "RayJobs", lambda _, space: rayjobs(kubernetes.address, space, tmp_path, **seconds)
        )
        monkeypatch.setattr(sys, "argv", ["submit.py", str(RAYJOB)])
        for name, value in (("NAMESPACE", "here"), ("JOB_NAME", "night-1"), ("JOB_UID", "42")):
            monkeypatch.setenv(name, value)
        return submitter.main()

    return called


def status(state: str, job: str = "", **more: str) -> dict[str, str]:
    return {"jobDeploymentStatus": state, "jobStatus": job, **more}


def test_the_pod_makes_the_rayjob_and_waits_for_its_end(submit, kubernetes: Kubernetes, capsys):
    kubernetes.states = [{}, status("Initializing"), 503, status("Running", "RUNNING"), status("Complete", "SUCCEEDED")]
    assert submit() == 0
    assert kubernetes.tokens == {"Bearer let me in"}
    (made,) = kubernetes.rayjobs.values()
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "night-1", "uid": "42"}
    assert made["metadata"] == {"name": "night-1-ray", "ownerReferences": [owner]}
    assert made["spec"] == one("RayJob")["spec"]
    said = capsys.readouterr().out
    assert [word for word in ("made", "Initializing", "asked again", "Running", "Complete") if word not in said] == []


def test_a_pod_that_is_made_anew_waits_for_the_same_rayjob(submit, kubernetes: Kubernetes, capsys):
    kubernetes.rayjobs["night-1-ray"] = {"metadata": {"name": "night-1-ray"}}
    kubernetes.states = [status("Running", "RUNNING"), status("Complete", "SUCCEEDED")]
    assert submit() == 0
    assert "under way already" in capsys.readouterr().out


@pytest.mark.parametrize(
    "end_of_it",
    [
        status("Failed", "FAILED", reason="AppFailed", message="exit code 2"),
        status("Failed", "RUNNING", reason="DeadlineExceeded", message="too long"),
        status("ValidationFailed", reason="ValidationFailed", message="no such mode"),
        status("Complete", "STOPPED"),
    ],
)
def test_a_night_that_failed_fails_the_job_and_says_why(submit, kubernetes: Kubernetes, capsys, end_of_it):
    kubernetes.states = [status("Running", "RUNNING"), status("Retrying", "FAILED"), end_of_it]
    assert submit() == 1
    assert end_of_it.get("message", "Complete") in capsys.readouterr().out


@pytest.mark.parametrize(("refusal", "asked"), [(403, 1), (500, 5)])
def test_what_kubernetes_refuses_or_never_answers_fails_the_job(submit, kubernetes, capsys, refusal, asked):
    kubernetes.refusal = refusal
    assert submit() == 1
    said = capsys.readouterr().out
    assert f"error: HTTP Error {refusal}" in said
    assert said.count("asked again") == asked - 1


# A cluster of several nodes on this machine: every node a `ray start` of its own, with its own raylet


class Nodes:
    """A Ray with a token, whose nodes are started and killed one by one."""

    def __init__(self, home: Path, **environment: str) -> None:
        self._files = tempfile.mkdtemp(prefix="hnmine-ray-")  # short: it holds sockets
        self.port, self._dashboard, client = free_ports(3)
        self._token, self._home = secrets.token_hex(32), home
        self._head = (f"--ray-client-server-port={client}", f"--port={self.port}", "--dashboard-host=127.0.0.1")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "HOME": str(home),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            **environment,
        }

    def start(self, name: str, *options: str) -> None:
        """Start a node; the first one is the head."""
        kinds = ("node-manager", "object-manager", "dashboard-agent-listen", "metrics-export", "runtime-env-agent")
        ports = [f"--{kind}-port={port}" for kind, port in zip(kinds, free_ports(len(kinds)), strict=True)]
        command = ray_command(
            "start", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats", *ports, *options
        )
        command += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
        head = not self._processes
        known = set() if head else set(self.alive())
        if head:
            command += ["--head", *self._head, f"--dashboard-port={self._dashboard}", f"--temp-dir={self._files}"]
        else:
            command.append(f"--address=127.0.0.1:{self.port}")
        log = self._home / f"{name}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command, env=self._environment, stdout=stream, stderr=stream, start_new_session=True
            )
        self._processes[name] = process
        if head:
            wait_until_it_answers(process, f"http://127.0.0.1:{self._dashboard}/api/jobs/", self._token, log)
        self.wait_for(lambda: bool(set(self.alive()) - known))

    def kill(self, name: str) -> None:
        """End a node as a machine that loses its power: raylet and workers at once, by SIGKILL."""
        end_process_tree(self._processes.pop(name))

    def close(self) -> None:
        for name in reversed(list(self._processes)):
            self.kill(name)
        shutil.rmtree(self._files, ignore_errors=True)

    def state(self, resource: str) -> list[dict[str, Any]]:
        """List the nodes, actors or tasks of Ray's state API."""
        address = f"http://127.0.0.1:{self._dashboard}/api/v0/{resource}?limit=10000&detail=1"
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {self._token}"})
        with urllib.request.urlopen(request, timeout=60) as response:
            listed: list[dict[str, Any]] = json.load(response)["data"]["result"]["result"]
        return listed

    def that_have(self, prefix: str, resource: str, state: str) -> set[str]:
        """Return the nodes that hold actors or tasks in this state whose name begins with the prefix."""
        key = "class_name" if resource == "actors" else "func_or_class_name"
        found = [each for each in self.state(resource) if each[key].startswith(prefix) and each["state"] == state]
        return {each["node_id"] for each in found} - {None}

    def alive(self) -> list[str]:
        return [each["node_id"] for each in self.state("nodes") if each["state"] == "ALIVE"]

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.3)

    def submit(self, *entrypoint: str, options: Sequence[str] = ()) -> subprocess.Popen[str]:
        command = ray_command("job", "submit", "--address", f"http://127.0.0.1:{self._dashboard}", *options)
        command += ["--", *entrypoint]
        return subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    cluster = Nodes(tmp_path, PYTHONPATH=str(REPOSITORY))
    try:
        yield cluster
    finally:
        cluster.close()


def done(job: subprocess.Popen[str]) -> str:
    output, _ = job.communicate(timeout=400)
    assert job.returncode == 0, output
    return output


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_nodes_share_a_run_and_one_that_is_killed_changes_nothing_of_it(tmp_path: Path, nodes: Nodes):
    data = write_collection(tmp_path / "data")
    append_documents(data, random_texts(40 * BLOCK_TEXTS, "more", 60))
    model = tiny_letter_encoder(tmp_path / "letters")  # slow enough for one node not to end before the other begins
    encoder = f"encoders=[{{name: letters, model: {model}, dtype: float32}}]"
    two = [encoder, "embed.actors=2", "train.workers=2", "evaluate.depth=10"]
    start = tiny_cross_encoder(tmp_path / "start", spread=1)
    nodes.start("head", "--num-cpus=1")
    nodes.start("second", "--num-cpus=1")

    def run(out: Path) -> subprocess.Popen[str]:
        step = ["-m", "hnmine.cli", "run", "--data", str(data), "--out", str(out), *quick_options(start, *two)]
        return nodes.submit(sys.executable, *step)

    def stored(out: Path) -> int:
        return len(list((out / "store").glob("*/*.parquet")))

    output = done(run(tmp_path / "undisturbed"))
    assert "2 CPUs, 0 GPUs, 2 node(s)" in output
    assert nodes.that_have("MapWorker", "tasks", "FINISHED") == set(nodes.alive())
    assert nodes.that_have("RayTrainWorker", "actors", "DEAD") == set(nodes.alive())

    both = set(nodes.alive())
    job = run(tmp_path / "killed")
    nodes.wait_for(
        lambda: stored(tmp_path / "killed") > 2 and nodes.that_have("MapWorker", "actors", "ALIVE") == both, seconds=120
    )
    nodes.kill("second")
    assert 2 < stored(tmp_path / "killed") < 40 < stored(tmp_path / "undisturbed")
    nodes.start("third", "--num-cpus=1")  # as the autoscaler would
    assert "actors were lost" in done(job)
    assert both != set(nodes.alive())
    undisturbed, killed = (
        {name: sha for name, sha in result_hashes(tmp_path / each).items() if not name.startswith("store/")}
        for each in ("undisturbed", "killed")
    )
    assert killed == undisturbed
    assert "negatives.parquet" in killed
    assert "rerankers/distilled/model.safetensors" in killed


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_read_documents_at_an_address_and_a_killed_node_changes_no_byte_of_what_one_process_mines(
    tmp_path: Path, nodes: Nodes, s3: Callable[[str], str]
):
    data = write_collection(tmp_path / "data")
    append_documents(data, random_texts(30 * BLOCK_TEXTS, "more", 60))
    rows = [json.loads(line) for line in (data / "corpus.jsonl").read_text().splitlines()]
    as_parquet(data, rows, files=6, rows=1000)
    prefix = f"bucket/{secrets.token_hex(8)}"
    address, store = s3(f"{prefix}/data"), s3(f"{prefix}/store")
    put_there(data, address)
    model = tiny_letter_encoder(tmp_path / "letters")
    encoders = f"encoders=[{{name: letters, model: {model}, dtype: float32}}, {{name: words, lexical: {{width: 16}}}}]"

    def command(out: str, *settings: str) -> list[str]:
        options = [option for each in (encoders, *settings) for option in ("--set", each)]
        return [sys.executable, "-m", "hnmine.cli", "mine", "--data", address, "--out", str(tmp_path / out), *options]

    subprocess.run(command("alone", "ray=false"), check=True, capture_output=True, timeout=300)

    nodes.start("head", "--num-cpus=1")
    nodes.start("second", "--num-cpus=1")
    both = set(nodes.alive())
    job = nodes.submit(*command("cluster", f"embed.store={store}"))
    nodes.wait_for(lambda: nodes.that_have("MapWorker", "actors", "ALIVE") == both, seconds=200)
    assert nodes.that_have("_read_part", "tasks", "FINISHED")  # by which node, Ray decides: a part is soon read
    nodes.kill("second")
    nodes.start("third", "--num-cpus=1")
    output = done(job)
    assert "actors were lost" in output
    assert "are brought to this machine" not in output
    alone, cluster = (result_hashes(tmp_path / out) for out in ("alone", "cluster"))
    assert {name: sha for name, sha in alone.items() if not name.startswith("store/")} == cluster
    assert {"negatives.parquet", "triplets.parquet"} <= set(cluster)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_first_gpu_worker_is_started_for_the_job_and_goes_when_it_is_idle(tmp_path: Path):
    """The node types of aws.yaml under Ray's own autoscaler, whose machines are processes here."""
    (config,) = ray_reads([VM[0]], [])
    head = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"  # as the provider below calls it
    fake = {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    nodes = Nodes(tmp_path, RAY_CLOUD_INSTANCE_ID=head, RAY_OVERRIDE_NODE_ID_FOR_TESTING=head, **fake)
    types = {name: each | {"node_config": {}} for name, each in config["available_node_types"].items()}
    types["ray.head.default"] = types.pop("head")
    config |= {"available_node_types": types, "head_node_type": "ray.head.default", "idle_timeout_minutes": 0.1}
    config |= {"docker": {}, "file_mounts": {}, "initialization_commands": [], "head_setup_commands": []}
    config["provider"] = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": f"127.0.0.1:{nodes.port}",
        "launch_multiple": True,
        "disable_node_updaters": True,
    }
    (tmp_path / "autoscaling.yaml").write_text(yaml.safe_dump(config))
    look = "import os, ray; ray.init(); print('FREE', ray.available_resources().get('GPU'), end=' '); "
    look += "print('VISIBLE', os.environ.get('CUDA_VISIBLE_DEVICES'))"
    try:
        nodes.start("head", "--num-cpus=0", f"--autoscaling-config={tmp_path / 'autoscaling.yaml'}")
        assert len(nodes.alive()) == 1
        asked = ("--entrypoint-resources", one("RayJob")["spec"]["entrypointResources"])
        output = done(nodes.submit(sys.executable, "-c", look, options=asked))
        assert "FREE 1.0 VISIBLE None" in output, "the job holds no GPU, and Ray hides none from it"
        (job,) = [each for each in nodes.state("actors") if each["class_name"] == "JobSupervisor"]
        gpus = {each["node_id"] for each in nodes.state("nodes") if GPU_NODE in each["resources_total"]}
        assert {job["node_id"]} == gpus, "on the first GPU worker, and there was no other"
        nodes.wait_for(lambda: len(nodes.alive()) == 1, seconds=90)
    finally:
        nodes.close()
