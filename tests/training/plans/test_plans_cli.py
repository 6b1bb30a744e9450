"""`howhard plans`: from a log to a report, and what it says to those who ask for what the log does not have."""

import json
import re

import pytest
from PIL import Image

from howhard.training.cli import main

FAST = ("--folds", "2", "--values", "5,40", "--backend", "small", "--stages", "1,2,4")


def test_plans_prints_tables_and_draws_the_curves(written, tmp_path, capsys):
    plot = tmp_path / "curves.png"
    assert main(["plans", str(written), *FAST, "--verifier", "votes", "--plot", str(plot)]) == 0
    text = capsys.readouterr().out
    assert "Plans on log: small 1-4" in text
    assert "votes alone" in text
    for rival in ("Beta .95, waves of 4", "ESC-5", "exact, waves of 4", "posterior of counts", "prompt-only routing"):
        assert rival in text
    with Image.open(plot) as image:
        assert image.width == 900


def test_json_is_one_document_with_every_figure(written, capsys):
    assert main(["plans", str(written), *FAST, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sound"] is True
    assert told["values"] == [5.0, 40.0]
    names = {s["name"] for s in told["standings"]}
    assert {"plan", "ceiling", "tuned early-stop cap"} <= names
    assert told["gap_from"] == "tuned early-stop cap"
    assert {"plan", "plan, waiting priced", "tuned early-stop cap"} <= {w["name"] for w in told["waiting"]}
    assert all(0 < w["p50"] <= w["p95"] for w in told["waiting"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "smal"], "'smal'.*small"),
        (["--verifier", "chek"], "chek"),
        (["--split", "families"], "split='families'"),
        (["--group", "nothing"], "'nothing'"),
        (["--folds", "1"], "folds=1"),
        (["--values", "ten"], "--values 'ten'"),
        (["--values", "10,-1"], r"values=\(-1.0, 10.0\): give finite numbers above 0"),
        (["--stages", "1,2.5"], "--stages '1,2.5': write whole numbers"),
        (["--stages", "99"], "--stages 99"),
        (["--stages", "1,2,99"], "--stages 99: the log goes to"),
        (["--backend", "small", "--price-ratio", "10"], "price ratio is between backends"),
        (["--price-ratio", "-1"], "price ratio -1"),
    ],
)
def test_what_the_log_does_not_have_is_named(written, arguments, message, capsys):
    assert main(["plans", str(written), *arguments]) == 2
    err = " ".join(capsys.readouterr().err.split())

    assert re.search(message, err), err


def test_a_path_without_a_log_is_refused(tmp_path, capsys):
    assert main(["plans", str(tmp_path / "none")]) == 2
    assert "no log directory" in capsys.readouterr().err
