"""Benchmarks: the check of the GPU paths, with the CPU in place of the GPU, and the table of several comparisons."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import subprocess
import sys

import pytest

import hnmine
from benchmarks import attack, gpu_check, languages, mutate_readers, page_picture, size, tables
from hnmine.errors import DeviceError
from hnmine.runs import device
from tests.builders.collections import write_collection
from tests.builders.commands import REPOSITORY
from tests.builders.layouts import LAYOUTS
from tests.builders.models import tiny_cross_encoder
from tests.builders.runs import reported_run
from tests.builders.settings import quick_config

KERNELS = ("Haswell", "SkylakeX")
PATHS = ["PCA", "search: flat", "search: IVF", "scan: torch", "selection", "encoder", "throughput", "training"]


@pytest.mark.slow
def test_with_a_stand_in_every_path_runs_apart_and_agrees(tmp_path, capsys):
    assert gpu_check.main(["--stand-in", "--strict", "--json", str(tmp_path / "check.json")]) == 0
    record = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert [line["path"] for line in record["lines"]] == PATHS
    assert all(line["agrees"] and line["gpu_seconds"] > 0 for line in record["lines"])
    assert record["gpu"] == "the CPU as stand-in"
    printed = capsys.readouterr().out
    assert all(line["detail"] in printed for line in record["lines"])
    assert "MFU" in printed


@pytest.mark.parametrize("path", PATHS)
def test_with_a_stand_in_a_path_agrees(path, tmp_path):
    assert gpu_check.main(["--stand-in", "--only", path, "--json", str(tmp_path / "check.json")]) == 0
    (line,) = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))["lines"]
    assert line["path"] == path
    assert line["agrees"]


@pytest.mark.parametrize(("strict", "code"), [([], 0), (["--strict"], 1)])
def test_without_a_gpu_a_path_is_a_row_that_says_so(strict, code, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(device, "visible_gpus", lambda: 0)
    for path in PATHS:
        assert gpu_check.main(["--only", path, "--json", str(tmp_path / "check.json"), *strict]) == code
        (line,) = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))["lines"]
        assert line["agrees"] is None
        assert "no GPU is visible" in line["detail"]
    assert capsys.readouterr().out.count("not found") == len(PATHS)


def test_a_process_that_ends_is_a_row_and_the_others_follow(tmp_path, capsys, monkeypatch):
    def crash(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess([], -9)

    monkeypatch.setattr(subprocess, "run", crash)
    assert gpu_check.main(["--json", str(tmp_path / "check.json")]) == 1
    assert capsys.readouterr().out.count("its process ended with -9") == len(PATHS)


def test_a_path_that_is_missing_or_fails_does_not_hide_the_others():
    def fails(error: Exception):
        def work(gpu):
            raise error

        return gpu_check.attempt("PCA", "torch", True, work)

    assert fails(DeviceError("no cuML")).agrees is None
    assert fails(ImportError("libcuml.so")).detail == "not found: libcuml.so"
    line = fails(RuntimeError("CUDA error:\n  out of memory"))
    assert line.agrees is False
    assert line.detail == "failed: RuntimeError: CUDA error: out of memory"


def test_a_wrong_list_disagrees():
    space, _ = gpu_check.space_of(gpu_check.SMALL)
    rows, distances = right = gpu_check.Searcher(space.docs_NR, gpu_check.CPU).nearest(space.queries_QR, 8)
    shifted = ((rows + 1) % len(space.docs_NR), distances)
    assert gpu_check.compared("search: flat", space, right, right, 1, 1).agrees
    assert not gpu_check.compared("search: flat", space, right, shifted, 1, 1).agrees


def test_arms_of_several_comparisons_stand_in_one_table(tmp_path, capsys):
    data, start = write_collection(tmp_path / "data"), tiny_cross_encoder(tmp_path / "start")
    outs = [tmp_path / name for name in ("one", "two", "other")]
    settings = (["[bm25]", "2"], ["[bm25,random]", "1"], ["[bm25]", "1", "train.max_pairs=8"])
    for out, (arms, seeds, *more) in zip(outs, settings, strict=True):
        hnmine.compare(data, out, quick_config(start, f"compare.arms={arms}", f"compare.seeds={seeds}", *more))
    record = [json.loads((out / "compare.json").read_text(encoding="utf-8"))["table"].splitlines() for out in outs]
    capsys.readouterr()
    tables.main([str(outs[0]), str(outs[1])])
    printed = capsys.readouterr().out.splitlines()
    assert sorted(row.split("  ")[0] for row in printed[4:]) == [
        "BM25",
        "first stage",
        "no fine-tuning",
        "random (1 seed)",
    ]
    for name, source in (("BM25  ", record[0]), ("first stage", record[0]), ("no fine-tuning", record[1])):
        alone, together = (next(row for row in rows if row.startswith(name)).split() for rows in (source, printed))
        assert alone[:7] == together[:7]
    tables.main([str(outs[1]), str(outs[0]), "--seed", "0"])
    assert "1 seed(s)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        tables.main([str(outs[0]), str(outs[2])])
    assert "do not have the same: pairs" in capsys.readouterr().err


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_spoiled_collection_is_read_or_refused_by_name(layout):
    outcomes = [mutate_readers.spoil_and_read(layout, seed) for seed in range(7, 10)]
    assert {outcome for outcome, _ in outcomes} <= {"read", "refused"}, outcomes


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_history_of_nights_and_kills_of_each_command_make_no_difference(tmp_path):
    out = tmp_path / "histories.json"
    options = ["--out", str(out), "--histories", "2", "--kills", "8", "--minutes", "10"]
    done = subprocess.run([sys.executable, REPOSITORY / "benchmarks" / "histories.py", *options], check=False)
    counts = json.loads(out.read_text())
    assert done.returncode == 0, counts
    assert [counts[f"{kind}, {kernel}"]["done"] for kind in ("history", "run", "rank") for kernel in KERNELS] == [1] * 6


def test_languages_are_measured_with_the_words_of_before_and_of_now(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(languages, "LANGUAGES", ("en", "zh"))
    texts = {"": ["a red apple", "the blue sea"], ".zh": ["苹果是红色的", "大海是蓝色的"]}
    for ending, both in texts.items():
        rows = "".join(json.dumps({"_id": f"p{i}", "text": text}) + "\n" for i, text in enumerate(both))
        (tmp_path / f"corpus{ending}.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    asked = {"en:1": "which sea?", "zh:1": "什么大海", "de:1": "Apple"}
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in asked.items()))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nen:1\tp1\t1\nzh:1\tp1\t1\nde:1\tp0\t1\n")
    languages.main(
        ["--data", str(tmp_path), "--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")]
    )
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["before"], row["nothing before"], row["now"]) for row in rows] == [(1, 0, 1), (0, 1, 1), (1, 0, 1)]
    assert rows[-1]["lexical encoder"] == 1
    assert (tmp_path / "out.md").read_text().rstrip().endswith(capsys.readouterr().out.rstrip())


@pytest.mark.browser
def test_the_picture_of_a_page_is_a_small_png_of_its_screen(tmp_path):
    if not shutil.which("chromium"):
        pytest.skip("no chromium")
    picture = tmp_path / "docs" / "page.png"
    assert page_picture.main([str(reported_run(tmp_path / "out", queries=30)), str(picture)]) == 0
    raw = picture.read_bytes()
    assert raw.startswith(b"\x89PNG")
    assert struct.unpack(">II", raw[16:24]) == (page_picture.WIDTH, page_picture.HEIGHT)
    assert 20_000 < len(raw) < 200_000


def test_sizes_are_measured_once_each(tmp_path, monkeypatch):
    monkeypatch.setattr(size, "QUERIES", 20)
    for _ in range(2):
        size.main(["--out", str(tmp_path / "size.json"), "--documents", "200", "--work", str(tmp_path)])
        found = json.loads((tmp_path / "size.json").read_text())
        (tmp_path / "size.json").write_text(json.dumps(found | {"seen": True}))
    assert found["seen"]
    assert 50 < found["200"]["warm"]["peak_without_files_mib"] < found["200"]["cold"]["peak_mib"] < 4000
    assert found["200"]["warm"]["seconds"] > 0


@pytest.mark.parametrize("name", ["settings", "paths", "secrets"])
def test_hostile_input_is_refused_by_name(name):
    assert [attack.attempt(name, number) for number in range(1000, 1006)] == [(attack.HELD, "")] * 6


def test_the_page_of_safety_has_the_counts_of_the_attack():
    counts = json.loads((REPOSITORY / "benchmarks" / "attack.json").read_text(encoding="utf-8"))["classes"]
    assert counts.keys() == attack.CLASSES.keys()
    assert attack.page_table(counts) in (REPOSITORY / "docs" / "safety.md").read_text(encoding="utf-8")
