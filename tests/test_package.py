"""What `pip install .` gives: a wheel from the source distribution alone, with all of its data."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from runs import environment

ROOT = Path(__file__).parent.parent


def test_a_wheel_built_from_the_source_distribution_trains(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("models/tiny.toml", "data/corpus/moby_dick.txt", "data/corpus/tokenizer.json"):
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
