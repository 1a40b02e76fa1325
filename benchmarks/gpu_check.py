"""Every GPU path against its CPU result, for whatever libraries this machine has; prints one table and writes JSON.

    python benchmarks/gpu_check.py [--json FILE] [--stand-in] [--strict] [--only PATH]

PCA         cuML against scikit-learn: kept variance, largest angle between the two subspaces
search      FAISS-GPU against FAISS on the CPU, flat and IVF: distances against the error bound, share of equal ids
scan        the full scan by torch against numpy: whatever differs lies at the radius, to within the error bound
selection   the negatives by either index: identical rows, distances and certificates
encoder     MiniLM in half precision on the GPU against float32 on the CPU: the smallest cosine
throughput  BERT-large with random weights, texts of mixed length, against `SentenceTransformer.encode` at its defaults
            on the same device; MFU: of the bfloat16 rate that a large matrix product reaches in this run
training    steps of a cross-encoder (MiniLM), mixed precision against float32 on the CPU: cosine of the gradients

Each path has a process of its own, and its row is printed and written when it is there. A path without its library or
without a GPU is a row that says so, and one that fails, or whose process ends, a row that says how. With --stand-in the
CPU plays the GPU, at small sizes. The exit code is 1 if a path that ran disagrees or failed, with --strict also if one
could not run.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from hnmine.config.encoders import EncoderConfig
from hnmine.errors import HnmineError
from hnmine.mining.conditions import Known, select
from hnmine.mining.pca import Basis, fit
from hnmine.mining.scan import error_bound, nearer
from hnmine.mining.search import Ivf, Searcher
from hnmine.models.folder import resolve
from hnmine.models.plan import plan
from hnmine.runs import device as devices
from hnmine.runs.device import Choice
from hnmine.runs.files import write_json
from hnmine.runs.manifest import versions
from hnmine.types import Float32, Int64, Pairs, Space, Texts, distance, unit_rows

Found = tuple[Int64, Float32]
"""Rows and distances (Q, K) of the nearest documents."""
CPU = Choice(kind="cpu", reason="check")
MINILM = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Sizes:
    """How much is computed."""

    rows: int
    width: int
    queries: int
    texts: int
    """Texts of the throughput; a quarter of them for the encoder."""
    layers: int
    hidden: int
    longest: int
    """Most tokens of a text."""
    matrix: int
    """Rows and columns of the product that measures the device."""
    minilm: bool
    """Compare with MiniLM's weights; else with the random ones of the throughput."""


FULL = Sizes(200_000, 384, 4_000, 4_000, layers=24, hidden=1024, longest=512, matrix=8192, minilm=True)
SMALL = Sizes(2_000, 32, 100, 60, layers=2, hidden=64, longest=64, matrix=256, minilm=False)


@dataclass(frozen=True)
class Line:
    """One row of the table; seconds of the reference (the CPU, or the peer) and of the GPU path."""

    path: str
    agrees: bool | None
    detail: str
    reference_seconds: float | None = None
    gpu_seconds: float | None = None


T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return the result and the seconds of the second of two runs; the first warms up."""
    work()
    start = time.monotonic()
    result = work()
    return result, time.monotonic() - start


def space_of(sizes: Sizes) -> tuple[Space, Pairs]:
    """Return documents in clusters with a falling spectrum, and queries between two of them."""
    rng = np.random.default_rng(0)
    scale = np.linspace(1, 0.05, sizes.width)
    centres = rng.normal(size=(max(2, sizes.rows // 200), sizes.width))[rng.integers(0, sizes.rows // 200, sizes.rows)]
    docs = unit_rows(((centres + rng.normal(size=centres.shape)) * scale).astype(np.float32))
    positives, others = rng.integers(0, sizes.rows, size=(2, sizes.queries))
    between = rng.uniform(0.3, 0.7, size=(sizes.queries, 1)).astype(np.float32)
    queries = unit_rows(between * docs[positives] + (1 - between) * docs[others])
    return Space(docs_NR=docs, queries_QR=queries), Pairs(
        query_rows_P=np.arange(sizes.queries, dtype=np.int64), doc_rows_P=positives.astype(np.int64)
    )


def check_pca(space: Space, gpu: Choice) -> Line:
    """Compare the bases."""

    def basis(device: Choice) -> Callable[[], Basis]:
        rows = len(space.docs_NR)
        return lambda: fit(lambda r: space.docs_NR[r], rows, variance=0.95, fit_rows=rows, seed=0, device=device)

    (ours, cpu_s), (theirs, gpu_s) = timed(basis(CPU)), timed(basis(gpu))
    cosine = np.linalg.svd(ours.components_RC @ theirs.components_RC.T, compute_uv=False).min()
    angle = math.degrees(math.acos(min(1.0, float(cosine))))
    same = abs(ours.kept - theirs.kept) < 1e-4 and ours.width == theirs.width and angle < 1
    detail = f"width {ours.width} / {theirs.width}, kept {ours.kept:.5f} / {theirs.kept:.5f}, angle {angle:.3f}°"
    return Line("PCA", same, detail, cpu_s, gpu_s)


def compared(path: str, space: Space, ours: Found, theirs: Found, cpu_s: float, gpu_s: float) -> Line:
    """Compare lists: the distances the GPU gives are those of its rows, and these are as near as the CPU's."""
    (our_rows_QK, our_distances_QK), (their_rows_QK, their_distances_QK) = ours, theirs
    bound, there = 2 * error_bound(space.width), their_rows_QK >= 0
    rows, queries = their_rows_QK[there], np.nonzero(there)[0]
    error = float(np.abs(distance(space.queries_QR[queries], space.docs_NR[rows]) - their_distances_QK[there]).max())
    both = there & (our_rows_QK >= 0)
    gap = np.abs(np.where(both, our_distances_QK, 0) - np.where(both, their_distances_QK, 0))
    near = float(((gap <= bound) & (there == (our_rows_QK >= 0))).mean())
    ids = float((our_rows_QK == their_rows_QK).mean())
    detail = f"error {error:.1e} (bound {bound:.1e}), distances equal to it {near:.4%}, ids equal {ids:.2%}"
    # a query as near to two centres may probe another list: a few lists in a thousand may differ
    return Line(path, error <= bound and near >= (1 if "flat" in path else 0.995), detail, cpu_s, gpu_s)


def check_search(path: str, space: Space, gpu: Choice, ivf: Ivf | None) -> Line:
    """Compare the lists, exact or approximate; the division of an IVF index is made on the CPU by both."""
    slow, fast = Searcher(space.docs_NR, CPU, ivf), Searcher(space.docs_NR, gpu, ivf)
    ours, cpu_s = timed(lambda: slow.nearest(space.queries_QR, 64))
    theirs, gpu_s = timed(lambda: fast.nearest(space.queries_QR, 64))
    return compared(path, space, ours, theirs, cpu_s, gpu_s)


def check_scan(space: Space, pairs: Pairs, gpu: Choice) -> Line:
    """Compare what lies nearer than the positive."""
    queries = space.queries_QR[:500]
    reach = distance(queries, space.docs_NR[pairs.doc_rows_P[:500]])
    ours, cpu_s = timed(lambda: nearer(queries, space.docs_NR, reach, None))
    theirs, gpu_s = timed(lambda: nearer(queries, space.docs_NR, reach, gpu.torch_name))
    found, expected = (set(zip(*(part.tolist() for part in pair), strict=True)) for pair in (theirs, ours))
    query, doc = np.array(sorted(found ^ expected), dtype=np.int64).reshape(-1, 2).T
    off = np.abs(distance(queries[query], space.docs_NR[doc]) - reach[query])
    agrees = bool((off <= error_bound(space.width)).all())
    return Line("scan: torch", agrees, f"{len(expected):,} found, {len(query)} at the radius differ", cpu_s, gpu_s)


def check_selection(space: Space, pairs: Pairs, gpu: Choice) -> Line:
    """Compare the negatives."""
    known = Known([[doc] for doc in pairs.doc_rows_P.tolist()], np.arange(len(space.docs_NR)))
    slow, fast = Searcher(space.docs_NR, CPU), Searcher(space.docs_NR, gpu)
    ours, cpu_s = timed(lambda: select(space, pairs, known, slow, negatives=4))
    theirs, gpu_s = timed(lambda: select(space, pairs, known, fast, negatives=4))
    fields = ("pair_M", "doc_rows_M", "d_query_negative_M", "certificate_M")
    same = all(np.array_equal(getattr(ours, name), getattr(theirs, name)) for name in fields)
    return Line("selection", same, f"{len(ours):,} negatives, identical: {same}", cpu_s, gpu_s)


def texts_of(count: int, longest: int) -> list[str]:
    """Return texts of mixed length, most of them short, of words that are one token each in `body`'s vocabulary."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(math.log(longest / 4), 0.8, size=count), 3, longest - 2).astype(int)
    return [" ".join(f"w{word}" for word in rng.integers(0, 20_000, length)) for length in lengths]


def smallest_cosine(a: Float32, b: Float32) -> float:
    """Return the smallest cosine between rows of the same text."""
    return float((unit_rows(a) * unit_rows(b)).sum(axis=1).min())


def encode_with(model: Path, device: Choice, dtype: str) -> Callable[[Sequence[str]], Float32]:
    """Return hnmine's encoder of this model."""
    config = EncoderConfig.model_validate({"name": "check", "model": str(model), "dtype": dtype})
    planned = plan(config, Texts(ids=(), texts=()), Path(), device, 8_192 if device.kind == "cpu" else 65_536)
    encoder = planned.build()
    return lambda texts: encoder.encode(texts)


def check_encoder(sizes: Sizes, model: Path, gpu: Choice) -> Line:
    """Compare the vectors."""
    texts = texts_of(sizes.texts // 4, sizes.longest // 4)
    slow, fast = encode_with(model, CPU, "float32"), encode_with(model, gpu, "auto")
    (ours, cpu_s), (theirs, gpu_s) = timed(lambda: slow(texts)), timed(lambda: fast(texts))
    cosine = smallest_cosine(ours, theirs)
    return Line("encoder", cosine > 0.999, f"{model.name}: smallest cosine {cosine:.5f}", cpu_s, gpu_s)


def body(sizes: Sizes, folder: Path) -> Path:
    """Save a BERT with random weights that SentenceTransformer loads; 24 layers of 1024 are BERT-large."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(20_000))]
    base = folder / "base"
    base.mkdir()
    (base / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        num_hidden_layers=sizes.layers,
        hidden_size=sizes.hidden,
        num_attention_heads=sizes.hidden // 64,
        intermediate_size=4 * sizes.hidden,
        max_position_embeddings=sizes.longest,
    )
    BertModel(config).save_pretrained(base)
    BertTokenizerFast(vocab_file=str(base / "vocab.txt")).save_pretrained(base)
    modules = [Transformer(str(base), max_seq_length=sizes.longest), Pooling(sizes.hidden, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "body"))
    return folder / "body"


def bfloat16_rate(size: int, device: str) -> float:
    """Return the operations a second of a large bfloat16 matrix product: the median of five runs of ten."""
    import torch

    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))

    def products() -> float:
        for _ in range(10):
            result = a @ b
        return float(result[0, 0])  # waits for the device

    return 20 * size**3 / float(np.median([timed(products)[1] for _ in range(5)]))


def check_throughput(sizes: Sizes, model: Path, gpu: Choice) -> Line:
    """Compare hnmine's encoder with the library's own loop, on the same device, model and texts."""
    from sentence_transformers import SentenceTransformer

    texts = texts_of(sizes.texts, sizes.longest)
    lengths = np.array([len(text.split()) + 2 for text in texts], dtype=np.float64)
    fast = encode_with(model, gpu, "auto")
    peer = SentenceTransformer(str(model), device=gpu.torch_name)
    ours, gpu_s = timed(lambda: fast(texts))
    theirs, peer_s = timed(lambda: np.asarray(peer.encode(texts, show_progress_bar=False)))
    # a token: two for each weight of a layer (12·hidden²), and scores and sums over the tokens of its text
    operations = sizes.layers * (24 * sizes.hidden**2 * lengths.sum() + 4 * sizes.hidden * np.square(lengths).sum())
    rate = bfloat16_rate(sizes.matrix, gpu.torch_name)
    cosine = smallest_cosine(ours, theirs)
    speed, peer_speed = lengths.sum() / gpu_s, lengths.sum() / peer_s
    detail = (
        f"{sizes.layers} layers of {sizes.hidden}: {speed:,.0f} tokens/s (peer {peer_speed:,.0f}), "
        f"MFU {operations / gpu_s / rate:.0%} of {rate / 1e12:,.1f} TFLOP/s, smallest cosine {cosine:.4f}"
    )
    return Line("throughput", cosine > 0.99, detail, peer_s, gpu_s)


def check_training(sizes: Sizes, model: Path, gpu: Choice) -> Line:
    """Compare the gradients of one step, dropout off, and time whole steps."""
    import torch

    from hnmine.models.reranker import CrossEncoder
    from hnmine.training.losses import infonce

    documents = texts_of(max(8, sizes.texts // 100), sizes.longest // 4)

    def stepping(device: Choice, dtype: str) -> Callable[[], torch.Tensor]:
        reranker = CrossEncoder(model, max_tokens=sizes.longest // 4, device=device.torch_name, dtype=dtype)
        optimizer = torch.optim.AdamW(reranker.model.parameters(), lr=2e-5)
        rows = reranker.tokenize(["w1 w2 w3"] * len(documents), documents)

        def step() -> torch.Tensor:
            optimizer.zero_grad()
            scores = reranker.forward(rows).reshape(-1, 4)
            infonce(scores, torch.ones_like(scores, dtype=torch.bool)).mean().backward()  # type: ignore[no-untyped-call]
            gradients = [parameter.grad for parameter in reranker.model.parameters() if parameter.grad is not None]
            optimizer.step()
            return torch.cat([gradient.flatten() for gradient in gradients]).cpu()

        return step

    dtype = "float32" if gpu.kind == "cpu" else devices.choose_dtype("auto", gpu.kind, training=True)
    (ours, cpu_s), (theirs, gpu_s) = timed(stepping(CPU, "float32")), timed(stepping(gpu, dtype))
    cosine = float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0))
    return Line("training", cosine > 0.99, f"{model.name}, {dtype}: cosine of the gradients {cosine:.5f}", cpu_s, gpu_s)


def attempt(path: str, needs: str, stand_in: bool, work: Callable[[Choice], Line]) -> Line:
    """Run one check where it can run, and say why where it cannot."""
    try:
        device = CPU if stand_in else devices.choose_device("gpu", needs)
        return work(device)
    except (HnmineError, ImportError) as error:
        return Line(path, None, f"not found: {error}")
    except Exception as error:  # a GPU library that fails must not hide the others' results
        return Line(path, False, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}")


def checks(sizes: Sizes, folder: Path) -> dict[str, tuple[str, Callable[[Choice], Line]]]:
    """Return what each path needs, and its check; what several share is made when the first asks for it."""
    space = cache(lambda: space_of(sizes))
    large = cache(lambda: body(sizes, folder))
    small = cache(lambda: resolve(MINILM) if sizes.minilm else large())
    return {
        "PCA": ("cuml-cu13", lambda gpu: check_pca(space()[0], gpu)),
        "search: flat": ("faiss-gpu", lambda gpu: check_search("search: flat", space()[0], gpu, None)),
        "search: IVF": ("faiss-gpu", lambda gpu: check_search("search: IVF", space()[0], gpu, Ivf())),
        "scan: torch": ("torch", lambda gpu: check_scan(*space(), gpu)),
        "selection": ("faiss-gpu", lambda gpu: check_selection(*space(), gpu)),
        "encoder": ("torch", lambda gpu: check_encoder(sizes, small(), gpu)),
        "throughput": ("torch", lambda gpu: check_throughput(sizes, large(), gpu)),
        "training": ("torch", lambda gpu: check_training(sizes, small(), gpu)),
    }


def attempt_apart(path: str, stand_in: bool) -> tuple[Line, str]:
    """Run one check in a process of its own, whose end cannot be that of the others; return the device's name too."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "line.json"
        command = [sys.executable, __file__, "--only", path, "--json", str(file), *["--stand-in"] * stand_in]
        code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        if not file.is_file():
            return Line(path, False, f"failed: its process ended with {code}"), ""
        record = json.loads(file.read_text(encoding="utf-8"))
        return Line(**record["lines"][0]), record["gpu"]


HEADING = f"{'path':<16} {'agrees':<7} {'reference s':>11} {'GPU s':>9} {'ratio':>7}  detail"


def row_of(line: Line) -> str:
    """Return a row of the table to print."""

    def figure(number: float | None, places: int) -> str:
        return "-" if number is None else f"{number:.{places}f}"

    agrees = {None: "-", True: "yes", False: "NO"}[line.agrees]
    both = line.reference_seconds is not None and line.gpu_seconds
    ratio = figure(line.reference_seconds / line.gpu_seconds if both else None, 1)  # type: ignore[operator]
    seconds = f"{figure(line.reference_seconds, 3):>11} {figure(line.gpu_seconds, 3):>9}"
    return f"{line.path:<16} {agrees:<7} {seconds} {ratio:>7}  {line.detail}"


def device_name(stand_in: bool) -> str:
    """Return what the GPU is called."""
    if stand_in:
        return "the CPU as stand-in"
    if devices.visible_gpus() == 0:
        return "none"
    import torch

    return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else "one that torch cannot use"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks, or one; print and write each row when it is there; return the exit code."""
    # Read the options.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"), help="where to write it")
    parser.add_argument("--stand-in", action="store_true", help="let the CPU play the GPU, at small sizes")
    parser.add_argument("--only", metavar="PATH", help="one path, in this process")
    parser.add_argument("--strict", action="store_true", help="what could not be checked fails too")
    options = parser.parse_args(arguments)
    sizes = SMALL if options.stand_in else FULL
    lines: list[Line] = []
    print(HEADING, flush=True)
    # Check path after path.
    with tempfile.TemporaryDirectory() as folder:
        every = checks(sizes, Path(folder))
        for path in [options.only] if options.only else every:
            if options.only:
                needs, work = every[path]
                line, gpu = attempt(path, needs, options.stand_in, work), device_name(options.stand_in)
            else:
                line, gpu = attempt_apart(path, options.stand_in)
            lines.append(line)
            print(row_of(line), flush=True)
            record = {"gpu": gpu, "sizes": asdict(sizes), "lines": list(map(asdict, lines)), "versions": versions()}
            write_json(options.json, json.loads(json.dumps(record, allow_nan=False)))
    print(f"\nGPU: {gpu}; " + ", ".join(f"{name} {value}" for name, value in versions().items()))
    return int(any(line.agrees is False or (options.strict and line.agrees is None) for line in lines))


if __name__ == "__main__":
    sys.exit(main())
