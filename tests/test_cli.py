"""What the command line answers to mistakes: exit code 2 and one message that says what to do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from hnmine import cli
from hnmine.cli import QUICK_ARMS, quick_overrides
from hnmine.config.base import section_of
from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.runs.directory import Directory
from tests.builders.collections import write_collection
from tests.builders.commands import run_hnmine
from tests.builders.models import spoil_weights, tiny_cross_encoder
from tests.builders.settings import LEXICAL_ENCODER

Capture = pytest.CaptureFixture[str]
Result = tuple[int, str, str]


def call(capsys: Capture, *arguments: object) -> Result:
    """Call the command line in this process; return exit code, standard output and standard error."""
    capsys.readouterr()
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def assert_one_message(result: Result, *parts: object) -> None:
    """The mistake is told once, in words, after at most the news of the steps before."""
    code, _, errors = result
    assert code == 2, errors
    assert errors.count("error: ") == 1, errors
    message = errors[errors.index("error: ") :]
    assert "Traceback" not in errors
    assert " │ " not in message, "the message is the last word"
    for part in parts:
        assert str(part) in message


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "data")


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--set", "select.negative=3"], ["select.negative: unknown key; did you mean 'negatives'?", "hnmine config"]),
        (["--set", "selct.negatives=3"], ["selct: unknown key; did you mean 'select'?"]),
        (["--set", "select.negatives=0"], ["select.negatives", "greater than or equal to 1", "got 0"]),
        (["--set", "select.negatives"], ["--set wants step.key=value, got 'select.negatives'"]),
        (["--set", "=3"], ["--set wants step.key=value, got '=3'"]),
        (["--set", "select..negatives=3"], ["--set wants step.key=value, got 'select..negatives=3'"]),
        (["--set", "encoders=[{name: x"], ["--set encoders: '[{name: x' is not a YAML value"]),
        (["--set", "encoders=[]"], ["encoders", "at least 1 item"]),
        (["--set", "encoders=[{name: x, model: a, lexical: {}}]"], ["needs exactly one of model, precomputed"]),
        (["--set", "encoders=[{name: x, lexical: {wide: 1}}]"], ["wide: unknown key; did you mean 'width'?"]),
        (["--set", "train.learning_rate=.nan"], ["train.learning_rate", "finite number"]),
        (["--set", "select=3"], ["select:", "got 3"]),
        (["--set", "train.presets=3"], ["train.presets: Input should be a valid list, got 3"]),
        (["--set", "train.presets=[3]"], ["train.presets.0: expected a text, got 3"]),
        (["--config", "missing.yaml"], ["config file missing.yaml does not exist"]),
        (["--config", "."], ["config file . cannot be read"]),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_its_remedy(
    arguments: list[str], parts: list[str], data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_message(call(capsys, "mine", "--data", data, "--out", tmp_path / "out", *arguments), *parts)


@pytest.mark.parametrize(
    ("option", "part"),
    [
        (["--seeds", "0"], "compare.seeds: Input should be greater than or equal to 1, got 0"),
        (["--seeds", "two"], "compare.seeds: Input should be a valid integer"),
        (["--arms", "the paper, auto"], "compare.arms: auto: preset auto is gone"),
        (["--set", "compare.seeds=2", "--seeds", "0"], "got 0"),
    ],
)
def test_an_option_that_is_short_for_a_setting_is_answered_as_the_setting_is(
    option: list[str], part: str, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert_one_message(call(capsys, "compare", "--data", data, "--out", tmp_path / "out", *option), part)


def test_a_gpu_that_is_not_there_is_never_replaced_in_silence(data: Path, tmp_path: Path) -> None:
    asked = ["--data", data, "--out", tmp_path / "out", "--set", LEXICAL_ENCODER, "--set", "device=gpu"]
    done = run_hnmine("mine", *asked, CUDA_VISIBLE_DEVICES="")
    result = (done.returncode, done.stdout, done.stderr)
    assert_one_message(result, "device: gpu was asked for, but no GPU is visible; or set device: auto")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("select: {negatives: 3", "settings.yaml is not YAML: "),
        ("- select\n", "settings.yaml must hold `step: {key: value}`, got a list"),
        ("select: {negativs: 3}", "settings.yaml: select.negativs: unknown key; did you mean 'negatives'?"),
        ("\xff\xfe", "settings.yaml"),
        ("select: {negatives: !!python/object/apply:os.getcwd []}", "settings.yaml is not YAML: "),
    ],
)
def test_a_settings_file_that_is_wrong_is_named(
    content: str, part: str, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(content.encode("latin-1"))
    result = call(capsys, "mine", "--data", data, "--out", tmp_path / "out", "--config", file)
    assert_one_message(result, part)
    assert not (tmp_path / "out").exists()


def _remove(name: str) -> Callable[[Path], None]:
    return lambda data: shutil.rmtree(data / name) if (data / name).is_dir() else (data / name).unlink()


def _write(name: str, text: str) -> Callable[[Path], None]:
    def write(data: Path) -> None:
        (data / name).write_text(text)

    return write


def _single_document(data: Path) -> None:
    (data / "corpus.jsonl").write_text(json.dumps({"_id": "apple-guide", "text": "apple"}) + "\n")


@pytest.mark.parametrize(
    ("spoil_data", "parts"),
    [
        (_remove("."), ["data does not exist; give the folder of a collection"]),
        (_remove("corpus.jsonl"), ["it has queries and qrels, but no documents", "it holds qrels/dev.tsv", "give the"]),
        (_remove("queries.jsonl"), ["but no queries"]),
        (_remove("qrels"), ["but no qrels"]),
        (_write("qrels/train.tsv", ""), ["qrels/train.tsv is empty", "copy it again"]),
        (_write("qrels/train.tsv", "apple-care\tapple-guide\t0\n"), ["'train' has no pair"]),
        (_write("corpus.jsonl", ""), ["corpus.jsonl is empty"]),
        (_write("queries.jsonl", "{broken\n"), ["has no usable query", "1 broken_json in queries.jsonl", "line 1"]),
        (_single_document, ["the corpus has 1 usable document", "at least 2 are needed"]),
    ],
)
def test_data_that_cannot_be_used_is_named_with_what_was_expected(
    spoil_data: Callable[[Path], None], parts: list[str], data: Path, tmp_path: Path, capsys: Capture
) -> None:
    spoil_data(data)
    assert_one_message(
        call(capsys, "mine", "--data", data, "--out", tmp_path / "out", "--set", LEXICAL_ENCODER), *parts
    )
    assert not (tmp_path / "out" / "negatives.parquet").exists()


def test_what_is_set_aside_is_listed_also_if_the_rest_cannot_be_used(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    append(data / "corpus.jsonl", "{broken\n")
    (data / "qrels" / "dev.tsv").write_text("asked\tfound\tworth\n")
    spoiled = call(capsys, "mine", "--data", data, "--out", tmp_path / "out", "--set", LEXICAL_ENCODER)
    assert_one_message(spoiled, "qrels/dev.tsv begins with ['asked', 'found', 'worth']", "expected a header")
    rows = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["file"], row["line"], row["reason"]) for row in rows] == [("corpus.jsonl", 31, "broken_json")]


def test_a_collection_in_an_object_store_is_mined_as_one_on_this_machine(
    data: Path, tmp_path: Path, s3: Callable[[str], str], capsys: Capture
) -> None:
    for path in (path for path in data.rglob("*") if path.is_file()):
        Directory.at(s3("bucket/my-search")).write(path.relative_to(data).as_posix(), path.read_bytes())
    for name, address in (("here", str(data)), ("there", s3("bucket/my-search"))):
        code, _, errors = call(capsys, "mine", "--data", address, "--out", tmp_path / name, "--set", LEXICAL_ENCODER)
        assert code == 0, errors
    here, there = ((tmp_path / name / "negatives.parquet").read_bytes() for name in ("here", "there"))
    assert here == there


def test_bad_rows_are_set_aside_counted_and_listed_and_the_rest_is_mined(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    (data / "notes.txt").write_text("what nobody reads")
    twice = "".join(f'{{"_id": "twice", "text": "{text}"}}\n' for text in ("one", "One ", "two"))
    append(data / "corpus.jsonl", twice + '{"_id": "blank", "text": " \\u200b"}\n{"_id": \n')
    append(data / "queries.jsonl", '{"_id": "lonely", "text": "nobody judged this"}\n')
    append(data / "qrels" / "train.tsv", "nobody\tapple-guide\t1\napple-care\tnothing\t1\napple-care\ttwice\t1\n")
    code, _, errors = call(capsys, "mine", "--data", data, "--out", tmp_path / "out", "--set", LEXICAL_ENCODER)
    assert code == 0, errors
    expected = {
        ("corpus.jsonl", 31, "conflicting_id", "twice"),
        ("corpus.jsonl", 32, "duplicate_id", "twice"),
        ("corpus.jsonl", 33, "conflicting_id", "twice"),
        ("corpus.jsonl", 34, "empty_text", "blank"),
        ("corpus.jsonl", 35, "broken_json", None),
        ("qrels/train.tsv", 14, "unknown_query", "nobody"),
        ("qrels/train.tsv", 15, "unknown_document", "apple-care"),
        ("qrels/train.tsv", 16, "unknown_document", "apple-care"),
    }
    rows = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert {(row["file"], row["line"], row["reason"], row["id"]) for row in rows} == expected
    assert len(rows) == len(expected)
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["mining"]["counts"]
    assert counts["quarantined"] == {
        "conflicting_id": 2,
        "unknown_document": 2,
        "duplicate_id": 1,
        "empty_text": 1,
        "broken_json": 1,
        "unknown_query": 1,
    }
    assert (counts["documents"], counts["pairs"]) == (30, 12)
    assert counts["rows_read"]["corpus.jsonl"] == counts["rows_kept"]["corpus.jsonl"] + 5
    assert "quarantined: 2 conflicting id, 2 unknown document, 1 " in errors
    assert "20 queries, pairs: train 12, dev 4, test 4; 1 queries more without a right document" in errors
    assert "BEIR folder: 30 documents" in errors
    assert "not read: notes.txt (not of this layout)" in errors
    assert str(tmp_path / "out" / "quarantine.jsonl") in errors


def vectors(folder: Path, data: Path, document_width: int = 4, query_width: int = 4) -> Path:
    """Precomputed vectors of the whole collection."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, file, width in (("documents", "corpus", document_width), ("queries", "queries", query_width)):
        ids = [json.loads(line)["_id"] for line in (data / f"{file}.jsonl").read_text().splitlines()]
        values = rng.normal(size=(len(ids), width)).astype(np.float32)
        pq.write_table(pa.table({"id": ids, "vector": values.tolist()}), folder / f"{name}.parquet")
    return folder


def test_precomputed_vectors_that_hold_nan_or_differ_in_width_are_named(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    def mine(folder: Path) -> Result:
        setting = f"encoders=[{{name: mine, precomputed: {folder}}}]"
        return call(capsys, "mine", "--data", data, "--out", tmp_path / "out", "--set", setting)

    good = vectors(tmp_path / "good", data)
    assert mine(good)[0] == 0
    holed = vectors(tmp_path / "holed", data)
    rows = pq.read_table(holed / "documents.parquet").to_pylist()
    rows[4]["vector"][2] = float("nan")
    pq.write_table(pa.Table.from_pylist(rows), holed / "documents.parquet")
    assert_one_message(mine(holed), holed / "documents.parquet", "'bread-price'", "row 5", "NaN or infinity")
    assert_one_message(mine(vectors(tmp_path / "wide", data, 4, 6)), "width 4, queries.parquet of width 6")
    rows[4]["vector"] = [1.0, 2.0]
    pq.write_table(pa.Table.from_pylist(rows), holed / "documents.parquet")
    assert_one_message(mine(holed), "widths differ: 4 in row 1, 2 in row 5 (id 'bread-price')")
    (good / "queries.parquet").unlink()
    assert_one_message(mine(good), good / "queries.parquet", "does not exist")


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_an_out_that_cannot_be_written_is_named(out: str, data: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    result = call(capsys, "mine", "--data", data, "--out", tmp_path / out, "--set", LEXICAL_ENCODER)
    assert_one_message(result, f"--out {tmp_path / out} cannot be written")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_out_is_named(data: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    result = call(capsys, "mine", "--data", data, "--out", tmp_path / "out", "--set", LEXICAL_ENCODER)
    assert_one_message(result, f"--out {tmp_path / 'out'} cannot be written")


@pytest.mark.parametrize(
    ("command", "name"),
    [("mine", "negatives.parquet"), ("mine", "quarantine.jsonl"), ("mine", "manifest.json"), ("audit", "audit.json")],
)
def test_a_folder_where_a_file_belongs_is_named(
    command: str, name: str, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    append(data / "qrels" / "train.tsv", "apple-care\tapple-story\t1\n")
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / ".lock").touch()
    result = call(capsys, command, "--data", data, "--out", tmp_path / "out", "--set", LEXICAL_ENCODER)
    assert_one_message(result, tmp_path / "out" / name, "Is a directory", "choose another --out")


@pytest.mark.parametrize("command", ["run", "mine", "train", "evaluate", "audit"])
@pytest.mark.parametrize("content", ['{"seconds": 3}', '{"training": {"presets": 4}}', "[]", "\xff"])
def test_a_manifest_that_is_not_ours_is_named_with_what_to_do(
    command: str, content: str, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_bytes(content.encode("latin-1"))
    result = call(capsys, command, "--data", data, "--out", tmp_path / "out", "--set", LEXICAL_ENCODER)
    assert_one_message(result, "manifest.json is not a manifest of this hnmine", "remove it or choose another --out")


def test_a_model_that_cannot_be_used_is_named(data: Path, tmp_path: Path, capsys: Capture) -> None:
    def train(model: object) -> Result:
        model_setting = f"train.model={model}"
        return call(
            capsys, "run", "--data", data, "--out", tmp_path / "out", "--set", LEXICAL_ENCODER, "--set", model_setting
        )

    assert_one_message(train(tmp_path / "nowhere"), f"model folder {tmp_path / 'nowhere'} does not exist")
    (tmp_path / "empty").mkdir()
    assert_one_message(train(tmp_path / "empty"), f"{tmp_path / 'empty'} holds no *.safetensors")
    assert_one_message(train("no-such-model"), "there is no folder 'no-such-model'", "give the path")
    broken = tiny_cross_encoder(tmp_path / "broken")
    (broken / "config.json").write_text("{")
    assert_one_message(train(broken), broken / "config.json", "cannot be read")
    encoder = f"encoders=[{{name: x, model: {tmp_path / 'nowhere'}}}]"
    result = call(capsys, "mine", "--data", data, "--out", tmp_path / "out", "--set", encoder)
    assert_one_message(result, f"model folder {tmp_path / 'nowhere'} does not exist")


def test_a_model_that_would_break_in_the_training_is_named_before_anything_is_mined(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = ["--data", data, "--out", tmp_path / "out", "--set", LEXICAL_ENCODER, "--preset", "anchored"]
    two = tiny_cross_encoder(tmp_path / "two", labels=2)
    result = call(capsys, "run", *arguments, "--set", f"train.model={two}")
    assert_one_message(result, f"train.model: {two} is a classifier with 2 labels; a re-ranker has one")
    nan = spoil_weights(tiny_cross_encoder(tmp_path / "nan"))
    result = call(capsys, "run", *arguments, "--set", f"train.model={nan}")
    assert_one_message(result, f"train.model: {nan}: the re-ranker gives NaN or infinity for")
    assert not (tmp_path / "out" / "negatives.parquet").exists()


@pytest.mark.parametrize("command", ["run", "train", "nightly"])
def test_a_preset_that_is_not_known_is_answered_with_those_that_are(
    command: str, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    where = ["--home" if command == "nightly" else "--out", tmp_path / "out"]
    for preset, meant in (("anchor", "anchored"), ("mistake-of-start", "mistakes-of-the-start")):
        result = call(capsys, command, "--data", data, *where, "--set", f"train.presets={preset}")
        known = "known are: distilled, anchored, paper, positives, "
        assert_one_message(result, f"train.presets: {preset} is not known; did you mean {meant}?; {known}")
    assert not (tmp_path / "out").exists(), "refused before anything is done"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["mine"], "the following arguments are required: --data, --out"),
        (["mind"], "invalid choice: 'mind'"),
        (["mine", "--data", "d", "--out", "o", "--preset", "paper"], "unrecognized arguments: --preset"),
    ],
)
def test_a_command_that_is_wrong_is_answered_with_its_usage(arguments: list[str], part: str, capsys: Capture) -> None:
    code, _, errors = call(capsys, *arguments)
    assert code == 2
    assert part in errors
    assert errors.startswith("usage: hnmine")


def test_a_quick_comparison_takes_the_arms_that_the_settings_allow() -> None:
    assert set(QUICK_ARMS) == set(load(overrides=quick_overrides(None, [])).compare.arms or ())
    words = quick_overrides(None, ["encoders=[{name: words, lexical: {}}]"])
    assert set(QUICK_ARMS) - set(load(overrides=words).compare.arms or ()) == {"adore-star"}


def test_preset_auto_is_answered_with_the_command_that_took_its_place(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    result = call(capsys, "run", "--data", data, "--out", tmp_path / "out", "--preset", "auto")
    assert_one_message(result, "train.presets: auto: preset auto is gone; `hnmine compare --quick` answers")
    assert not (tmp_path / "out").exists()


def test_inspect_prints_text_or_json_and_keeps_the_settings_that_were_given(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    settings = tmp_path / "my settings.yaml"
    settings.write_text("encoders: [{name: words, lexical: {}}]\n")
    given = ["--data", data, "--config", settings, "--set", "sources.min_score=1"]
    code, text, _ = call(capsys, "inspect", *given)
    assert code == 0
    following = f"hnmine run --data {data} --out out/run --config '{settings}' --set sources.min_score=1"
    assert text.splitlines()[-1].strip() == following
    code, printed, _ = call(capsys, "inspect", *given, "--json")
    assert json.loads(printed)["next"][-1] == following
    assert_one_message(call(capsys, "inspect", "--data", tmp_path / "nowhere"), "nowhere does not exist")

    (tmp_path / "no data").mkdir()
    code, text, errors = call(capsys, "inspect", "--data", tmp_path / "no data")
    assert (code, errors) == (2, "")
    assert "PROBLEM: " in text


HELP = [
    ["--help"],
    ["mine", "--help"],
    ["rank", "--help"],
    ["nightly", "--help"],
    ["config"],
    ["presets"],
    ["--version"],
]


@pytest.mark.parametrize("command", HELP)
def test_help_is_quick_and_loads_nothing_heavy(command: list[str]) -> None:
    code = "import sys; from hnmine.cli import main\ntry: main(sys.argv[1:])\n"
    code += "except SystemExit as stop: assert not stop.code\n"
    code += "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 2
    assert "hnmine" in done.stdout or "encoders:" in done.stdout
    for heavy in ("torch", "ray", "transformers", "numpy", "pyarrow", "faiss"):
        assert f"'{heavy}'" not in done.stderr


def test_rank_takes_candidates_and_depth_as_settings_and_prints_what_the_model_is_worth(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    model, out = tiny_cross_encoder(tmp_path / "ranker"), tmp_path / "my runs" / "run.trec"
    candidates = tmp_path / "a run: 1.trec"
    candidates.write_text("island-care Q0 desk-price 1 9 x\nisland-care Q0 island-guide 2 8 x\n")
    arguments = ["--model", model, "--data", data, "--out", out, "--set", "device=cpu"]
    code, printed, _ = call(capsys, "rank", *arguments, "--candidates", candidates, "--depth", 1, "--split", "test")
    assert code == 0
    assert [line.split()[2] for line in out.read_text().splitlines()] == ["desk-price"]
    assert "first stage: a run: 1.trec  0.000" in printed
    code, printed, _ = call(capsys, "rank", *arguments, "--depth", 2)
    assert (code, printed.splitlines()[0]) == (0, f"{out}: 40 documents of 20 queries, the best first")
    assert_one_message(call(capsys, "rank", *arguments, "--depth", 0), "evaluate.depth: Input should be greater")
    code, printed, _ = call(capsys, "rank", *arguments[:6])  # without any setting
    assert (code, printed.splitlines()[0]) == (0, f"{out}: 400 documents of 20 queries, the best first")


def test_config_lists_every_key_of_every_section_with_its_default(capsys: Capture) -> None:
    code, text, _ = call(capsys, "config")
    assert code == 0
    keys = {line.strip(" #").partition(":")[0] for line in text.splitlines()}

    def every_key(section: type[BaseModel]) -> set[str]:
        inner = (section_of(field.annotation) for field in section.model_fields.values())
        return set(section.model_fields).union(*(every_key(each) for each in inner if each))

    assert every_key(Config) - keys == set()
    for line in ("  negatives: 1  # ", "  learning_rates: [1.0e-05, 5.0e-05]  # ", "width: 256  # "):
        assert line in text


def test_a_reader_who_closes_the_pipe_early_sees_no_traceback() -> None:
    command = f"{sys.executable} -m hnmine.cli config | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("seed: 0  # ")
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_sigterm_is_heard_while_ray_is_waited_for() -> None:
    """Ray turns what a signal handler raises into an error of its own, unless it is Ctrl-C."""
    code = (
        "import sys, time\n"
        "from hnmine import cli\nfrom hnmine.runs import progress, ray_session as session\n"
        "def wait():\n"
        "    session.start_ray()\n"
        "    import ray\n"
        "    slow = ray.remote(lambda: time.sleep(60)).remote()\n"
        "    progress.say('test', 'waiting')\n"
        "    ray.get(slow)\n"
        "cli.describe = wait\n"
        "sys.exit(cli.main(['config']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "waiting" in line:
                time.sleep(1)
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stderr.read()
    assert process.returncode == 143, rest
    assert rest == "terminated; the same command goes on from what is kept\n"


def test_settings_that_are_wrong_are_named_before_the_arms_are_listed(capsys):
    code, out, err = call(capsys, "compare", "--set", "foo.bar=1", "--list")
    assert (code, out) == (2, "")
    assert "foo" in err
    assert "Traceback" not in err


def test_the_arms_are_listed_of_the_settings_that_stand_before(capsys):
    encoders = "encoders=[{name: minilm, model: all-MiniLM-L6-v2}, {name: guarded, lexical: {width: 8}}]"
    for more, expected in (([], False), (["--set", encoders], True)):
        code, out, _ = call(capsys, "compare", *more, "--list")
        assert code == 0
        lines = out.splitlines()
        names = [line.split()[0] for line in lines]
        assert ("two-conditions-lexical" in names) is not expected
        assert ("two-conditions-encoder-guarded" in names) is expected, "an arm of that name is there already"
        assert "two-conditions-guarded" in names
        assert next(line for line in lines if line.startswith("two-conditions-x-concat")).endswith("Only if named.")
