"""The notebooks run from top to bottom, as scripts, and come to an answer."""

import os
import re
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
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False,
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


def test_decide_in_flight_follows_requests_step_by_step(tmp_path):
    said = run("decide_in_flight", tmp_path)
    assert "Plan over small 1-8, large 1-4, verifier best" in said
    proven = "proven: stop with small\n    A sound verifier proved the answer in hand right. Spent so far: "
    assert proven in said
    assert re.search(r"^  .*samples? of small.*: (small|large) x\d+$", said, re.MULTILINE), "no request went on"
    assert "48 of 48 requests decided again: the same steps" in said
    unseen = [int(n) for n in re.findall(r"samples: (\d+) of \d+ given up unseen", said)]
    assert len(unseen) == 3
    assert unseen[0] >= unseen[2], "more is given up where an answer is worth more"
    assert len(re.findall(r"^worth \d+ samples, a second \d+: (small|large|give up)", said, re.MULTILINE)) == 4
    assert said.splitlines()[-1].startswith("How much compute did they need? Between ")
    assert {path.name for path in tmp_path.iterdir()} == {"howhard-flight"}
    assert (tmp_path / "howhard-flight" / "router-plan.png").stat().st_size > 10_000
