"""`howhard run` on the embedded models: one prompt, a file that is gone on with, and what is said."""

import io
import json

import pytest

from howhard.strategies.base import Budget
from howhard.strategies.errors import ConfigError
from howhard.training.arm_words import parse_arm
from howhard.training.cli import main
from howhard.training.log import Log
from howhard.training.results_file import ResultsFile
from howhard.training.run_command import Asked, prompt_seed, run_file, run_prompt
from howhard.training.workbench import at_hand

PROMPT = "Use 3, 5 and 7 to make 36."


def asked(words="single", **settings):
    at = at_hand(None)
    return Asked(at=at, strategy=parse_arm(words, at.usual)[1], **settings)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"What is {i} times 8 modulo 11?"}) + "\n" for i in range(2, 8)))
    return path


def test_an_answer_is_shown_with_what_it_took():
    report = run_prompt(PROMPT, asked("best-of-n n=4 verifier=tiny-prm"))
    answer, line = report.text().split("\n\n")
    usage = report.result.usage
    assert answer == report.result.text.strip()
    assert line == (
        f"tiny-small/tiny-prm_of_4: 1 of 4 candidates; {usage.prompt_tokens} prompt + {usage.completion_tokens} "
        f"completion + {usage.verifier_tokens} verifier tokens; cost {usage.cost:,.4g} credits; "
        f"{report.result.seconds:.2f} s; drew all 4 samples"
    )


def test_the_same_seed_gives_the_same_answer_and_another_one_other_samples():
    first, again, other = (run_prompt(PROMPT, asked("best-of-n n=8", seed=seed)).result for seed in (0, 0, 1))
    assert [c.text for c in first.candidates] == [c.text for c in again.candidates]
    assert [c.text for c in first.candidates] != [c.text for c in other.candidates]


def test_every_candidate_is_shown_on_wish_and_one_is_marked():
    text = run_prompt(PROMPT, asked("best-of-n n=4 verifier=tiny-prm"), verbose=True).text()
    lines = [line for line in text.splitlines() if " tokens stop " in line]
    assert len(lines) == 4
    assert sum(line.startswith("* ") for line in lines) == 1


def test_reasoning_that_is_the_whole_answer_is_shown_once():
    report = run_prompt(PROMPT, asked("chain-of-thought"), verbose=True)
    answer = report.result.text.strip()
    assert report.result.reasoning.strip() == answer
    assert report.text().splitlines().count(answer.splitlines()[-1]) == 1


def test_a_budget_holds():
    result = run_prompt(PROMPT, asked("best-of-n n=64", budget=Budget(tokens=400))).result
    assert result.usage.total_tokens <= 400
    assert "the budget of 400 tokens" in result.stopped_because


def test_a_streamed_answer_is_shown_as_it_comes_and_not_twice():
    pieces = []
    report = run_prompt(PROMPT, asked(), show=pieces.append)
    assert "".join(pieces).rstrip("\n") == report.result.text.rstrip("\n")
    assert report.text().startswith("tiny-small/single: 1 sample; ")


def test_what_chooses_among_whole_answers_cannot_be_streamed():
    with pytest.raises(ConfigError, match="best_of_8 does not stream"):
        run_prompt(PROMPT, asked("best-of-n"), show=print)


def test_a_strategy_that_is_no_search_writes_no_tree_and_says_so(tmp_path):
    report = run_prompt(PROMPT, asked(), tree=tmp_path / "tree.svg")
    assert "no tree was written: tiny-small/single is not a search" in report.text()
    assert not (tmp_path / "tree.svg").exists()


def test_a_search_writes_its_tree_as_a_picture_or_as_json(tmp_path):
    words = "tree-search width=1 branches=2 verifier=tiny-prm"
    report = run_prompt(PROMPT, asked(words), tree=tmp_path / "deep" / "tree.svg")
    assert (tmp_path / "deep" / "tree.svg").read_text().startswith("<svg")
    assert f"tree: {tmp_path}" in report.text()
    run_prompt(PROMPT, asked(words), tree=tmp_path / "tree.json")
    assert json.loads((tmp_path / "tree.json").read_text()) == report.result.tree.to_dict()


def test_live_samples_are_recorded_on_wish(tmp_path, prompts):
    run_prompt(PROMPT, asked("best-of-n n=3", log=tmp_path / "log"))
    run_file(prompts, tmp_path / "out.jsonl", asked("best-of-n n=3", log=tmp_path / "log"), quiet=True)
    samples = Log.open(tmp_path / "log").samples()
    assert len(samples) == 7 * 3
    assert set(samples["origin"]) == {"live"}


def test_a_file_is_answered_once_and_a_second_run_does_what_is_left(prompts, tmp_path):
    out = tmp_path / "results.jsonl"
    first = run_file(prompts, out, asked(), quiet=True)
    assert (first.answered, first.before, first.failed) == (6, 0, 0)
    with prompts.open("a") as file:
        file.write(json.dumps({"prompt": PROMPT, "id": "mine"}) + "\n")
    second = run_file(prompts, out, asked(), quiet=True)
    assert (second.answered, second.before) == (1, 6)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[-1]["id"] == "mine"
    assert sum(row["usage"]["completion_tokens"] for row in rows[:6]) == first.usage.completion_tokens


@pytest.mark.parametrize("change", [{"seed": 1}, {"budget": Budget(tokens=90)}, {"words": "single temperature=0.5"}])
def test_results_of_other_settings_stand_beside_those_that_are_there(change, prompts, tmp_path):
    out = tmp_path / "results.jsonl"
    run_file(prompts, out, asked(), quiet=True)
    assert run_file(prompts, out, asked(**change), quiet=True).answered == 6
    assert len(out.read_text().splitlines()) == 12


def test_ctrl_c_loses_nothing_that_had_ended(prompts, tmp_path, monkeypatch):
    out = tmp_path / "results.jsonl"
    append = ResultsFile.append

    def until_the_third(self, key, row):  # stands for a key pressed while prompts are under way
        append(self, key, row)
        if len(self.rows) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResultsFile, "append", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_file(prompts, out, asked(), concurrency=2, quiet=True)
    monkeypatch.undo()
    rest = run_file(prompts, out, asked(), quiet=True)
    assert rest.before >= 3
    assert rest.before + rest.answered == 6
    run_file(prompts, tmp_path / "whole.jsonl", asked(), quiet=True)
    texts = [
        {row["id"]: row["text"] for row in map(json.loads, path.read_text().splitlines())}
        for path in (out, tmp_path / "whole.jsonl")
    ]
    assert texts[0] == texts[1]


def test_seeds_differ_between_prompts_and_fit_a_server():
    seeds = {prompt_seed(seed, f"p{i}") for seed in range(3) for i in range(100)}
    assert len(seeds) == 300
    assert max(seeds) < 2**31


# ── the door ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_answers_a_prompt_from_standard_input(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT))
    words = [
        "run",
        "-",
        "--strategy",
        "best-of-n",
        "--n",
        "4",
        "--verifier",
        "tiny-prm",
        "--set",
        "top_p=0.9",
        "--json",
    ]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["arm"] == "tiny-small/tiny-prm_of_4"
    assert len(told["candidates"]) == 4


def test_the_command_answers_a_file_on_the_backend_that_is_named(prompts, tmp_path, capsys):
    out = tmp_path / "results.jsonl"
    assert main(["run", "--file", str(prompts), "--out", str(out), "--backend", "tiny-large"]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 6 prompts answered by tiny-large/single\n")


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "give a prompt"),
        (["x", "--file", "y"], "give a prompt"),
        (["x", "--strategy", "bestofn"], "did you mean 'best-of-n'?"),
        (["x", "--n", "4"], "single has no setting 'n'; strategies with one: best-of-n"),
        (["x", "--set", "tempratur=1"], "did you mean 'temperature'?"),
        (["x", "--set", "temperature"], "write SETTING=VALUE"),
        (["x", "--strategy", "best-of-n", "--verifier", "tiny-prn"], "did you mean 'tiny-prm'?"),
        (["x", "--backend", "tiny-smal"], "did you mean 'tiny-small'?"),
        (["x", "--backend", "tiny-small", "--backend", "tiny-large"], "choose one with --backend"),
        (["x", "--budget-tokens", "0"], "budget.tokens=0"),
        (["x", "--tree", "tree.png"], "name a file that ends in .svg or .json"),
        (["--file", "absent.jsonl"], "absent.jsonl: cannot be read"),
        (["--file", "empty.jsonl"], "the file holds no prompt"),
        (["--file", "empty.jsonl", "--stream"], "--stream is for one prompt"),
        ([""], "the prompt is empty"),
    ],
)
def test_what_the_user_got_wrong_is_named(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    assert main(["run", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_server_that_is_not_there_is_the_worlds_fault(capsys):
    assert main(["run", "hello", "--url", "http://127.0.0.1:9/v1", "--model", "m"]) == 1
    assert "127.0.0.1:9" in capsys.readouterr().err
