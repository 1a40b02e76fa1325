"""A command ends with the next one, which can be pasted as it stands."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import pytest

from hnmine.cli import command_parser, main
from hnmine.command_words import (
    DESCRIPTION,
    EXAMPLES,
    RANK_EXAMPLES,
    after_evaluation,
    next_command,
    remedy_of,
    settings_given,
)
from hnmine.comparison.audit import verdict
from hnmine.config.load import load
from tests.builders.collections import write_collection
from tests.builders.models import tiny_cross_encoder

QUICK = ("encoders=[{name: words, lexical: {width: 8}}]", "device=cpu", "ray=false")


def last_line(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(list(map(str, arguments))) == 0
    return capsys.readouterr().out.splitlines()[-1]


def pasted(line: str) -> list[str]:
    name, *words = shlex.split(line.removeprefix("Next: "))
    assert name == "hnmine"
    command_parser().parse_args(words)
    return words


def test_each_step_names_the_next_with_its_data_folder_and_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_collection(tmp_path / "my data"), tmp_path / "it's out"
    settings = [word for setting in QUICK for word in ("--set", setting)]
    mine = pasted(last_line(capsys, "embed", "--data", data, "--out", out, *settings))
    assert mine == ["mine", "--data", str(data), "--out", str(out), *settings]
    train = pasted(last_line(capsys, *mine))
    assert train == ["train", *mine[1:]]


def test_mine_says_what_was_found_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_collection(tmp_path / "data"), tmp_path / "out"
    assert (
        main(["mine", "--data", str(data), "--out", str(out), *(word for each in QUICK for word in ("--set", each))])
        == 0
    )
    *_, found, _ = capsys.readouterr().out.splitlines()
    assert " pairs have a hard negative" in found
    assert str(out / "negatives.parquet") in found
    assert (out / "negatives.parquet").is_file()


def test_commands_without_a_run_name_the_next_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pasted(last_line(capsys, "presets"))[0] == "run"
    assert main(["history", "--home", str(tmp_path / "home")]) == 2
    assert "run `hnmine nightly` first" in capsys.readouterr().err


def test_settings_are_given_on_as_a_shell_reads_them() -> None:
    options = argparse.Namespace(
        config=Path("my settings.yaml"), set=["a.b=[c, d]", "e='f'"], data="s3://b/p q", home="h"
    )
    line = next_command(options, "nightly")
    expected = ["nightly", "--data", "s3://b/p q", "--home", "h", "--config", "my settings.yaml"]
    assert shlex.split(line)[2:] == [*expected, "--set", "a.b=[c, d]", "--set", "e='f'"]
    assert next_command(options, "history") == "Next: hnmine history --home h"
    assert settings_given(argparse.Namespace(config=None, set=[])) == ""


def test_the_next_command_of_an_audit_has_the_remedy_of_the_verdict() -> None:
    """The verdicts are those of `audit`, on rules of which one is usable, or none."""
    risk = {"hidden": 0.4, "interval": [0.35, 0.45], "yield": 0.9, "negatives": 900, "documents": 300}
    usable = risk | {"hidden": 0.01, "interval": [0.0, 0.02]}
    for others, expected in (
        (
            {"two conditions, margin 0.02, first_rank 5": usable},
            {"--set guards.first_rank=5", "--set guards.margin=0.02"},
        ),
        ({"PercPos 0.95": usable}, {"--set select.rule=percpos-0.95"}),
        ({}, {"--preset positives"}),
    ):
        found = remedy_of(verdict({"two conditions": risk} | others))
        assert {f"--{each.strip()}" for each in found.split("--")[1:]} == expected
        command_parser().parse_args(shlex.split(f"run --data D --out O{found}"))
    assert remedy_of(verdict({"two conditions": usable})) == ""


@pytest.mark.parametrize("chosen", ["auto", "re-ranker", "blend"])
def test_an_evaluation_ends_with_the_page_and_a_command_that_runs(
    chosen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_collection(tmp_path / "my data"), tmp_path / "it's out"
    model = tiny_cross_encoder(tmp_path / "model")
    settings = [*QUICK, f"train.model={model}", "train.max_tokens=32", f"ranker.choose={chosen}"]
    given = ["--data", str(data), "--out", str(out), *(word for each in settings for word in ("--set", each))]
    assert main(["evaluate", *given]) == 0
    *lines, page, following = capsys.readouterr().out.splitlines()
    assert page == f"All of it, as a page: {out / 'report.html'}"
    words = pasted(following)
    if any("--set ranker.choose=blend deploys it" in line for line in lines):
        assert words == ["evaluate", *given, "--set", "ranker.choose=blend"]
        assert chosen != "blend"
    else:
        ranked = ["--model", str(out / "ranker"), "--data", str(data), "--out", str(out / "run.trec")]
        assert words == ["rank", *ranked, *given[4:]]
    assert main(words) == 0
    kind = json.loads((out / "manifest.json").read_text())["ranker"]["kind"]
    assert words[0] == "rank" or kind == "blend", "the last setting counts"


def test_an_answer_that_names_the_blend_is_followed_by_its_command(tmp_path: Path) -> None:
    (tmp_path / "ranker").mkdir()
    options = argparse.Namespace(config=None, set=["ranker.choose=re-ranker"], data="D", out=tmp_path)
    asked = f"--data D --out {tmp_path} --set ranker.choose=re-ranker"
    advised = after_evaluation(options, "No: …\nx is better on dev: --set ranker.choose=blend deploys it.")
    assert advised == f"Next: hnmine evaluate {asked} --set ranker.choose=blend", "no page, no line of it"
    insisted = after_evaluation(options, "Yes: ranker.choose insists on re-ranker.")
    assert insisted.startswith(f"Next: hnmine rank --model {tmp_path / 'ranker'} --data D --out ")


def test_every_example_of_the_help_is_understood() -> None:
    for example in EXAMPLES.splitlines():
        command, *options = shlex.split(example)
        parsed = command_parser().parse_args([command, "--data", "D", "--out", "O", *options])
        load(overrides=parsed.set)
    for line in RANK_EXAMPLES.splitlines():
        if line.startswith("  hnmine "):
            command_parser().parse_args(shlex.split(line)[1:])
    commands = [line.split()[1] for line in DESCRIPTION.splitlines() if line.startswith("  hnmine ")]
    for command in commands:
        with pytest.raises(SystemExit) as stop:
            command_parser().parse_args([command, "--help"])
        assert stop.value.code == 0
