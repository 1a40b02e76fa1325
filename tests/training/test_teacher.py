"""A cross-encoder that is learnt from: what it scores, what it leaves alone, and what it must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hnmine.config.training import TAUGHT as LOSSES_WITH_TEACHER
from hnmine.errors import ModelError
from hnmine.training.lists import Lists
from hnmine.training.losses import TAUGHT
from hnmine.training.teacher import TEACHER_TOKENS, Teacher
from tests.builders.devices import CPU
from tests.builders.models import load_cross_encoder, tiny_cross_encoder

JUDGED = Lists(queries=("a b", "c"), documents=(("a", "b b"), ("c", "d", "e f")))


def teacher_of(model: Path, scores: Path) -> Teacher:
    return Teacher(str(model), CPU, engine="torch", scores=scores)


def test_it_scores_the_lists_that_have_no_teacher_and_leaves_lessons_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_cross_encoder(tmp_path / "teacher", seed=1)
    lessons = Lists(queries=("x",), documents=(("y", "z"),), teacher=((0.25, 0.5),), is_lesson=(True,))
    found = teacher_of(model, tmp_path / "scored").teach("student", JUDGED.with_lessons(lessons), 2.0)
    assert found.teacher[2:] == lessons.teacher
    assert not found.untaught
    scores = load_cross_encoder(model, max_tokens=TEACHER_TOKENS)
    for query, documents, taught in zip(JUDGED.queries, JUDGED.documents, found.teacher[:2], strict=True):
        alone = scores.scores([query] * len(documents), documents)
        np.testing.assert_allclose(np.array(taught) * 2, alone, atol=2e-2)  # the number type is the fastest
    assert "the teacher is" in capsys.readouterr().err
    again = teacher_of(model, tmp_path / "scored").teach("other", JUDGED, 2.0)
    assert again.teacher == found.teacher[:2]
    assert "the teacher is" not in capsys.readouterr().err, "what it has scored is kept"


def test_one_without_a_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"train\.teacher: .*body has no ranking head, so its scores would be"):
        teacher_of(tiny_cross_encoder(tmp_path / "body", head=False), tmp_path / "scored")


def test_the_names_of_what_learns_from_a_teacher_are_those_of_its_losses() -> None:
    assert set(LOSSES_WITH_TEACHER) == set(TAUGHT)
