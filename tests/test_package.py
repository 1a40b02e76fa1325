"""What `import hnmine` gives and what it does not load, here and from the wheel that users install."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import hnmine
from tests.builders.collections import write_collection
from tests.builders.commands import REPOSITORY, modules_loaded_by, run_hnmine
from tests.builders.models import tiny_cross_encoder, tiny_word_encoder
from tests.builders.settings import quick_options
from tests.builders.sockets import LOOPBACK, listening
from tests.builders.source_code import sources

HEAVY = ("torch", "ray", "transformers", "sentence_transformers", "sklearn", "pyarrow", "faiss", "cuml", "bm25s")


def test_everything_the_package_names_can_be_had_and_nothing_else() -> None:
    assert dir(hnmine) == sorted(hnmine.__all__)
    for name in hnmine.__all__:
        assert getattr(hnmine, name).__module__.startswith("hnmine."), name
    with pytest.raises(AttributeError, match="module 'hnmine' has no attribute 'minne'"):
        _ = hnmine.minne
    assert issubclass(hnmine.HnmineError, ValueError)
    assert hnmine.load_config(overrides=["select.negatives=4"]).select.negatives == 4


def test_the_package_itself_loads_nothing_heavy_and_runs_nothing() -> None:
    loaded = modules_loaded_by("import hnmine")
    assert "hnmine" in loaded
    assert not loaded & {*HEAVY, "numpy", "pydantic", "yaml"}


def test_the_settings_load_nothing_heavy() -> None:
    assert not modules_loaded_by("import hnmine; hnmine.load_config(); hnmine.HnmineError") & {*HEAVY, "numpy"}


def test_the_numerics_and_mining_load_neither_torch_nor_ray() -> None:
    loaded = modules_loaded_by(
        "import hnmine.mining.mine, hnmine.mining.conditions, hnmine.mining.search, hnmine.mining.pca, hnmine.pipeline"
    )
    assert "pyarrow" in loaded
    assert not loaded & {"torch", "ray", "transformers", "sentence_transformers"}


# The network

RECORDER = """
import os, sys
LOOPBACK = ("127.0.0.1", "::1", "localhost", "", None, b"127.0.0.1", b"localhost")
def record(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        asked = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        asked = arguments[1][0]
    else:
        return
    if asked not in LOOPBACK:
        with open(os.environ["ASKED"], "a") as lines:
            lines.write(f"{event} {asked} {' '.join(sys.argv[:4])}\\n")
sys.addaudithook(record)
"""
"""A module that every Python process imports when it starts, workers of Ray included."""


@pytest.fixture
def listened(tmp_path: Path) -> dict[str, str]:
    """An environment of a new user, in which the file ASKED gets a line for each look-up and each connection."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(RECORDER)
    (tmp_path / "home").mkdir()
    asked = tmp_path / "asked.txt"
    asked.touch()
    return {"PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path / "home"), "ASKED": str(asked)}


def test_the_recorder_hears_what_python_asks(listened: dict[str, str]) -> None:
    code = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.getaddrinfo('example.invalid', 80)"
    subprocess.run([sys.executable, "-c", code], env=os.environ | listened, check=True)
    assert "example.invalid" in Path(listened["ASKED"]).read_text()


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param(["mine", "train", "evaluate"], id="steps"),
        pytest.param(["nightly"], id="nightly", marks=pytest.mark.slow),
        pytest.param(["compare"], id="compare", marks=pytest.mark.slow),
    ],
)
def test_no_command_asks_the_network_anything(commands: list[str], listened: dict[str, str], tmp_path: Path) -> None:
    data, model = write_collection(tmp_path / "data"), tiny_cross_encoder(tmp_path / "model")
    encoder = f"encoders=[{{name: tiny, model: {tiny_word_encoder(tmp_path / 'encoder')}, dtype: float32}}]"
    options = quick_options(model, encoder, "engine=openvino", "train.presets=anchored")
    for command in commands:
        place = "--home" if command == "nightly" else "--out"
        arms = ["--arms", "two-conditions", "--seeds", "1"] if command == "compare" else []
        done = run_hnmine(command, "--data", data, place, tmp_path / "out", *arms, *options, **listened)
        assert done.returncode == 0, done.stderr
    assert Path(listened["ASKED"]).read_text() == ""
    left = {path.name for path in Path(listened["HOME"]).iterdir()} - {".cache", ".ray"}
    assert left == set()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("commands", [["mine", "train"], ["compare"]], ids=" ".join)
def test_no_command_listens_to_other_machines(commands: list[str], tmp_path: Path) -> None:
    data, model = write_collection(tmp_path / "data"), tiny_cross_encoder(tmp_path / "model")
    options = quick_options(model, "ray=true", "search.shards=2", "train.workers=2", "train.presets=anchored")
    options += ["--set", "train.evaluations_per_epoch=1", "--set", "compare.learning_rates=[1e-4]"]
    options += ["--data", str(data), "--out", str(tmp_path / "out")]
    with listening(os.getpid()) as found:
        for command in commands:
            arms = ["--arms", "two-conditions", "--seeds", "1"] if command == "compare" else []
            done = run_hnmine(command, *options, *arms)
            assert done.returncode == 0, done.stderr
    assert {name.partition(":")[0] for name in found} >= {"gcs_server", "raylet"}
    assert any("RayTrainWorker" in name for name in found), found
    assert set().union(*found.values()) <= LOOPBACK, found


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what it is built of and nothing else, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(REPOSITORY / "hnmine", folder / "source" / "hnmine", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / "source")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--wheel-dir", folder]
    command = [sys.executable, "-m", "pip", "wheel", folder / "source", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("hnmine-*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the wheel.

    It finds the libraries of this environment by a path file, but not the package that is installed here to be
    edited: path files of a folder that a path file names are not read.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    interpreter = folder / "bin" / "python"
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", wheel]
    command = [sys.executable, "-m", "pip", "--python", interpreter, "install", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    paths = sysconfig.get_paths("venv", {"base": str(folder), "platbase": str(folder)})
    (Path(paths["purelib"]) / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return interpreter


def test_the_wheel_holds_every_module_the_types_and_the_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        licensed = [name for name in names if name.endswith("dist-info/licenses/LICENSE")]
        assert [archive.read(name) for name in licensed] == [(REPOSITORY / "LICENSE").read_bytes()]
    modules = {str(file.path.relative_to(REPOSITORY)) for file in sources(REPOSITORY, "hnmine")}
    tables = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "hnmine").rglob("*.yaml")}
    templates = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "hnmine").glob("*/templates/*")}
    assert len(tables) == 5
    assert len(templates) >= 3
    assert {name for name in names if ".dist-info/" not in name} == modules | tables | templates | {"hnmine/py.typed"}


def test_every_module_of_the_wheel_is_imported_from_a_foreign_folder(python: Path, tmp_path: Path) -> None:
    modules = sorted(file.module for file in sources(REPOSITORY, "hnmine"))
    code = (
        "import importlib, json, sys, hnmine\n"
        "files = {name: importlib.import_module(name).__file__ for name in json.loads(sys.argv[1])}\n"
        "public = {name: callable(getattr(hnmine, name)) for name in hnmine.__all__}\n"
        "print(json.dumps([files, public]))"
    )
    done = subprocess.run(
        [python, "-c", code, json.dumps(modules)], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    files, public = json.loads(done.stdout.splitlines()[-1])
    assert all(Path(file).is_relative_to(python.parents[1]) for file in files.values()), files
    assert public == dict.fromkeys(hnmine.__all__, True), "a package has the name of a function and hides it"


def test_the_command_of_the_wheel_answers_from_a_foreign_folder(python: Path, tmp_path: Path) -> None:
    done = subprocess.run([python.with_name("hnmine"), "config"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "negatives" in done.stdout
