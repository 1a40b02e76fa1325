"""Nothing leaves this machine unless OWNER/NAME is said twice; then what the manifest names, privately."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from hnmine.errors import ConfigError, DataError, UnavailableError
from hnmine.report.push import push
from hnmine.runs.files import file_sha256, write_json
from tests.builders.commands import run_hnmine
from tests.builders.hub import Hub, running_hub

TO = "someone/a-ranker"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process would send to."""
    close_session()
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_a_token_of_a_test")
        yield hub
    close_session()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run with a ranker and two re-rankers, as far as a push looks at them."""
    out = tmp_path / "out"
    contents = {
        "ranker/ranker.json": "{}",
        "ranker/bm25.safetensors": "words",
        "ranker/encoders/mini/model.safetensors": "weights of an encoder",
        "rerankers/paper/model.safetensors": "weights",
        "rerankers/paper/config.json": "{}",
        "rerankers/other/model.safetensors": "other weights",
    }
    card = "---\nlibrary_name: hnmine\nbase_model: someone/body\n---\n\n# A card\n"
    cards = ("ranker/README.md", "ranker/encoders/mini/README.md", "rerankers/paper/README.md")
    for name, text in (contents | dict.fromkeys(cards, card)).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    (out / "reranker").symlink_to("rerankers/paper")
    write_json(out / "manifest.json", {"files": {name: file_sha256(out / name) for name in contents}})
    return out


def test_a_dry_run_names_every_file_its_size_and_what_to_know_and_asks_nothing(out: Path, hub: Hub) -> None:
    text = push(out, TO)
    for part in (
        f"{TO} (private): 5 files",
        "encoders/mini/model.safetensors     21",
        "warning: no licence is stated; set ranker.card",
        "warning: made from someone/body, whose licence must allow it",
        "warning: it holds copies of encoders, whose licences must allow it: mini",
        "warning: it holds every word of the collection",
        f"Nothing was sent. To upload, repeat the command with --yes-upload {TO}",
    ):
        assert part in text
    assert hub.requests == []


@pytest.mark.parametrize("answer", ["", "y", "yes", "someone/another", "a-ranker"])
def test_any_answer_but_the_name_sends_nothing(answer: str, out: Path, hub: Hub) -> None:
    shown: list[str] = []

    def ask(question: str) -> str:
        shown.append(question)
        return answer

    if answer:
        with pytest.raises(ConfigError, match="nothing was sent"):
            push(out, TO, ask=ask)
    else:
        assert "Nothing was sent" in push(out, TO, ask=ask)
    assert "ranker.json" in shown[0], "what would be sent is seen before the question"
    assert hub.requests == []


@pytest.mark.parametrize("said", ["option", "prompt"])
def test_what_is_said_twice_is_sent_whole_to_a_private_repository(said: str, out: Path, hub: Hub) -> None:
    text = push(out, TO, confirmed=TO) if said == "option" else push(out, TO, ask=lambda _: f" {TO}\n")
    assert f"Uploaded: {hub.address}/{TO}/commit/abc" in text
    assert hub.repositories == {TO: True}
    folder = out / "ranker"
    sent = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert hub.files == sent
    assert "hf_a_token" not in text


def test_the_re_ranker_that_out_points_to_is_sent_alone(out: Path, hub: Hub) -> None:
    push(out, TO, which="reranker", confirmed=TO)
    assert hub.files.keys() == {"README.md", "model.safetensors", "config.json"}
    assert hub.files["model.safetensors"] == b"weights"


def test_a_repository_that_is_public_takes_nothing_unless_that_is_asked_for(out: Path, hub: Hub) -> None:
    hub.repositories[TO] = False
    with pytest.raises(ConfigError, match="is public; nothing was sent"):
        push(out, TO, confirmed=TO)
    assert hub.requests == [f"GET /api/models/{TO}"]
    assert "warning: public" in push(out, TO, public=True)
    assert hub.files == {}
    push(out, TO, public=True, confirmed=TO)
    assert "ranker.json" in hub.files


def test_a_repository_of_once_is_not_made_again(out: Path, hub: Hub) -> None:
    hub.repositories[TO] = True
    push(out, TO, public=True, confirmed=TO)
    assert hub.created == []
    assert hub.repositories == {TO: True}, "nothing is made public that was private"


@pytest.mark.parametrize("spoil", ["more", "changed", "gone", "card"])
def test_a_folder_that_is_not_as_the_manifest_says_is_never_sent(spoil: str, out: Path, hub: Hub) -> None:
    name = {"more": ".env", "changed": "ranker.json", "gone": "bm25.safetensors", "card": "README.md"}[spoil]
    path = out / "ranker" / name
    path.unlink(missing_ok=True)
    if spoil in ("more", "changed"):
        path.write_text("secret")
    with pytest.raises(DataError, match=name):
        push(out, TO, confirmed=TO)
    assert hub.requests == []


def test_a_model_that_is_not_of_the_run_is_never_sent(out: Path, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (out / "reranker").unlink()
    (out / "reranker").symlink_to(tmp_path / "given")
    with pytest.raises(DataError, match="no reranker of its own making"):
        push(out, TO, which="reranker", confirmed=TO)
    assert hub.requests == []


@pytest.mark.parametrize("to", ["a-ranker", "a/b/c", "", "someone/..", "some one/x"])
def test_a_name_that_is_none_of_the_hub_is_refused(to: str, out: Path, hub: Hub) -> None:
    with pytest.raises(ConfigError, match="--to"):
        push(out, to, confirmed=to)
    assert hub.requests == []


def test_a_refusal_of_the_hub_is_said_in_words(out: Path, hub: Hub) -> None:
    hub.refuses = True
    with pytest.raises(UnavailableError, match=rf"the hub did not take {TO}: .*401.*HF_TOKEN"):
        push(out, TO, confirmed=TO)


def test_the_command_is_dry_where_nobody_can_be_asked(out: Path) -> None:
    with running_hub() as hub:
        online = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_a_token_of_a_test"}
        done = run_hnmine("push", "--out", out, "--to", TO, **online)
        assert (done.returncode, hub.requests) == (0, []), done.stderr
        assert "Nothing was sent" in done.stdout
        done = run_hnmine("push", "--out", out, "--to", TO, "--yes-upload", "someone/else", **online)
        assert (done.returncode, hub.requests) == (2, [])
        done = run_hnmine("push", "--out", out, "--to", TO, "--yes-upload", TO, "--what", "reranker", **online)
        assert done.returncode == 0, done.stderr
        assert hub.files.keys() == {"README.md", "model.safetensors", "config.json"}
        assert "hf_a_token" not in done.stdout + done.stderr


@pytest.mark.parametrize("answer", ["", TO])
def test_a_person_at_a_terminal_is_asked_after_having_seen_the_files(answer: str, out: Path) -> None:
    with running_hub() as hub:
        online = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_a_token_of_a_test"}
        command = [sys.executable, "-m", "hnmine.cli", "push", "--out", str(out), "--to", TO]
        ours, theirs = os.openpty()
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | online) as process:
            os.close(theirs)
            seen = b""
            while b"or nothing to end" not in seen:
                seen += os.read(ours, 4096)
            assert hub.requests == []
            os.write(ours, f"{answer}\n".encode())
            with contextlib.suppress(OSError):  # Linux: the other end is closed
                while part := os.read(ours, 4096):
                    seen += part
        os.close(ours)
        assert b"ranker.json" in seen.partition(b"Type ")[0]
        assert process.returncode == 0
        assert (hub.files != {}) == bool(answer)
        assert bool(hub.requests) == bool(answer)
