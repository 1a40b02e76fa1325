from hnmine.config.encoders import PRESETS
from hnmine.config.rerankers import RERANKERS
from hnmine.report.presets import presets_table


def test_every_preset_is_listed_with_what_one_chooses_it_by() -> None:
    encoders, rerankers = (part.splitlines() for part in presets_table().split("\n\n"))
    assert [line.split()[0] for line in rerankers[2:]] == list(RERANKERS)
    assert [line.split()[0] for line in encoders[2:] if not line.startswith(" ")] == list(PRESETS)
    (line,) = (line for line in rerankers if line.startswith("bge-reranker-v2-m3"))
    expected = "BAAI/bge-reranker-v2-m3 568M multilingual Apache 2.0 sequence classifier, XLM-R not run"
    assert " ".join(line.split()[1:]) == expected
    assert len(encoders) == 2 + sum(1 for ensemble in PRESETS.values() for encoder in ensemble if encoder.model)
