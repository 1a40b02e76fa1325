"""Memory of the process that leads, and time, of `hnmine mine` on a Ray cluster whose workers read the documents.

    python benchmarks/size_on_cluster.py --out FILE.json [--documents 1000000] [--encoder FOLDER] [--nodes 3]

Texts are those of benchmarks/size.py, as Parquet files in an S3 server (moto) that also holds the vectors. The nodes
are raylets of this machine; one that does not lead is killed while texts are encoded, and a new one is started. Without
Ray one process then mines the same folder: the negatives have to be the same, byte for byte. The peak is of resident
memory; without the pages of files, which the kernel takes back where memory is short, it is the second number.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pyarrow.json as pj
import pyarrow.parquet as pq

from benchmarks.size import make, read_memory
from hnmine.runs.files import file_sha256, write_json
from hnmine.runs.manifest import versions

FILES, GROUP_ROWS = 20, 50_000
_SERVER = """
from moto.server import ThreadedMotoServer
import sys
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
_KEYS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}


def main(arguments: list[str] | None = None) -> None:
    """Mine on the cluster, a node being killed, and without it; compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the JSON goes")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--encoder", help="folder of a static encoder")
    parser.add_argument("--nodes", type=int, default=3, help="raylets, of one CPU each")
    parser.add_argument("--work", type=Path, help="where texts lie; default: a temporary folder")
    options = parser.parse_args(arguments)
    os.environ |= _KEYS | {"HF_HUB_OFFLINE": "1"}
    encoders = ["{name: lexical, lexical: {width: 256}}"]
    encoders += [f"{{name: static, model: {options.encoder}}}"] * bool(options.encoder)
    with tempfile.TemporaryDirectory(dir=options.work) as name, s3_server() as query:
        # Put the documents there.
        folder = Path(name)
        size = make(folder / "data", options.documents)
        as_parquet(folder / "data")
        address = f"s3://bucket/data?{query}"
        there, path = pafs.FileSystem.from_uri(address)
        pafs.copy_files(str(folder / "data"), path, destination_filesystem=there)

        # Mine by the cluster, and without.
        command = [sys.executable, "-m", "hnmine.cli", "mine", "--set", f"encoders=[{', '.join(encoders)}]"]
        store = ["--set", f"embed.store=s3://bucket/store?{query}"]
        found: dict[str, Any] = {"documents": options.documents, "texts_mb": size // 10**6, "nodes": options.nodes}
        found["cluster"] = by_cluster([*command, "--data", address, *store], folder / "cluster", options.nodes)
        print(found, flush=True)
        write_json(options.out, found | {"versions": versions()})
        alone = [*command, "--data", str(folder / "data"), "--set", "ray=false"]
        found["alone"] = watch(start(alone, folder / "alone"), folder / "alone")
        negatives = {file_sha256(folder / out / "negatives.parquet") for out in ("cluster", "alone")}
        found["same_negatives"] = len(negatives) == 1
        print(found, flush=True)
        write_json(options.out, found | {"versions": versions()})


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Run an S3 server with a bucket; yield the query of addresses in it."""
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        query = f"endpoint_override=127.0.0.1:{int(server.stdout.readline())}&scheme=http"
        pafs.FileSystem.from_uri(f"s3://bucket/?{query}&allow_bucket_creation=true")[0].create_dir("bucket")
        try:
            yield query
        finally:
            server.kill()


def as_parquet(data: Path) -> None:
    """Put Parquet files in the place of corpus.jsonl."""
    table = pj.read_json(data / "corpus.jsonl")
    (data / "corpus.jsonl").unlink()
    (data / "corpus").mkdir()
    each = -(-len(table) // FILES)
    for number in range(FILES):
        file = data / "corpus" / f"part-{number:05}.parquet"
        pq.write_table(table.slice(number * each, each), file, row_group_size=GROUP_ROWS)


def by_cluster(command: list[str], out: Path, nodes: int) -> dict[str, Any]:
    """Mine on so many nodes, of which one is killed and one begins."""
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": 500_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    workers = [cluster.add_node(**options) for _ in range(nodes - 1)]
    cluster.wait_for_nodes()
    killed: list[float] = []

    def kill(seconds: float, log: str) -> None:
        if not killed and " texts/s" in log:
            cluster.remove_node(workers[-1], allow_graceful=False)
            cluster.add_node(**options)
            killed.append(round(seconds, 1))

    try:
        process = start(command, out, RAY_ADDRESS=cluster.address)
        return watch(process, out, kill) | {"killed_after": killed}
    finally:
        cluster.shutdown()


def start(command: list[str], out: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start a process that leads."""
    with out.with_suffix(".log").open("wb") as log:
        return subprocess.Popen([*command, "--out", str(out)], stdout=log, stderr=log, env=os.environ | environment)


def watch(process: subprocess.Popen[bytes], out: Path, look: Any = None) -> dict[str, Any]:
    """Return seconds and the largest memory of a process until it ends."""
    began, peaks = time.monotonic(), {"RssAnon": 0, "all": 0}
    while process.poll() is None:
        memory = read_memory(process.pid)
        peaks = {name: max(peak, memory.get(name, 0)) for name, peak in peaks.items()}
        if look:
            look(time.monotonic() - began, out.with_suffix(".log").read_text(errors="replace"))
        time.sleep(0.2)
    seconds = round(time.monotonic() - began, 1)
    if process.returncode:
        sys.exit(out.with_suffix(".log").read_text(errors="replace")[-3000:])
    return {
        "seconds": seconds,
        "peak_mib": peaks["all"] // 1024,
        "peak_without_files_mib": peaks["RssAnon"] // 1024,
    }


if __name__ == "__main__":
    main()
