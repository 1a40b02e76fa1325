"""What a vector store in an object store costs: questions, bytes, seconds; of a cold and a warm run, and 1 % new texts.

A real S3 server (moto) answers each question after a delay, and counts. A lexical encoder of width 256, fitted on a few
texts, makes the vectors, so that the time is the store's. A warm run does what `hnmine mine` does with a store that has
everything: it asks what is missing, takes the queries and a sample of the documents, and reads all documents twice.

    python benchmarks/store.py [--texts 100000] [--delay 0.03] [--label after]

It adds a row to benchmarks/store.json. With the package of another commit on PYTHONPATH it measures that one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).with_suffix(".json")
NEW_SHARE, SAMPLE, QUERIES = 0.01, 5000, 500
_SERVER = """
import json, logging, sys, threading, time
from collections import Counter
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
logging.getLogger("werkzeug").setLevel(logging.ERROR)
moto, counts, lock = DomainDispatcherApplication(create_backend_app), Counter(), threading.Lock()

def counting(environ, start_response):
    method, delay = environ["REQUEST_METHOD"], float(sys.argv[1])
    if environ["PATH_INFO"] == "/_counts":
        with lock:
            answer = json.dumps(counts).encode()
            counts.clear()
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]
    time.sleep(delay)
    answer = list(moto(environ, start_response))
    with lock:
        counts[method] += 1
        length = environ.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") or environ.get("CONTENT_LENGTH")
        counts["received"] += int(length or 0)
        counts["sent"] += 0 if method == "HEAD" else sum(map(len, answer))
    return answer

server = make_server("127.0.0.1", 0, counting, threaded=True)
print(server.server_port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
"""


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--delay", type=float, default=0.03, help="seconds before each answer")
    parser.add_argument("--label", default="after")
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    command = [sys.executable, "-c", _SERVER, str(options.delay)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdout is not None
        assert server.stdin is not None
        port = int(server.stdout.readline())
        row = {"label": options.label, "texts": options.texts, "delay": options.delay} | measure(
            Path(folder), port, options.texts
        )
        server.stdin.close()
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    RESULTS.write_text(json.dumps([each for each in before if each["label"] != options.label] + [row], indent=1) + "\n")


def measure(folder: Path, port: int, count: int) -> dict[str, Any]:
    """Return questions by method, bytes and seconds of each stage."""
    import pyarrow.fs as pafs

    from hnmine.config.encoders import EncoderConfig, LexicalConfig
    from hnmine.corpus.text_keys import keys_of
    from hnmine.embedding.encode import encode_missing
    from hnmine.embedding.store import VectorStore
    from hnmine.models.plan import plan
    from hnmine.runs.device import Choice
    from hnmine.types import Role, Texts

    # Make texts, an encoder, and a bucket.
    rng, words = np.random.default_rng(0), [f"word{i}" for i in range(5000)]
    made = [" ".join(words[i] for i in rng.zipf(1.3, 12) % 5000) + f" {number}" for number in range(count + QUERIES)]
    new = int(count * NEW_SHARE)
    parts: dict[str, Texts] = {
        name: Texts(ids=tuple(map(str, range(len(texts)))), texts=tuple(texts))
        for name, texts in {"old": made[: count - new], "all": made[:count], "queries": made[count:]}.items()
    }
    config = EncoderConfig(name="lexical", lexical=LexicalConfig(width=256))
    planned = plan(config, parts["queries"], folder, Choice(kind="cpu", reason="here"), 8192)
    query = f"endpoint_override=127.0.0.1:{port}&scheme=http"
    pafs.FileSystem.from_uri(f"s3://bucket/?{query}&allow_bucket_creation=true")[0].create_dir("bucket")
    address = f"s3://bucket/store?{query}"
    keys = {name: keys_of(texts.texts, planned.reading("document")) for name, texts in parts.items()}

    def encode(name: str) -> None:
        texts: dict[Role, Texts] = {"document": parts[name], "query": parts["queries"]}
        each: dict[Role, Any] = {"document": keys[name], "query": keys["queries"]}
        encode_missing(planned, texts, each, VectorStore(address, planned.fingerprint), ray=False)

    def mine(name: str) -> None:
        store, documents = VectorStore(address, planned.fingerprint), keys[name]
        assert store.contains(np.concatenate([documents, keys["queries"]]))[0].all()
        assert store.load(keys["queries"])[1].all()
        assert store.load(documents[np.random.default_rng(0).permutation(len(documents))[:SAMPLE]])[1].all()
        for _ in range(2):
            assert sum(len(rows) for rows, _ in store.scan(documents)) == len(documents)

    # Measure.
    stages: dict[str, Callable[[], None]] = {
        "cold: encode": lambda: encode("old"),
        "warm: mine": lambda: mine("old"),
        "1 % new: encode": lambda: encode("all"),
        "1 % new: mine": lambda: mine("all"),
        "warm: what is missing": lambda: encode("all"),
    }
    counted(port)
    found: dict[str, Any] = {}
    for stage, work in stages.items():
        began = time.monotonic()
        work()
        found[stage] = {"seconds": round(time.monotonic() - began, 1)} | counted(port)
        print(stage, found[stage], flush=True)
    files = VectorStore(address, planned.fingerprint).folder.files(".parquet")
    return found | {"objects": len(files)}


def counted(port: int) -> dict[str, int]:
    """Return what the server has counted since it was asked last."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/_counts", timeout=60) as answer:
        counts: dict[str, int] = json.load(answer)
    return dict(sorted(counts.items()))


if __name__ == "__main__":
    main()
