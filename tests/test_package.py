"""What the source distribution alone gives: a wheel that trains, and the library for C programs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from compiled import ROOT
from runs import environment
from test_library import Installed, output_of

NO_SOURCES = shutil.ignore_patterns(
    ".*", "build", "dist", "runs", "*.egg-info", "*.so", "__pycache__"
)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel made of it.

    Both come from a copy of the sources: earlier builds leave lists of files behind.
    """
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, folder / "sources", ignore=NO_SOURCES)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist"]
    subprocess.run([*build, folder / "sources"], check=True, capture_output=True)
    return folder / "dist"


def test_a_wheel_built_from_the_source_distribution_trains(
    distributions: Path, tmp_path: Path
) -> None:
    (wheel,) = distributions.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    files = (
        *("data/corpus/moby_dick.txt", "data/corpus/tokenizer.json", "models/tiny.toml"),
        *("explore/known.json", "chip/published.json", "chip/results.schema.json"),
    )
    for name in files:
        assert f"ane_train/{name}" in names
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, wheel]
    subprocess.run(install, check=True, capture_output=True)
    where = [sys.executable, "-c", "import ane_train; print(ane_train.__file__)"]
    installed = environment(PYTHONPATH=str(target))
    found = subprocess.run(where, cwd=tmp_path, env=installed, capture_output=True, text=True)
    assert found.stdout.startswith(str(target))
    result = subprocess.run(
        [sys.executable, "-m", "ane_train", "--steps", "2", "--seq", "32", "--eval-every", "0"],
        cwd=tmp_path,
        env=installed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "step 2/2" in result.stdout


def test_the_source_distribution_builds_the_library_and_the_example(
    distributions: Path, tmp_path: Path
) -> None:
    (archive,) = distributions.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path)
    (folder,) = (each for each in tmp_path.iterdir() if each.is_dir())
    installed = Installed(tmp_path / "usr")
    options = [f"PREFIX={installed.prefix}", "CFLAGS=-O0", "PYTHON=false"]
    output_of("make", "-C", folder, "-j2", *options, "install")
    example = installed.link(folder / "examples" / "evaluate.c", output=tmp_path / "evaluate")
    assert output_of(example).count("\n") == 2
