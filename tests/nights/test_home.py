"""Versions, re-rankers and the pointer, on a folder and on a real S3 server."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hnmine.cli import main
from hnmine.config.encoders import EncoderConfig
from hnmine.config.root import Config
from hnmine.errors import ConfigError, DataError, ModelError
from hnmine.models.folder import folder_sha256
from hnmine.nights.home import Facts, Home, Row, Version, history_table, identities_of, ranks_as
from hnmine.nights.lease import LockLostError
from hnmine.ranker.parts import Part
from hnmine.ranker.place import is_ranker, ranker_folder
from hnmine.ranker.ranker import RankerSpec
from hnmine.runs.directory import Directory
from hnmine.runs.files import digest, write_json
from hnmine.runs.folder import open_run


@pytest.fixture
def home(root: str) -> Home:
    return Home(root)


def ranker(folder: Path, content: str, weights: str = "") -> Path:
    """A ranker of a re-ranker alone, as far as a home looks at it."""
    (folder / "re-ranker" / "1_Pooling").mkdir(parents=True)
    (folder / "re-ranker" / "config.json").write_text(content)
    (folder / "re-ranker" / "1_Pooling" / "config.json").write_text("{}")
    (folder / "empty.txt").touch()
    if weights:
        (folder / "re-ranker" / "model.safetensors").write_text(weights)
    sha256 = folder_sha256(folder / "re-ranker")
    part = Part(kind="re-ranker", path="re-ranker", reranker="cross-encoder", sha256=sha256)
    describe(folder, "re-ranker", {"re-ranker": part})
    (folder / "README.md").write_text("how to serve it")
    return folder


def describe(folder: Path, kind: str, parts: dict[str, Part]) -> Path:
    facts = {"depth": 20, "dev_queries": 1, "dev_identity": "", "test_queries": 1, "figures": {}, "ms_per_part": {}}
    weights = dict.fromkeys(parts, 1.0)
    spec = RankerSpec(
        chosen=kind, kind=kind, weights=weights, parts=parts, standardised=None, versions={"hnmine": "0"}, **facts
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "ranker.json", spec.model_dump(mode="json"))
    return folder


def publish(home: Home, tmp_path: Path, content: str, keep: int = 10, weights: str = "") -> str:
    """A night that leaves one file and a ranker of this content."""
    number = home.next_number()
    folder = ranker(tmp_path / f"ranker-{number}", content, weights)
    file = tmp_path / f"file-{number}"
    file.write_text(f"of {number}")
    made = {"ranker": home.add_ranker(folder), "identity": identities_of(folder)[0], "facts": Facts(epoch=1)}
    deploy(home, Version(number=number, files=[], **made), {"a.txt": file}, keep)
    return number


def deploy(home: Home, version: Version, files: dict[str, Path], keep: int = 10) -> None:
    after = home.current().number
    home.write(version, files)
    row = Row(when="2026-01-01 00:00", version=version.number, decision="deployed", pairs=7, epoch=2)
    home.point(version.number, row, keep, after=after)


def publish_earlier(home: Home, folder: Path) -> str:
    """A night of an earlier release, which deployed a re-ranker and no ranker."""
    number, files = home.next_number(), folder_sha256(folder)
    name = digest(files)
    for file in files:
        home.directory.write(f"rerankers/{name}/{file}", (folder / file).read_bytes())
    home.directory.write(f"rerankers/{name}/files.json", json.dumps(files).encode())
    deploy(home, Version(number=number, files=[], reranker=name, facts=Facts(epoch=1)), {})
    return number


def test_a_new_home_is_empty_and_reading_it_creates_nothing(tmp_path):
    home = Home(tmp_path / "home")
    assert (home.current().number, home.current().files) == ("", [])
    assert home.history() == []
    assert home.next_number() == "0001"
    assert not (tmp_path / "home").exists()


def test_a_version_holds_when_the_pointer_names_it_and_not_before(home, tmp_path):
    publish(home, tmp_path, "one")
    file = tmp_path / "broken-off"
    file.write_text("half a night")
    home.write(Version(number=home.next_number(), files=[], facts=Facts()), {"other.txt": file, "a.txt": file})
    version = home.current()
    assert (version.number, version.files, version.facts) == ("0001", ["a.txt"], Facts(epoch=1))
    assert publish(home, tmp_path, "two") == "0002"
    assert (home.directory / "versions" / "0002").files() == ["a.txt", "version.json"]
    work = tmp_path / "work"
    assert home.file(home.current(), "a.txt", work).read_text() == "of 0002"
    assert home.file(version, "a.txt", work).read_text() == "of 0001"
    assert home.file(version, "b.txt", work) is None
    assert [row.version for row in home.history()] == ["0001", "0002"]


def test_a_ranker_comes_back_as_it_was_and_equal_ones_are_kept_once(home, tmp_path):
    publish(home, tmp_path, "one")
    publish(home, tmp_path, "one")
    (name,) = (home.directory / "rankers").folders()
    for _ in range(2):
        folder = home.deployed(home.current(), tmp_path / "work")
        assert (folder / "re-ranker" / "config.json").read_text() == "one"
        assert (folder / "re-ranker" / "1_Pooling" / "config.json").read_text() == "{}"
    assert home.directory.read(f"rankers/{name}/README.md").to_pybytes() == b"how to serve it"


def test_a_ranker_half_written_is_written_again(home, tmp_path):
    folder = ranker(tmp_path / "ranker", "one")
    name = home.add_ranker(folder)
    (home.directory / "rankers" / name).remove("files.json")
    (home.directory / "rankers" / name).write("re-ranker/config.json", b"half")
    assert home.add_ranker(folder) == name
    version = Version(number="0001", files=[], ranker=name, facts=Facts())
    assert (home.deployed(version, tmp_path / "work") / "re-ranker" / "config.json").read_text() == "one"


@pytest.mark.parametrize("name", ["", "/current", "/current/"])
def test_what_a_home_deploys_is_found_by_its_address(home, tmp_path, name):
    base, mark, query = home.address.partition("?")
    address = f"{base}{name}{mark}{query}"
    with pytest.raises((DataError, AssertionError)), ranker_folder(address) as folder:
        assert folder.exists()
    for content in ("one", "two"):
        publish(home, tmp_path, content)
        assert is_ranker(address)
        with ranker_folder(address) as folder:
            assert (folder / "re-ranker" / "config.json").read_text() == content
    home.rollback()
    with ranker_folder(address) as folder:
        assert (folder / "re-ranker" / "config.json").read_text() == "one"


def test_a_ranker_in_an_object_store_is_found_by_its_address(home, tmp_path):
    publish(home, tmp_path, "one")
    base, mark, query = home.address.partition("?")
    with ranker_folder(f"{base}/rankers/{home.current().ranker}{mark}{query}") as folder:
        assert (folder / "re-ranker" / "config.json").read_text() == "one"


def test_a_pointer_moves_only_from_the_version_that_the_night_began_with(home, tmp_path):
    publish(home, tmp_path, "one")
    home.write(Version(number="0002", files=[], ranker=home.current().ranker, facts=Facts()), {})
    with pytest.raises(LockLostError, match=r"version 0001 holds in .*, and 0000 did before; start again"):
        home.point("0002", Row(version="0002", decision=""), 10, after="0000")
    assert home.current().number == "0001"


def test_all_that_the_pointer_leads_to_is_on_the_disk_before_it_moves(tmp_path, monkeypatch):
    home, settled, fsync = Home(tmp_path / "deep" / "home"), [], os.fsync

    def settle(opened: int) -> None:
        settled.append(Path(os.readlink(f"/proc/self/fd/{opened}")))
        fsync(opened)

    monkeypatch.setattr(os, "fsync", settle)
    publish(home, tmp_path, "one")
    folder = home.directory.local
    (moved,) = [at for at, path in enumerate(settled) if path.name.startswith(".current.json")]
    before = {path.relative_to(tmp_path) for path in settled[:moved]}
    hidden = {path.parent / path.name[1:].rpartition(".tmp")[0].rpartition(".")[0] for path in before}
    written = [path for part in ("versions", "rankers") for path in (folder / part).rglob("*")]
    assert {path.relative_to(tmp_path) for path in written if path.is_file()} <= hidden
    folders = [path for path in written if path.is_dir()] + [folder, folder.parent, tmp_path]
    folders += [folder / part for part in ("versions", "rankers")]
    assert {path.relative_to(tmp_path) for path in folders} <= before
    assert folder in settled[moved:]


def test_an_address_with_a_password_is_refused():
    with pytest.raises(ConfigError, match="--home: credentials belong in the environment") as refused:
        Home("s3://name:secret@bucket/home")
    assert "secret" not in str(refused.value)


def test_what_a_work_folder_holds_of_a_store_is_brought_into_the_home(home, tmp_path):
    (tmp_path / "work" / "store" / "lexical").mkdir(parents=True)
    (tmp_path / "work" / "store" / "lexical" / "fit").write_text("fit")
    for _ in range(2):
        store = Directory.at(home.keep_store(tmp_path / "work"))
        assert store.read("lexical/fit").to_pybytes() == b"fit"
    assert str(store) == f"{home.directory}/store"
    assert not (tmp_path / "work" / "store").exists()


def flip_a_bit(directory: Directory, name: str) -> None:
    content = bytearray(directory.read(name).to_pybytes())
    content[len(content) // 2] ^= 1
    directory.write(name, bytes(content))


def test_a_damaged_file_of_a_version_is_not_read(home, tmp_path, capfd):
    publish(home, tmp_path, "one")
    version = home.current()
    assert home.file(version, "a.txt", tmp_path / "work").read_text() == "of 0001"
    flip_a_bit(home.directory, "versions/0001/a.txt")
    assert home.file(version, "a.txt", tmp_path / "work") is None
    assert "a.txt is damaged" in capfd.readouterr().err
    home.directory.remove("versions/0001/a.txt")
    assert home.file(version, "a.txt", tmp_path / "other") is None
    assert "a.txt is gone" in capfd.readouterr().err


def test_a_damaged_ranker_is_refused(home, tmp_path):
    publish(home, tmp_path, "one")
    version = home.current()
    flip_a_bit(home.directory, f"rankers/{version.ranker}/re-ranker/config.json")
    with pytest.raises(DataError, match=r"config.json is gone or damaged; bring it back, or .*hnmine rollback"):
        home.deployed(version, tmp_path / "work")


def test_what_no_night_made_is_never_removed(home, tmp_path):
    with home.hold():
        publish(home, tmp_path, "one")
    for theirs in ("rankers/mine/config.json", "versions/notes/a.txt", "rankers/readme.txt", "mine.txt"):
        home.directory.write(theirs, b"theirs")
    home.directory.write(f"rankers/{'0' * 20}/config.json", b"of a night that was broken off")
    with home.hold():
        for content in ("two", "three"):
            publish(home, tmp_path, content, keep=1)
    assert home.directory.read("rankers/mine/config.json").to_pybytes() == b"theirs"
    assert home.directory.read("versions/notes/a.txt").to_pybytes() == b"theirs"
    assert home.directory.read("mine.txt") is not None
    assert len((home.directory / "rankers").folders()) == 2
    assert (home.directory / "versions").folders() == ["0003", "notes"]


@pytest.mark.parametrize("theirs", ["rerankers/best/config.json", "manifest.json", "versions/0001/x"])
def test_a_folder_with_other_things_is_no_home(home, theirs):
    home.directory.write(theirs, b"theirs")
    with (
        pytest.raises(DataError, match=r"is no home of nights and not empty, it holds \w+.*choose an empty"),
        home.hold(),
    ):
        pytest.fail("held")
    assert home.directory.read(theirs).to_pybytes() == b"theirs"
    assert home.directory.folders() == [theirs.split("/")[0]] * ("/" in theirs)  # not even a lock


def test_a_home_of_an_earlier_release_is_one(home, tmp_path):
    publish(home, tmp_path, "one")
    assert home.directory.read("home.json") is None
    with home.hold():
        pass
    assert home.directory.read("home.json") is not None
    with home.hold():
        pass


def test_a_home_is_no_run_folder(tmp_path):
    with Home(tmp_path / "home").hold():
        pass
    with pytest.raises(DataError, match="is a home of nights"), open_run(tmp_path / "home", Config()):
        pytest.fail("opened")
    with open_run(tmp_path / "home" / "work", Config()):
        pass


def test_the_last_versions_are_kept_with_what_they_need(home, tmp_path):
    for content in ("one", "two", "two", "three"):
        publish(home, tmp_path, content, keep=2)
    assert (home.directory / "versions").folders() == ["0003", "0004"]
    assert len((home.directory / "rankers").folders()) == 2
    assert len(home.history()) == 4


def test_rollback_goes_to_the_ranker_before_the_last_one(home, tmp_path):
    for content in ("one", "two", "two"):
        publish(home, tmp_path, content)
    before = home.current().ranker
    row = home.rollback()
    assert (row.version, row.decision) == ("0001", "rolled back from 0003")
    assert (row.pairs, row.epoch) == (7, 2), "of the version that holds again"
    version = home.current()
    assert version.number == "0001"
    assert version.ranker != before
    assert (home.directory / "versions").folders() == ["0001", "0002", "0003"], "a rollback removes none"
    assert publish(home, tmp_path, "four", keep=2) == "0004"
    with pytest.raises(DataError, match="no version 0009; it keeps 0003, 0004"):
        home.rollback("0009")
    assert home.rollback("0003").decision == "rolled back from 0004"
    with pytest.raises(DataError, match=r"no version before 0003 with another ranker, only 0003, 0004; .*--to: 0004"):
        home.rollback()
    with pytest.raises(DataError, match="version 0003 deploys what 0003 does; with another ranker: 0004"):
        home.rollback("0003")


def test_every_version_with_another_ranker_is_reached_without_naming_it_those_of_other_weights_first(home, tmp_path):
    for content, weights in (("a", "good"), ("b", "good"), ("c", "bad"), ("d", "bad"), ("d", "bad")):
        publish(home, tmp_path, content, weights=weights)
    assert home.others() == ["0001", "0002", "0003"]
    with pytest.raises(DataError, match="version 0004 deploys what 0005 does; with another ranker: 0001, 0002, 0003"):
        home.rollback("0004")
    reached = []
    while (target := home.rollback_target()) is not None:
        assert home.rollback().version == target
        reached.append(target)
    assert reached == ["0002", "0001"]
    with pytest.raises(DataError, match=r"no version before 0001 .*for --to: 0002, 0003, 0004, 0005"):
        home.rollback()


def test_the_commands_offer_a_rollback_only_where_it_has_a_target(tmp_path, capsys):
    address = str(tmp_path / "home")
    for command in ("history", "rollback"):
        assert main([command, "--home", address]) == 2
        assert "has no version yet; run `hnmine nightly` first" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()
    home = Home(tmp_path / "other")
    for content, offer in (("one", False), ("one", False), ("two", True)):
        publish(home, tmp_path, content)
        assert main(["history", "--home", home.address]) == 0
        assert ("--to VERSION deploys another one again: 0001, 0002" in capsys.readouterr().out) == offer
        assert (home.rollback_target() is not None) == offer
    assert main(["rollback", "--home", home.address]) == 0
    printed = capsys.readouterr().out
    assert "0002" in printed
    assert "rolled back from 0003" in printed


def test_what_was_rolled_back_from_is_rejected_until_it_is_rolled_back_to(home, tmp_path):
    for content in ("one", "two", "three"):
        publish(home, tmp_path, content)
    folders = [tmp_path / f"ranker-000{number}" for number in (1, 2, 3)]
    assert [home.is_rejected(folder) for folder in folders] == [False, False, False]
    home.rollback()
    home.rollback()
    publish(home, tmp_path, "four")
    assert [home.is_rejected(folder) for folder in folders] == [False, True, True]
    assert home.rollback().version == "0001", "and neither of these"
    home.rollback("0003")
    assert [home.is_rejected(folder) for folder in folders] == [True, True, False]


def test_a_home_of_re_rankers_alone_is_read_and_its_rejections_hold(home, tmp_path):
    for name in ("first", "bad"):
        folder = ranker(tmp_path / name, name, weights=name) / "re-ranker"
        (folder / "hnmine.json").write_text('{"lists": 7}')  # the record of a training, which was no part of the model
        publish_earlier(home, folder)
    version = home.current()
    assert (version.number, version.ranker) == ("0002", "")
    assert (home.deployed(version, tmp_path / "work") / "config.json").read_text() == "bad"
    with (
        pytest.raises(ModelError, match="deploys no ranker yet; the next `hnmine nightly`"),
        ranker_folder(home.address),
    ):
        pytest.fail("found")
    assert home.rollback().version == "0001"
    publish(home, tmp_path, "three", weights="three", keep=2)
    assert (home.directory / "rerankers").folders() == [version.reranker]
    again = ranker(tmp_path / "again", "bad, trained again", weights="bad")
    assert home.is_rejected(again)
    home.rollback("0002")
    assert not home.is_rejected(again)
    assert home.current().reranker == version.reranker


def test_other_settings_beside_the_same_weights_are_no_other_ranker(home, tmp_path):
    for content in ("good", "bad"):
        publish(home, tmp_path, content, weights=content)
    home.rollback()
    again = ranker(tmp_path / "again", "bad, but trained in two parts", weights="bad")
    assert home.is_rejected(again)
    assert not home.is_rejected(ranker(tmp_path / "other", "bad", weights="other"))


def test_rankers_rank_alike_whatever_figures_were_written_beside_their_parts(tmp_path):
    def described(name: str, deviation: float = 1.0, **changes: dict) -> Path:
        encoder = EncoderConfig(name="minilm", model="encoders/minilm")
        how = {"kind": "encoder", "path": "encoders/minilm", "sha256": {"x": "1"}, "encoder": encoder} | changes
        return describe(tmp_path / name, "blend", {"minilm": Part(**how, deviation=deviation)})

    first = described("a")
    assert ranks_as(first, described("b", deviation=2.0))
    assert not ranks_as(first, described("c", sha256={"x": "2"}))
    two = {name: RankerSpec.read(first).parts["minilm"] for name in ("minilm", "other")}
    assert not ranks_as(first, describe(tmp_path / "d", "blend", two))


def test_a_sum_is_named_by_its_parts_and_not_by_the_statistics_of_a_night(tmp_path):
    def names(folder: str, kind: str = "blend", statistics: str = "1", **parts: Part) -> list[str]:
        bm25 = Part(kind="bm25", path="bm25.safetensors", sha256={"bm25.safetensors": statistics})
        return identities_of(describe(tmp_path / folder, kind, {"BM25": bm25, **parts}))

    words = EncoderConfig(name="words", lexical={"width": 8})
    fitted = [Part(kind="encoder", path=f"lexical/{fit}", sha256={fit: fit}, encoder=words) for fit in "ab"]
    assert names("a", words=fitted[0]) == names("b", statistics="2", words=fitted[1])
    assert names("a", words=fitted[0]) != names("c", kind="first-stage")
    model = EncoderConfig(name="words", model="encoders/words")
    others = [Part(kind="encoder", path="encoders/words", sha256={"x": sha}, encoder=model) for sha in "ab"]
    assert names("d", words=others[0]) != names("e", words=others[1])


@pytest.mark.parametrize("kind", ["versions", "rankers"])
def test_a_removal_that_was_broken_off_leaves_nothing_that_looks_whole(home, tmp_path, monkeypatch, kind):
    for content in ("one", "two", "three"):
        publish(home, tmp_path, content)
    raw = home.directory.read("versions/0001/version.json")
    first, remove = Version.model_validate_json(raw.to_pybytes()), Directory.remove_folder

    def break_off(directory: Directory, name: str) -> None:
        if name.startswith(kind):
            raise KeyboardInterrupt
        remove(directory, name)

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "remove_folder", break_off)
        with pytest.raises(KeyboardInterrupt):
            home.point("0003", Row(version="0003", decision=""), 2, after="0003")
    with pytest.raises(DataError, match="no version 0001; it keeps 0002, 0003"):
        home.rollback("0001")
    if kind == "rankers":  # the removal came as far as this
        home.directory.remove(f"rankers/{first.ranker}/re-ranker/config.json")
    publish(home, tmp_path, "one", keep=2)
    assert (home.deployed(home.current(), tmp_path / "work") / "re-ranker" / "config.json").read_text() == "one"
    assert (home.directory / "versions").folders() == ["0003", "0004"]


def test_a_home_without_a_night_cannot_be_rolled_back(home):
    with pytest.raises(DataError, match="no version yet; run `hnmine nightly` first"):
        home.rollback()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "current.json is not what a night leaves"),
        (b'{"version": "0001", "history": []}', "version.json is miss"),
    ],
)
def test_the_error_of_a_damaged_home_names_the_file(tmp_path, content, message):
    Directory.at(tmp_path).write("current.json", content)
    with pytest.raises(DataError, match=message):
        Home(tmp_path).current()


def test_the_history_is_a_table():
    first = Row(
        when="2026-01-01 02:00", version="0001", added=12000, pairs=7, mrr_trained=0.5, decision="deployed, the first"
    )
    second = Row(
        when="2026-01-02 02:00",
        version="0002",
        changed=3,
        removed=1,
        pairs=7,
        negatives_changed=2,
        mrr=0.5,
        decision="no",
    )
    lines = history_table([first, second]).splitlines()
    assert lines[0].split()[:5] == ["night", "version", "added", "changed", "removed"]
    assert "  MRR@10 deployed before  MRR@10 of tonight's choice  decision" in lines[0]
    assert lines[1].split() == [
        *("2026-01-01", "02:00", "0001", "12,000", "0", "0", "7", "0", "1", "-", "0.500"),
        *("deployed,", "the", "first"),
    ]
    at = lines[0].index("decision")
    assert lines[2][at:] == "no"
    assert json.loads(first.model_dump_json())["mrr"] is None
