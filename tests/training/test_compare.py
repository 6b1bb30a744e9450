"""`howhard compare`: what is run, what is kept, and what the table says of it."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howhard.strategies import ArmSpec, BestOfNSpec, SingleSpec
from howhard.strategies.errors import BackendError, ConfigError, TableError
from howhard.training.cli import main
from howhard.training.compare import compare
from howhard.training.compare_arms import Entry, entries, fresh_prompts
from howhard.training.compare_figures import at_equal_tokens, computed_prompts
from howhard.training.compare_report import PIXELS, CompareReport, plot
from howhard.training.results_file import ResultsFile
from howhard.training.workbench import Workbench, at_hand

ARMS = (
    "single",
    "best-of-n n=2",
    "best-of-n n=4",
    "self-consistency n=3",
    "tree-search width=1 branches=2",
)
CURVE = "single - tiny-prm_of_4"


@pytest.fixture(scope="module")
def at():
    return at_hand(None)


@pytest.fixture(scope="module")
def prompts():
    return fresh_prompts(8, 0)


def run(prompts, at, log, words=ARMS, **options):
    options = {"title": "a title", "seeds": 2, "latency_prompts": 2, "quiet": True} | options
    return compare(prompts, at, entries(at, words), log, **options)


@pytest.fixture(scope="module")
def whole(prompts, at, tmp_path_factory):
    """A comparison, and the rows of its log."""
    log = tmp_path_factory.mktemp("compare")
    found = run(prompts, at, log)
    return found, pd.DataFrame(map(json.loads, (log / "results.jsonl").read_text().splitlines()))


# ── the arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(st.integers(1, 100_000), st.floats(0, 1)), min_size=2, max_size=6, unique_by=lambda p: p[0]))
@settings(max_examples=50, deadline=None)
def test_a_point_of_the_curve_differs_by_nothing(points):
    x, y = np.array(points).T
    found = at_equal_tokens(x, y, np.tile(x, (len(x), 1)), np.tile(y, (len(x), 1)))
    assert np.allclose(found, 0)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_between_two_points_the_curve_is_straight_in_the_logarithm_of_tokens(share, low, high):
    tokens = 10 ** (1 + 2 * share)
    found = at_equal_tokens(np.array([tokens]), np.array([0.5]), np.array([[1000.0, 10.0]]), np.array([[high, low]]))
    assert math.isclose(found[0], 0.5 - (low + share * (high - low)), abs_tol=1e-9)


# ── what is run ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_arm_answers_every_prompt_with_every_seed_and_some_alone(whole):
    _, rows = whole
    assert len(rows) == len(ARMS) * (8 * 2 + 2)
    counts = rows.groupby(["arm", "alone"]).size().unstack()
    assert (counts[False] == 16).all()
    assert (counts[True] == 2).all()


def test_the_table_says_what_the_log_holds(whole):
    found, rows = whole
    runs = rows[~rows["alone"]]
    for row in found.rows:
        own = runs[runs["arm"] == row.label]
        usage = pd.DataFrame(own["usage"].tolist())
        assert row.accuracy.mean == pytest.approx(own["quality"].mean())
        written = (usage["completion_tokens"] + usage["verifier_tokens"]).mean()
        read = usage["prompt_tokens"].mean()
        assert written < row.tokens.mean <= written + read + 1e-9
        if row.label == "single":
            assert row.tokens.mean == pytest.approx(written + read)  # its prompt counts, whoever had it read before
        assert row.cost.mean == pytest.approx(usage["cost"].mean())
        assert row.calls == pytest.approx(usage["calls"].mean())
        assert row.accuracy.low <= row.accuracy.mean <= row.accuracy.high
        alone = rows[rows["alone"] & (rows["arm"] == row.label)]
        assert row.latency == pytest.approx(tuple(np.percentile(alone["seconds"], [50, 95])))


def test_all_arms_draw_with_the_same_seeds(prompts, at, tmp_path):
    run(prompts, at, tmp_path, ("single", "best-of-n n=1"), latency_prompts=0)
    rows = pd.DataFrame(map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines()))
    answers = rows.pivot_table(index=["prompt_id", "seed"], columns="arm", values="answer", aggfunc="first")
    assert (answers["single"] == answers["tiny-prm_of_1"]).all()
    assert answers["single"].groupby("prompt_id").nunique().max() == 2  # and another seed is another draw


def test_an_arm_off_the_curve_is_compared_at_equal_tokens(whole):
    found, _ = whole
    by_label = {row.label: row for row in found.rows}
    assert found.curves == {CURVE: ("single", "tiny-prm_of_2", "tiny-prm_of_4")}
    assert by_label["tiny-prm_of_2"].over_best_of_n.why == "on it"
    search = by_label["beam_1x2"]
    curve = [by_label[label] for label in found.curves[CURVE]]
    x, y = (np.array([[getattr(r, f).mean for r in curve]]) for f in ("tokens", "accuracy"))
    expected = at_equal_tokens(np.array([search.tokens.mean]), np.array([search.accuracy.mean]), x, y)[0]
    assert search.over_best_of_n.difference.mean == pytest.approx(expected)
    assert search.over_vote is None  # two points that far apart would be no curve


def test_an_arm_that_spends_more_than_the_largest_n_is_not_judged(prompts, at, tmp_path):
    found = run(prompts, at, tmp_path, ("single", "best-of-n n=2", "best-of-n n=3", "tree-search width=4"), seeds=1)
    against = found.rows[-1].over_best_of_n
    assert (against.difference, against.why) == (None, "beyond")


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_run_does_nothing_and_says_the_same(whole, prompts, at):
    found, _ = whole
    again = run(prompts, at, found.log)
    assert again.ran == 0
    assert again.rows == found.rows


def test_what_a_kill_took_is_run_again_and_comes_out_the_same(whole, prompts, at, tmp_path):
    found, _ = whole
    lines = (found.log / "results.jsonl").read_text().splitlines(keepends=True)
    runs = [line for line in lines if '"alone": false' in line]
    (tmp_path / "results.jsonl").write_text("".join(runs[:40]) + runs[40][:30])
    again = run(prompts, at, tmp_path, latency_prompts=0)
    assert again.ran == len(runs) - 40
    assert [(r.accuracy, r.completion_tokens, r.cost) for r in again.rows] == [
        (r.accuracy, r.completion_tokens, r.cost) for r in found.rows
    ]  # but not the tokens that were computed: what a cache still has depends on what ran before


def test_ctrl_c_keeps_what_had_ended(prompts, at, tmp_path, monkeypatch):
    append = ResultsFile.append

    def until_the_tenth(self, key, row):  # stands for a key pressed while runs are under way
        append(self, key, row)
        if len(self.rows) == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResultsFile, "append", until_the_tenth)
    with pytest.raises(KeyboardInterrupt):
        run(prompts, at, tmp_path, ("single", "best-of-n n=2"))
    monkeypatch.undo()
    kept = len((tmp_path / "results.jsonl").read_text().splitlines())
    assert kept >= 10
    assert run(prompts, at, tmp_path, ("single", "best-of-n n=2")).ran == 2 * (8 * 2 + 2) - kept


def test_other_settings_of_an_arm_are_another_arm(prompts, at, tmp_path):
    run(prompts, at, tmp_path, ("single",), seeds=1, latency_prompts=0)
    assert run(prompts, at, tmp_path, ("single temperature=0.5",), seeds=1, latency_prompts=0).ran == 8
    assert run(prompts, at, tmp_path, ("single",), seeds=1, seed=1, latency_prompts=0).ran == 8


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Broken:
    """An arm whose every run fails; stands for what a server does."""

    def __init__(self, arm, error):
        self._arm, self._error, self.name = arm, error, arm.name

    async def run(self, *args, **kwargs):
        raise self._error


@pytest.fixture
def breaks(monkeypatch):
    """Have every arm whose name ends so fail with an error."""

    def install(ending, error):
        build = Workbench.arm

        def arm(self, spec, *, seed=None):
            built = build(self, spec, seed=seed)
            return _Broken(built, error) if built.name.endswith(ending) else built

        monkeypatch.setattr(Workbench, "arm", arm)

    return install


def test_an_arm_of_the_users_that_cannot_be_run_is_named(prompts, at, tmp_path, breaks):
    breaks("of_2", ConfigError("the server gives no log-probabilities"))
    with pytest.raises(ConfigError, match="arm 'tiny-prm_of_2': the server gives no log-probabilities"):
        run(prompts, at, tmp_path)


def test_a_default_arm_that_cannot_be_run_is_left_out_with_its_reason(prompts, at, tmp_path, breaks):
    breaks("of_2", ConfigError("the server gives no log-probabilities"))
    arms = [Entry(e.label, e.spec, named=False) for e in entries(at, ARMS[:3])]
    found = compare(prompts, at, arms, tmp_path, title="t", seeds=1, latency_prompts=1, quiet=True)
    assert [row.label for row in found.rows] == ["single", "tiny-prm_of_4"]
    assert found.left_out == {"tiny-prm_of_2": "the server gives no log-probabilities"}
    assert "Left out: tiny-prm_of_2: the server gives no log-probabilities" in CompareReport(found).text()


def test_an_arm_that_only_fails_costs_the_others_nothing(prompts, at, tmp_path, breaks):
    breaks("of_2", BackendError("500"))
    found = run(prompts, at, tmp_path, ("single", "best-of-n n=2", "best-of-n n=4"), seeds=1, latency_prompts=0)
    assert [row.label for row in found.rows] == ["single", "tiny-prm_of_4"]
    assert (found.n_prompts, found.left_out) == (8, {"tiny-prm_of_2": "5 runs in a row failed; the last: 500"})


def test_where_every_arm_only_fails_the_fault_is_raised(prompts, at, tmp_path, breaks):
    breaks("", BackendError("500"))
    with pytest.raises(BackendError, match="500"):
        run(prompts, at, tmp_path)


def test_a_prompt_that_an_arm_lacks_counts_for_none(whole, prompts, at, tmp_path, breaks):
    found, rows = whole
    gone = rows[(rows["arm"] == "single") & ~rows["alone"]].iloc[0]["prompt_id"]
    lines = (found.log / "results.jsonl").read_text().splitlines(keepends=True)
    kept = [x for x in lines if not (json.loads(x)["arm"] == "single" and json.loads(x)["prompt_id"] == gone)]
    (tmp_path / "results.jsonl").write_text("".join(kept))
    breaks("single", BackendError("500"))
    less = run(prompts, at, tmp_path, latency_prompts=0)
    assert (less.n_prompts, less.incomplete) == (7, 1)
    own = rows[~rows["alone"] & (rows["arm"] == "tiny-prm_of_4") & (rows["prompt_id"] != gone)]
    assert less.rows[2].accuracy.mean == pytest.approx(own["quality"].mean())
    assert "1 prompts lack a result" in CompareReport(less).text()


# ── arms ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_arms_of_one_name_are_told_apart_by_what_differs(at):
    arms = entries(at, ("single", "single temperature=0.5", "best-of-n"))
    assert [arm.label for arm in arms] == ["single temperature=1.0", "single temperature=0.5", "tiny-prm_of_8"]


def test_an_arm_runs_on_every_backend_that_is_chosen_unless_it_names_one():
    arms = entries(at_hand(None, ("tiny-small", "tiny-large")), ("single", "tiny-large/best-of-n n=2"))
    assert [arm.label for arm in arms] == ["tiny-small/single", "tiny-large/single", "tiny-large/tiny-prm_of_2"]


def test_a_configurations_arms_are_taken_as_they_are(at):
    specs = [
        ArmSpec(backend="tiny-small", strategy=SingleSpec()),
        ArmSpec(backend="tiny-small", strategy=BestOfNSpec()),
    ]
    assert [arm.spec for arm in entries(at, (), specs)] == specs


def test_between_two_backends_there_is_a_cascade_by_default_which_no_curve_over_tokens_judges(prompts, tmp_path):
    at = at_hand(None, ("tiny-small", "tiny-large"))
    arms = entries(at)
    assert [arm.spec.backend for arm in arms] == sorted((a.spec.backend for a in arms), key=at.chosen.index)
    [cascade] = [arm for arm in arms if arm.strategy.needs_backends]
    wanted = [arm for arm in arms if arm.label in ("tiny-small/sc_4", "tiny-small/sc_16", "tiny-large/single")]
    found = compare(prompts, at, [*wanted, cascade], tmp_path, title="t", seeds=1, latency_prompts=0, quiet=True)
    assert found.rows[-1].label == "tiny-small/sc_4_if_agreement_0.75_else_single_on_tiny-large"
    assert found.rows[-1].over_vote is None


def test_the_default_arms_are_different_ones_and_work_on_the_embedded_models(at, tmp_path):
    arms = entries(at)
    assert {"single", "sc_16", "tiny-prm_of_16"} <= {arm.label for arm in arms}
    found = compare(fresh_prompts(2, 5), at, arms, tmp_path, title="t", seeds=1, latency_prompts=0, quiet=True)
    assert found.left_out == {}
    assert len(found.rows) == len(arms)


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_report_prints_every_arm_and_says_what_the_figures_are(whole):
    text = CompareReport(whole[0]).text()
    assert text.startswith("a title\n=======\n")
    for row in whole[0].rows:
        assert any(line.startswith(f"{row.label} ") for line in text.splitlines())
    said_of = ("8 prompts, 2 seeds", "paired bootstrap by prompt", "Cost in credits", "alone, one request at a time")
    for said in (*said_of, "at EQUAL tokens: the curve over N, interpolated in log tokens"):
        assert said in " ".join(text.split())


def test_a_narrow_report_leaves_columns_out_and_cuts_no_figure(whole):
    wide, narrow = (CompareReport(whole[0]).text(width=width).splitlines()[3] for width in (160, 100))
    assert "calls" in wide
    assert "calls" not in narrow
    assert "accuracy" in narrow


def test_programs_get_plain_json(whole):
    told = json.loads(json.dumps(CompareReport(whole[0]).to_dict(), allow_nan=False))
    assert [row["label"] for row in told["rows"]] == [row.label for row in whole[0].rows]
    assert told["rows"][0]["accuracy"].keys() == {"mean", "low", "high"}
    assert told["log"] == str(whole[0].log)


def test_the_plot_is_a_png_of_the_stated_size(whole, tmp_path):
    png = plot(whole[0], tmp_path / "deep" / "plot.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert (int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")) == PIXELS


# ── the door ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_compares_a_file_of_prompts(tmp_path, capsys):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "What is 7 times 8 modulo 11?", "reference": "1"}\n')
    words = ["compare", "--prompts", file, "--grader", "numeric", "--arm", "single", "--arm", "self-consistency n=4"]
    words += ["--temperature", "0.5", "--max-tokens", "40", "--seeds", "1", "--latency-prompts", "1", "--json"]
    words += ["--log", tmp_path / "log", "--plot", tmp_path / "p.png"]
    assert main([str(word) for word in words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["title"] == "tiny-small on mine.jsonl"
    assert [row["label"] for row in told["rows"]] == ["single", "sc_4"]
    assert told["rows"][1]["words"] == "self-consistency temperature=0.5 max_tokens=40 n=4"
    assert (tmp_path / "p.png").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--arm", "bestofn"], "did you mean 'best-of-n'?"),
        (["--arm", "single n=3"], "single has no setting 'n'"),
        (["--arm", "huge/single"], "no backend is called 'huge'"),
        (["--arm", "best-of-n verifier=prn"], "no verifier is called 'prn'; did you mean 'prm'?"),
        (["--arm", "single", "--arm", "single"], "given twice"),
        (["--backend", "tiny-smal"], "did you mean 'tiny-small'?"),
        (["--family", "countdwn"], "did you mean 'countdown'?"),
        (["--problems", "0"], "problems=0"),
        (["--seeds", "0"], "seeds=0"),
        (["--grader", "exact"], "--grader is for --prompts"),
        (["--prompts", "none.jsonl", "--family", "all"], "--family is for fresh problems"),
        (["--prompts", "none.jsonl"], "none.jsonl: cannot be read"),
        (["--prompts", "empty.jsonl"], "the file holds no prompt"),
        (["--prompts", "bare.jsonl"], "bare.jsonl:1: field 'grader' is missing"),
        (["--prompts", "bare.jsonl", "--grader", "exact"], "bare.jsonl:1: field 'reference': grader 'exact' needs one"),
    ],
)
def test_what_the_user_got_wrong_is_named(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bare.jsonl").write_text('{"prompt": "2 + 2?"}\n')
    assert main(["compare", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_prompt_that_cannot_be_graded_is_named(prompts, at, tmp_path):
    bare = prompts.assign(grader="exact", reference=None)
    with pytest.raises(TableError, match=r"prompt '\w+' has no reference, and grader 'exact' needs one"):
        run(bare, at, tmp_path)


def test_a_server_that_is_not_there_is_the_worlds_fault(capsys, tmp_path):
    words = ["compare", "--url", "http://127.0.0.1:9/v1", "--model", "m", "--log", str(tmp_path / "log")]
    assert main([*words, "--problems", "2"]) == 1
    assert "127.0.0.1:9" in capsys.readouterr().err


def test_cached_prompt_tokens_are_not_computed_but_the_prompt_itself_counts_once():
    """A search re-reads its prefix from the cache; whose first call found the prompt there is chance."""
    prompt = np.array([[10.0, 20.0], [90.0, 60.0], [30.0, 40.0]])
    cached = np.array([[10.0, 0.0], [70.0, 60.0], [0.0, 5.0]])
    read = computed_prompts(prompt, cached, ["a", "a", "b"])
    assert read.tolist() == [[10.0, 20.0], [20.0, 20.0], [30.0, 40.0]]
