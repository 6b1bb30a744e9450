"""The command line: what it prints, and what it says when it cannot do what was asked."""

import json
import sqlite3

import pytest

from howhard.training.cli import main
from howhard.training.config import EXAMPLE

TABLE = "prompt,group,arm,quality,cost\n" + "".join(
    f"question {i} about {'cats' if i % 2 else 'dogs'},{'cats' if i % 2 else 'dogs'},{arm},{quality},{cost}\n"
    for i in range(240)
    for arm, quality, cost in (("small", i % 2, 1.0), ("large", 1, 5.0))
)


def run(capsys, *words):
    """Run the command line; return its exit code, standard output and standard error."""
    code = main([str(w) for w in words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


@pytest.mark.parametrize(
    "command",
    [
        "quickstart",
        "run",
        "compare",
        "collect",
        "train",
        "evaluate",
        "route",
        "data",
        "import",
        "promote",
        "doctor",
        "config",
    ],
)
def test_every_command_explains_itself(command, capsys):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"howhard {command}" in out


def test_the_forms_of_a_source_stand_on_lines_of_their_own(capsys):
    _, out, _ = run(capsys, "import", "--help")
    starts = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert {"FILE.csv,", "FOLDER", "sqlite:///FILE", "traces:/EXPERIMENT", "datasets:/RUN_ID[/NAME]"} <= set(starts)


def test_quickstart_says_at_the_door_how_many_samples_its_arms_need(capsys, tmp_path):
    code, _, err = run(capsys, "quickstart", "--samples", "4", "--dir", tmp_path / "q")
    assert code == 2
    assert "--samples" in err
    assert not (tmp_path / "q").exists()


def test_the_example_configuration_is_printed(capsys):
    assert run(capsys, "config")[:2] == (0, EXAMPLE)


def test_evaluate_cross_fits_a_router_on_a_strangers_table(table, capsys, tmp_path):
    plot = tmp_path / "plane.png"
    code, out, _ = run(capsys, "evaluate", table, "--split", "prompt", "--plot", plot, "--json")
    assert code == 0
    evaluation = json.loads(out)["tables"][0]["evaluations"][0]
    assert {"small", "large", "router", "oracle (peeks)"} <= {row["name"] for row in evaluation["rows"]}
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_several_tables_are_read_together_and_each_comparison_stands_in_one_summary(table, capsys):
    code, out, err = run(capsys, "evaluate", table, table, "--split", "prompt", "--lambdas", "0.1,0.5")
    assert code == 0, err
    head = out[: out.index("=====")]
    assert "all 4 together" in head
    assert head.count("lambda 0.1") == head.count("lambda 0.5") == 2
    assert max(map(len, out.splitlines())) <= 120


def test_ctrl_c_in_a_long_evaluation_prints_what_is_done(table, capsys, monkeypatch):
    from howhard.training import commands

    whole = commands.evaluate_split

    def pressed(matrix, split, **options):  # stands for the key, pressed while families are left out
        if split == "group":
            raise KeyboardInterrupt
        return whole(matrix, split, **options)

    monkeypatch.setattr(commands, "evaluate_split", pressed)
    code, out, _ = run(capsys, "evaluate", table)
    assert code == 0
    assert "random prompts left out: 240 prompts" in out
    assert "Note: interrupted:" in out


def test_import_then_train_then_route_decides_with_the_new_router(table, capsys, tmp_path):
    assert run(capsys, "import", table, "--log", tmp_path / "log")[0] == 0
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    words = ["train", tmp_path / "log", "--out", tmp_path / "router", "--value", "20", "--tracking-uri", store]
    code, out, _ = run(capsys, *words, "--no-register", "--json")
    assert code == 0
    assert json.loads(out)["proposed"] is None
    words = ["route", "question 7 about cats", "--router", tmp_path / "router", "--decide-only", "--json"]
    code, out, _ = run(capsys, *words)
    decision = json.loads(out)["decision"]
    assert (code, decision["arm"]) == (0, "small")
    assert {arm["name"] for arm in decision["arms"]} == {"small", "large"}


def test_data_says_what_a_table_holds_and_what_is_amiss(table, capsys, tmp_path):
    code, out, _ = run(capsys, "data", table)
    assert code == 0
    assert "table.csv: 240 prompts (240 that are not alike), 2 families, 2 arms, 480 outcomes" in out
    assert "Warning: no latency of any arm was measured" in out
    code, out, _ = run(capsys, "data", table, "--json", "--write-families", tmp_path / "f.csv")
    assert json.loads(out)["arms"][1]["name"] == "small"
    assert (tmp_path / "f.csv").read_text().startswith("group,family")


def test_a_table_of_a_database_is_imported_with_its_families(capsys, tmp_path):
    (tmp_path / "families.csv").write_text("group,family\ncats,pets\ndogs,pets\n")
    with sqlite3.connect(tmp_path / "app.db") as made:
        made.execute("create table answers (prompt text, task text, arm text, quality real, cost real)")
        rows = [line.split(",") for line in TABLE.splitlines()[1:]]
        made.executemany("insert into answers values (?, ?, ?, ?, ?)", rows)
    made.close()
    words = [
        "import",
        f"sqlite:///{tmp_path / 'app.db'}",
        "--table",
        "answers",
        "--map",
        "group=task",
        "--without",
        "small",
    ]
    code, out, _ = run(capsys, *words, "--families", tmp_path / "families.csv", "--log", tmp_path / "log", "--json")
    assert code == 0
    assert (json.loads(out)["prompts"], json.loads(out)["outcomes"]) == (240, 240)
    assert json.loads(run(capsys, "data", tmp_path / "log", "--json")[1])["families"] == {"pets": 240}


@pytest.mark.parametrize(
    "words, said",
    [
        (["import", "{table}", "--table", "x"], "--table is for databases"),
        (["import", "{table}", "--families", "absent.csv"], "absent.csv: cannot be read"),
        (["import", "runs:/1", "--without", "x"], "is taken as it is"),
        (["data", "absent"], "no log at absent"),
        (["evaluate", "absent"], "no log at absent"),
        (["evaluate", "{table}", "--split", "sideways"], "split='sideways'"),
        (["evaluate", "{table}", "--lambdas", "0.1;0.3"], "write numbers with commas between"),
        (["evaluate", "{table}", "--lambdas", "0"], "lambda=0: it must be a finite number > 0"),
        (["evaluate", "{table}", "--against", "absent.csv"], "absent.csv: not readable"),
        (["evaluate", "{table}", "{table}", "--against", "absent.csv"], "--against compares on one table, 2 are given"),
        (["evaluate", "{table}", "--map", "quality"], "write FIELD=COLUMN"),
        (["evaluate", "{table}", "--map", "qualty=quality"], "did you mean 'quality'"),
        (["evaluate", "{table}", "--map", "quality=scoer"], "scoer"),
        (["train", "{table}", "--holdout", "2"], "holdout=2.0"),
        (["train"], "give one source"),
        (["collect", "absent.jsonl"], "no backend: give --url and --model"),
        (["collect", "absent.jsonl", "--url", "http://127.0.0.1:9"], "--url and --model belong together"),
        (["collect", "absent.jsonl", "--url", "http://127.0.0.1:9", "--model", "m"], "absent.jsonl: cannot be read"),
        (["route", "hello", "--router", "absent"], "no router at absent"),
        (["route", "hello", "--value", "nan"], "value=nan"),
        (["route", ""], "the prompt is empty"),
        (["quickstart", "--prompts", "3"], "prompts=3"),
        (["doctor", "--config", "absent.toml"], "absent.toml: cannot be read"),
    ],
)
def test_what_the_user_got_wrong_is_named_with_exit_code_2(words, said, table, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *(w.format(table=table) for w in words))
    assert code == 2
    assert said in err


@pytest.mark.parametrize("words", [["fly"], ["train", "--fast"], ["evaluate"]])
def test_a_word_that_the_command_line_does_not_know_is_a_usage_error(words, capsys):
    assert run(capsys, *words)[0] == 2


def test_ctrl_c_says_that_what_was_recorded_is_kept(capsys, monkeypatch, tmp_path):
    def pressed(*_, **__):  # stands for the key
        raise KeyboardInterrupt

    monkeypatch.setattr("howhard.training.compare.compare", pressed)
    code, _, err = run(capsys, "compare", "--problems", "1", "--log", tmp_path / "log")
    assert code == 130
    assert "what was recorded is kept" in err


def test_an_unreachable_server_is_the_worlds_fault(tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "2 + 2?", "reference": "4", "grader": "exact"}\n')
    code, _, err = run(capsys, "collect", prompts, "--log", tmp_path / "log", "--url", "http://127.0.0.1:9/v1",
                       "--model", "m", "--yes")  # fmt: skip
    assert code == 1
    assert "127.0.0.1:9" in err


def test_doctor_says_that_a_server_cannot_be_reached(capsys):
    code, out, _ = run(capsys, "doctor", "--url", "http://127.0.0.1:9/v1", "--model", "m", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["well"] is False
    assert "127.0.0.1:9" in found["backends"][0]["error"]
