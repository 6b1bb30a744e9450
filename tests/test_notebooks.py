"""The notebooks run from top to bottom, as scripts, and come to an answer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_in_percent_format_and_its_title_is_a_question(path):
    first, title, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first == "# %% [markdown]"
    assert title.startswith("# # ")
    assert title.endswith("?")


def run(name: str, folder: Path) -> str:
    """What a notebook prints; it runs in a folder of its own, and a warning to the user is an error."""
    path = next(p for p in NOTEBOOKS if p.stem == name)
    environment = os.environ | {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(path)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_a_router_tells_where_routing_pays_and_where_it_does_not(tmp_path):
    said = run("train_a_router", tmp_path)
    yes, no = said.splitlines()[-2:]
    assert yes.startswith("Does routing pay at lambda 0.3? On BIG-Bench Hard: worth having: +")
    assert no.startswith("On the Game of 24: not worth having")
    assert "router, picks shuffled" in said
    assert "not promoted: howhard-router version 2 is the challenger" in said
    assert "promoted by force: howhard-router version 3 is the champion (before: 1)" in said
    assert "rolled back: howhard-router version 1 is the champion again, version 3 is not" in said
    assert "'Write a poem about the sea.', unfamiliar" in said
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"howhard-notebook"}
    assert (tmp_path / "howhard-notebook" / "router" / "manifest.json").is_file()
    for plot in ("router", "router-calibration", "router-benefit", "router-families"):
        assert (tmp_path / "howhard-notebook" / f"{plot}.png").stat().st_size > 10_000
