"""From presets to re-rankers: what is refused before anything is trained, what is recorded, and what is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from hnmine.errors import DataError, ModelError
from hnmine.runs.folder import Run
from tests.builders.models import tiny_cross_encoder
from tests.builders.presets import splits_and_config, train_presets_of, useless_first_stage
from tests.builders.settings import quick_overrides

TWO = "encoders=[{name: wide, lexical: {width: 12}}, {name: narrow, lexical: {width: 3}}]"


def trained(data: Path, run: Run, start: Path, *overrides: str) -> tuple[dict, dict[str, str]]:
    return train_presets_of(*splits_and_config(data, *quick_overrides(start, *overrides)), run)


@pytest.mark.parametrize("loss", ["infonce", "margin"])
def test_the_default_trains_on_the_anchored_lists_with_lessons_among_them(
    data: Path, run: Run, tmp_path: Path, loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    how = (TWO, "train.lessons=14", "train.learning_rate=0.003", f"train.loss={loss}")
    start = tiny_cross_encoder(tmp_path / "start", spread=1)
    found, files = trained(data, run, start, *how, "train.presets=[anchored, distilled]")
    assert {"rerankers/distilled/model.safetensors", "rerankers/anchored/model.safetensors"} <= set(files)
    anchored, distilled = found["presets"]["anchored"], found["presets"]["distilled"]
    assert (anchored["lists"], distilled["lists"]) == (12, 12 + 14)
    assert distilled["recipe"] == anchored["recipe"]
    assert distilled["dev_by_step"]["0"] == anchored["dev_by_step"]["0"]
    assert "distilled: 26 lists, 14 lessons among them; " in capsys.readouterr().err
    assert found["distilled"]["lessons"] == 14
    best = max(found["presets"], key=lambda name: found["presets"][name]["dev"])
    assert (found["best"], (run.out / "reranker").readlink()) == (best, Path("rerankers") / best)


def test_where_nobody_can_teach_the_default_trains_without_lessons_and_says_so(
    data: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = (TWO, useless_first_stage(data, tmp_path / "run.trec"), "train.presets=[distilled, anchored]")
    found, _ = trained(data, run, tiny_cross_encoder(tmp_path / "start"), *how)
    assert capsys.readouterr().err.count("warning: no lessons: ") == 1
    assert "distilled" not in found
    with_lessons, without = (found["presets"][name] for name in ("distilled", "anchored"))
    assert with_lessons["identity"] == without["identity"]


def test_a_preset_with_nothing_to_train_on_is_refused(data: Path, run: Run, tmp_path: Path) -> None:
    start = tiny_cross_encoder(tmp_path / "start")
    how = ("train.presets=two-conditions", "train.max_pairs=1", "seed=1")
    with pytest.raises(DataError, match=r"preset two-conditions: none of 1 train pairs has a negative, or there is no"):
        trained(data, run, start, *how)


def test_a_model_without_a_head_is_warmed_up_once_for_all_presets(
    data: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = tiny_cross_encoder(tmp_path / "body", head=False)
    found, files = trained(data, run, body, "train.presets=[anchored, paper]")
    said = capsys.readouterr().err
    assert said.count("has no ranking head: warmed up first, on random negatives of the same pairs") == 1
    assert (found["start"]["model"], found["start"]["warmed_up"]) == (str(body), True)
    assert found["start"]["head"] in said
    recipe = found["start"]["recipe"]
    assert (recipe["loss"], recipe["epochs"], recipe["learning_rate"]) == ("infonce", 1, 5e-5)
    assert "rerankers/start/model.safetensors" in files
    assert {preset["dev_by_step"]["0"] for preset in found["presets"].values()} == {found["start"]["dev"]}


def test_a_teacher_without_a_head_is_refused_before_anything_is_trained(data: Path, run: Run, tmp_path: Path) -> None:
    teacher = tiny_cross_encoder(tmp_path / "body", head=False)
    with pytest.raises(ModelError, match=r"train\.teacher: .*body has no ranking head, so its scores would be"):
        trained(data, run, tiny_cross_encoder(tmp_path / "start"), "train.loss=marginmse", f"train.teacher={teacher}")


def test_a_teacher_scores_every_list_once_and_not_again_where_its_pupil_is_reused(
    data: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, teacher = tiny_cross_encoder(tmp_path / "start"), tiny_cross_encoder(tmp_path / "teacher", seed=1)
    how = ("train.max_tokens=32", "train.loss=marginmse", "train.presets=[anchored, positives]")
    found, files = trained(data, run, start, *how, f"train.teacher={teacher}")
    said = capsys.readouterr().err
    assert sorted(found["presets"]) == ["anchored", "positives"]
    assert found["presets"]["positives"]["recipe"]["loss"] == "bce"
    assert "teacher" not in found["presets"]["positives"]["recipe"]
    assert found["presets"]["anchored"]["recipe"]["teacher"]["model"] == str(teacher)
    assert "rerankers/positives/model.safetensors" in files
    assert "anchored: taught: " in said
    assert said.count("the teacher is") == 1, "positives have none"
    assert trained(data, run, start, *how, f"train.teacher={teacher}") == (found, files)
    said = capsys.readouterr().err
    assert "the teacher is" not in said
    assert "kept step" not in said
    other = tiny_cross_encoder(tmp_path / "other", seed=2)
    trained(data, run, start, *how, f"train.teacher={other}")
    said = capsys.readouterr().err
    assert "anchored: kept step" in said, "another teacher teaches something else"
    assert "positives: reused" in said


def test_a_folder_where_the_link_belongs_is_refused_before_anything_is_trained(
    data: Path, run: Run, tmp_path: Path
) -> None:
    (run.out / "reranker").mkdir()
    with pytest.raises(DataError, match=r"reranker is no link to the best of .*rerankers; move it away or choose"):
        trained(data, run, tiny_cross_encoder(tmp_path / "start"))
    assert not (run.out / "rerankers").exists()


def test_where_no_step_beats_the_start_a_smaller_one_is_suggested(
    data: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tiny_cross_encoder(tmp_path / "start")
    found, _ = trained(data, run, start, "train.presets=anchored", "train.learning_rate=1e-12")
    assert found["presets"]["anchored"]["best_step"] == 0
    said = "warning: anchored: no step beats the start on dev, which stays as it is; try train.learning_rate=2e-13"
    assert capsys.readouterr().err.count(said) == 1


def test_a_later_and_worse_preset_demotes_no_better_model(
    data: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tiny_cross_encoder(tmp_path / "start", spread=1)
    first, _ = trained(data, run, start, "train.presets=anchored", "train.learning_rate=0.003")
    worse = tiny_cross_encoder(tmp_path / "worse", seed=4)
    later, files = trained(data, run, worse, "train.presets=positives", "train.learning_rate=1e-12")
    devs = {name: preset["dev"] for name, preset in later["presets"].items()}
    assert devs["anchored"] == first["presets"]["anchored"]["dev"] > devs["positives"], "or this test shows nothing"
    assert later["best"] == "anchored"
    assert (run.out / "reranker").readlink() == Path("rerankers") / "anchored"
    assert {"rerankers/anchored/model.safetensors", "rerankers/positives/model.safetensors"} <= set(files)
    assert "of an earlier command and better than what was trained now" in capsys.readouterr().err
    assert later["presets"]["anchored"]["model"] == str(start)
