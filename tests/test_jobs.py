"""The entry points in jobs/, submitted by `ray job submit` to a Ray that these tests start and end."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families
from transformers import AutoTokenizer

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.layouts import read_collection
from hnmine.embedding.encode import BLOCK_TEXTS
from hnmine.runs.counters import COUNTERS
from hnmine.runs.directory import Directory
from hnmine.runs.nodes import usable_cpus
from tests.builders.collections import append_documents, append_lines, write_collection
from tests.builders.commands import REPOSITORY, end_process_tree, free_ports, ray_command, wait_until_it_answers
from tests.builders.models import tiny_cross_encoder
from tests.builders.settings import quick_options
from tests.builders.sockets import LOOPBACK, listening
from tests.builders.texts import blank_pages

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code as git holds it, with large ignored files beside it as a working folder has them."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("hnmine", "jobs", "cluster"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".gitignore"):
        shutil.copy(REPOSITORY / name, copy / name)
    for ignored in (".venv", "out"):
        (copy / ignored).mkdir()
        (copy / ignored / "large.bin").write_bytes(secrets.token_bytes(2**20))
    return copy


@dataclass(frozen=True)
class Head:
    """A Ray of one node, to which jobs are submitted."""

    address: str
    metrics: str
    """Address of the node's counters."""
    environment: dict[str, str]
    checkout: Path

    def job(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Call `ray job` from the checkout."""
        command = ray_command("job", arguments[0], "--address", self.address, *arguments[1:])
        return subprocess.run(
            command, env=self.environment | environment, cwd=self.checkout, capture_output=True, text=True, timeout=300
        )

    def submit(self, *entrypoint: str) -> subprocess.CompletedProcess[str]:
        """Submit a job with the runtime environment of jobs/, and wait for its end."""
        return self.job("submit", "--runtime-env", "jobs/runtime_env.yaml", "--", *entrypoint)

    def run(self, name: str, *options: object) -> subprocess.CompletedProcess[str]:
        """Submit an entry point of jobs/."""
        return self.submit(sys.executable, f"jobs/{name}.py", *map(str, options))

    def counted(self) -> dict[tuple[str, str], float]:
        """Scrape the node's counters. They are keyed by name and, where they have one, by the value of their label."""
        with urllib.request.urlopen(self.metrics, timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        labels = {f"ray_{counter.name}_total": counter.labels[:1] for counter in COUNTERS}
        found: dict[tuple[str, str], float] = {}
        for sample in (sample for family in families for sample in family.samples if sample.name in labels):
            key = (sample.name, *(sample.labels[label] for label in labels[sample.name]))
            found[key] = found.get(key, 0.0) + sample.value
        return found


@pytest.fixture(scope="module")
def head(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    home = tmp_path_factory.mktemp("home")
    token = secrets.token_hex(32)
    ray_files = tempfile.mkdtemp(prefix="hnmine-ray-")  # short: it holds sockets
    port, dashboard, agent, client, metrics = free_ports(5)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray would take the address of an interface in place of 127.0.0.1
    }
    start = ray_command("start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}")
    start += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={ray_files}"]
    start += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    start += [f"--metrics-export-port={metrics}"]
    start += ["--num-cpus=2", "--object-store-memory=200000000", "--disable-usage-stats"]
    log = home / "ray-start.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(start, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    try:
        started = Head(f"http://127.0.0.1:{dashboard}", f"http://127.0.0.1:{metrics}/metrics", environment, checkout)
        wait_until_it_answers(process, f"{started.address}/api/jobs/", token, log)
        wait_until_it_answers(process, started.metrics, token, log)  # the node's agent starts the jobs; it comes last
        with listening(process.pid) as found:
            yield started
        assert set().union(*found.values()) <= LOOPBACK, found
    finally:
        end_process_tree(process)
        shutil.rmtree(ray_files, ignore_errors=True)


def objects(output: str) -> list[dict]:
    """Return the JSON lines of a job, without the lines that `ray job submit` prints itself."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def tokens_of(data: Path, model: Path) -> int:
    """Count the tokens that a model reads of the documents and the train queries."""
    collection = read_collection(data, SourcesConfig())
    queries = collection.queries.take(sorted(set(collection.pairs("train").query_rows_P.tolist())))
    texts = [*collection.documents.texts, *queries.texts]
    tokenized = AutoTokenizer.from_pretrained(model)(texts, truncation=True, max_length=128)
    return sum(map(len, tokenized["input_ids"]))


@pytest.mark.parametrize("encoder", ["lexical", pytest.param("model", marks=pytest.mark.slow)])
def test_a_submitted_job_mines_with_the_uploaded_code_and_its_counters_are_those_of_the_manifest(
    encoder: str, tmp_path: Path, head: Head
) -> None:
    before = head.counted()
    write_collection(tmp_path / "data")
    append_documents(tmp_path / "data", blank_pages(BLOCK_TEXTS))  # with these there are two blocks
    append_lines(tmp_path / "data" / "corpus.jsonl", "{broken")
    if encoder == "model":
        kind = f"model: {tiny_cross_encoder(tmp_path / 'encoder', head=False)}, dtype: float32"
    else:
        kind = "lexical: {width: 8}"
    look = "import hnmine, os; print('FOUND', hnmine.__file__, sorted(os.listdir('.')))"
    step = [sys.executable, "jobs/mine.py", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    step += ["--set", f"encoders=[{{name: {encoder}, {kind}}}]", "--log", "json"]
    step += ["--set", "embed.actors=2", "--set", "engine=torch"]
    done = head.submit("sh", "-c", f'"$0" -c "{look}" && exec "$0" "$@"', *step)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["mining"]["counts"]
    assert counts["texts_encoded"] == 30 + BLOCK_TEXTS + 12
    assert len(pq.read_table(tmp_path / "out" / "negatives.parquet")) == counts["negatives"] > 0

    found = next(line for line in output.splitlines() if line.startswith("FOUND"))
    assert str(REPOSITORY) not in found, "the uploaded copy of hnmine is the one that runs"
    assert "_ray_pkg_" in found
    for left_out in (".venv", "'out'", "'cluster'"):
        assert left_out not in found
    assert "'jobs'" in found

    lines = objects(output)
    assert {line["step"] for line in lines} >= {"read", "ray", "embed", "reduce", "select", "write", "mine"}
    (connected,) = [line for line in lines if line["step"] == "ray"]
    assert (connected["cpus"], connected["nodes"]) == (2, 1)
    assert "2 actor(s)" in output
    assert lines[-1]["message"].startswith("5 of ")

    counted = {key: count - before.get(key, 0) for key, count in head.counted().items()}
    seconds = json.loads((tmp_path / "out" / "manifest.json").read_text())["mining"]["seconds"]
    dropped = {reason: count for reason, count in counts["dropped"].items() if count}
    if encoder == "model":
        tokens = {("ray_hnmine_tokens_encoded_total", encoder): tokens_of(tmp_path / "data", tmp_path / "encoder")}
    else:
        tokens = {}
    assert {key: count for key, count in counted.items() if count} == tokens | {
        ("ray_hnmine_texts_encoded_total", encoder): counts["texts_encoded"],
        ("ray_hnmine_negatives_total",): counts["negatives"],
        **{("ray_hnmine_pairs_dropped_total", reason): count for reason, count in dropped.items()},
        ("ray_hnmine_rows_quarantined_total", "broken_json"): 1,
        **{("ray_hnmine_step_seconds_total", name): pytest.approx(took, abs=2e-3) for name, took in seconds.items()},
    }


@pytest.mark.slow
def test_a_users_mistake_fails_the_submitted_job(tmp_path: Path, head: Head) -> None:
    done = head.run("mine", "--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert f"error: {tmp_path / 'nowhere'} does not exist; give the folder of a collection" in output
    assert "exit code 2" in output
    assert 'File "' not in output, "a message, not a traceback"


@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Bearer {secrets.token_hex(32)}"}])
def test_a_request_without_the_token_is_refused(headers: dict[str, str], head: Head) -> None:
    body = json.dumps({"entrypoint": "true"}).encode()
    request = urllib.request.Request(f"{head.address}/api/jobs/", body, headers | {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=10)
    assert refusal.value.code in (401, 403)


@pytest.mark.slow
@pytest.mark.parametrize("login", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": secrets.token_hex(32)}])
def test_a_submission_without_the_token_is_refused_and_nothing_runs(
    login: dict[str, str], tmp_path: Path, head: Head
) -> None:
    entry = ["touch", str(tmp_path / "done")]
    refused = head.job("submit", "--runtime-env", "jobs/runtime_env.yaml", "--", *entry, **login)
    assert refused.returncode != 0
    assert "uthentication" in refused.stdout + refused.stderr
    assert not (tmp_path / "done").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_entry_point_runs_as_a_job(tmp_path: Path, head: Head) -> None:
    data, out, whole = write_collection(tmp_path / "data"), tmp_path / "out", tmp_path / "whole"
    quick = ["compare.arms=[two-conditions]", "compare.seeds=1", "compare.learning_rates=[0.001]"]
    options = quick_options(tiny_cross_encoder(tmp_path / "ranker"), *quick)

    def run(name: str, *more: object) -> str:
        done = head.run(name, "--data", data, *more, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "50 texts encoded, 0 were there already" in run("embed", "--out", out)
    assert "0 encoded" in run("mine", "--out", out)
    assert "The best re-ranker on dev is " in run("train", "--out", out)
    assert "4 test queries" in run("evaluate", "--out", out)
    ranked = ("--model", out / "reranker", "--out", tmp_path / "run.trec.gz", "--split", "test")
    assert "4 queries" in run("rank", *ranked, "--set", "embed.actors=2")
    assert (tmp_path / "run.trec.gz").stat().st_size
    assert "two conditions" in run("compare", "--out", out)
    assert "The best re-ranker on dev is " in run("pipeline", "--out", whole)
    assert pq.read_table(whole / "negatives.parquet").equals(pq.read_table(out / "negatives.parquet"))
    assert ", the first" in run("nightly", "--home", tmp_path / "home")
    assert {path.stem for path in (REPOSITORY / "jobs").glob("*.py")} == {
        *("embed", "mine", "train", "evaluate", "compare", "nightly", "pipeline", "rank")
    }


@pytest.mark.slow
def test_the_night_of_a_cluster_on_machines_ends_as_its_job_ended(head: Head, monkeypatch, capsys) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.environment["RAY_AUTH_TOKEN"])
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    from ray.job_submission import JobSubmissionClient

    from cluster.vm import submit_job

    def run(code: str) -> int:
        return submit_job.main([sys.executable, "-c", code], head.address, resources={}, seconds=0.5)

    assert run("print('all is well')") == 0
    assert "all is well" in capsys.readouterr().out
    assert run("raise SystemExit(3)") == 3
    look = (
        "import os; from hnmine.runs.nodes import use_cpus_of_a_driver; print('RAY', os.environ['OMP_NUM_THREADS']); "
    )
    assert run(f"{look} use_cpus_of_a_driver(); print('HNMINE', os.environ['OMP_NUM_THREADS'])") == 0
    said = capsys.readouterr().out
    assert "\nRAY 1\n" in said
    assert f"\nHNMINE {usable_cpus()}\n" in said
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(run, "import time; print('begun', flush=True); time.sleep(300)")
        client, running = JobSubmissionClient(head.address), []
        while not running:
            running = [each.submission_id for each in client.list_jobs() if each.status == "RUNNING"]
        client.stop_job(*running)
        assert stopped.result(60) == 1


@pytest.mark.slow
def test_a_job_that_is_stopped_says_so_and_leaves_the_home_free(tmp_path: Path, head: Head) -> None:
    data, home = write_collection(tmp_path / "data"), tmp_path / "home"
    options = quick_options(tiny_cross_encoder(tmp_path / "ranker"), "train.epochs=5000")
    entry = [sys.executable, "jobs/nightly.py", "--data", str(data), "--home", str(home), *options]
    name = f"night-{secrets.token_hex(4)}"
    submitted = head.job(
        "submit", "--no-wait", "--submission-id", name, "--runtime-env", "jobs/runtime_env.yaml", "--", *entry
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    for _ in range(120):
        log = head.job("logs", name).stdout
        if "step 0:" in log:
            break
        time.sleep(0.5)
    assert "step 0:" in log
    head.job("stop", name)
    assert "terminated; the same command goes on from what is kept" in head.job("logs", name).stdout
    assert (Directory.at(home) / "lock").files() == []
