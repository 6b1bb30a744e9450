import asyncio
import json
import signal
import subprocess
import sys

import pandas as pd
import pytest

from howhard.strategies import (
    ArmSpec,
    BestOfN,
    BestOfNSpec,
    Candidate,
    Cascade,
    Generation,
    Prices,
    Request,
    SamplingParams,
    SinglePass,
    Stage,
    TreeSearch,
    Usage,
    Verdicts,
    Vote,
    VoteSpec,
)
from howhard.strategies.errors import BackendError, InputError, TableError, WorldError
from howhard.strategies.testing import ScriptedBackend
from howhard.training.collect import assemble
from howhard.training.log import Log
from howhard.training.recording import Recorder
from howhard.training.tables import prompt_id

PARAMS = SamplingParams(max_tokens=40, seed=0)


class Digits:
    """Scores a text by its last digit, and says that it read a token per character."""

    name, sound, prices = "digits", False, Prices(prompt=0.5, completion=0.0)

    async def score(self, request, candidates, *, partial=False):
        read = sum(len(c.text) for c in candidates)
        usage = Usage(verifier_tokens=read, calls=1, cost=0.5 * read)
        return Verdicts(tuple(int(c.text.strip()[-1]) / 10 for c in candidates), usage)


def small(script=lambda prompt: ["Answer: 3", "Answer: 7", "Answer: 5"], **options):
    return ScriptedBackend(script, name="small", **options)


def best_of_3(backend=None, verifier=None):
    return BestOfN(n=3, verifier=verifier or Digits(), params=PARAMS).on(backend or small())


def recorded(recorder, arm, prompt, **options):
    async def go():
        request = Request.of(prompt)
        result = await arm.run(request, trace=recorder.trace(request, arm))
        recorder.finish(request, arm, result, **options)
        return result

    return asyncio.run(go())


def test_a_run_is_recorded_with_all_its_samples_and_what_its_verifier_made_of_them(tmp_path):
    with Recorder(tmp_path / "log", group="support") as recorder:
        result = recorded(recorder, best_of_3(), Request.of("2 + 5", id="req-1"), quality=1.0)
    log = Log.open(tmp_path / "log")
    [prompt] = log.prompts().to_dict("records")
    assert (prompt["prompt_id"], prompt["text"], prompt["group"]) == (prompt_id("2 + 5"), "2 + 5", "support")
    [run] = log.runs().to_dict("records")
    assert (run["arm"], run["request_id"], run["answer"], run["quality"]) == ("small/digits_of_3", "req-1", "7", 1.0)
    assert run["completion_tokens"] == result.usage.completion_tokens
    assert (run["verifier_tokens"], run["cost"]) == (result.usage.verifier_tokens, result.usage.cost)
    samples = log.samples()
    assert samples["text"].tolist() == ["Answer: 3", "Answer: 7", "Answer: 5"]
    assert samples["answer"].tolist() == ["3", "7", "5"]
    assert set(samples["origin"]) == {"live"}
    assert set(samples["parent"]) == {run["run_id"]}
    assert samples["sample_index"].tolist() == [0, 1, 2]
    assert set(samples["planned_n"]) == {3}
    assert set(samples["stopped_because"]) == {"drew all 3 samples"}
    verdicts = [v for [v] in samples["verdicts"].tolist()]
    assert [v["score"] for v in verdicts] == [0.3, 0.7, 0.5]
    assert {v["verifier"] for v in verdicts} == {"digits"}
    assert sum(v["cost"] for v in verdicts) == pytest.approx(0.5 * result.usage.verifier_tokens)
    assert json.loads(samples["params"][0])["max_tokens"] == 40
    assert samples["cost"].sum() == pytest.approx(2.0 * result.usage.completion_tokens)


def test_a_grade_goes_to_the_run_the_chosen_sample_and_an_outcome(tmp_path):
    with Recorder(tmp_path) as recorder:
        recorded(recorder, best_of_3(), "2 + 5", quality=1.0)
    log = Log(tmp_path)
    quality = log.samples()["quality"]
    assert quality[1] == 1.0
    assert quality[[0, 2]].isna().all()
    [outcome] = log.outcomes().to_dict("records")
    assert (outcome["source"], outcome["quality"], outcome["arm"]) == ("run", 1.0, log.runs()["arm"][0])
    assert pd.isna(outcome["latency_s"])  # of an arm running alone, which nobody knows here


def test_without_a_grade_there_is_a_run_but_no_outcome(tmp_path):
    with Recorder(tmp_path) as recorder:
        recorded(recorder, best_of_3(), "2 + 5")
    log = Log(tmp_path)
    assert log.outcomes().empty
    assert log.runs()["quality"].isna().all()
    assert log.runs()["cost"][0] > 0


def test_runs_of_one_prompt_are_told_apart_and_the_first_gives_the_outcome(tmp_path):
    arm = best_of_3()
    with Recorder(tmp_path) as recorder:
        recorded(recorder, arm, "2 + 5", quality=0.0)
        recorded(recorder, arm, "2 + 5", quality=1.0)
    log = Log(tmp_path)
    assert log.runs()["quality"].tolist() == [0.0, 1.0]
    assert len(log.samples()) == 6
    assert log.samples()["parent"].nunique() == 2
    assert log.outcomes()["quality"].tolist() == [0.0]
    assert len(log.prompts()) == 1


def test_equal_requests_at_once_are_matched_with_their_own_results(tmp_path):
    arm = SinglePass(SamplingParams(max_tokens=40)).on(small(lambda prompt: ["Answer: 1"]))
    request = Request.of("1")
    with Recorder(tmp_path) as recorder:

        async def go():
            traces = [recorder.trace(request, arm) for _ in range(3)]
            results = [await arm.run(request, trace=trace) for trace in traces]
            for place in (2, 0, 1):
                recorder.finish(request, arm, results[place], quality=place / 2)
            return [trace.run_id for trace in traces]

        ids = asyncio.run(go())
    runs = Log(tmp_path).runs().set_index("run_id")
    assert runs.loc[ids, "quality"].tolist() == [0.0, 0.5, 1.0]


def test_the_nodes_of_a_search_are_recorded_and_lead_back_to_the_prompt(tmp_path):
    backend = small(lambda prompt: [f"{i}{i + 1}\n{i % 3}\nAnswer: {i % 3}" for i in range(6)])
    arm = TreeSearch(width=2, branches=2, verifier=Digits(), params=PARAMS, step_tokens=12, max_steps=4).on(backend)
    with Recorder(tmp_path) as recorder:
        recorded(recorder, arm, "1 + 2")
    log = Log(tmp_path)
    nodes = log.nodes()
    assert set(nodes["run_id"]) == set(log.runs()["run_id"])
    assert set(nodes["arm"]) == {arm.name}
    by_id = {row["node"]: row for row in nodes.to_dict("records")}
    for row in by_id.values():
        if row["parent"] in by_id:
            assert row["depth"] == by_id[row["parent"]]["depth"] + 1
        assert 0 <= row["score"] <= 1
        assert row["copies"] >= 1
    assert nodes["kept"].any()
    assert nodes["depth"].max() >= 2


def test_runs_and_nodes_survive_compaction_and_export(tmp_path):
    arm = best_of_3()
    node = {"node": 1, "parent": None, "depth": 1, "text": "a", "completion_tokens": 1, "finished": True, "kept": True}
    with Recorder(tmp_path / "log") as recorder:
        for prompt in ("2 + 5", "2 + 6"):
            trace = recorder.trace(prompt, arm)
            trace("node", node)
            recorder.finish(prompt, arm, asyncio.run(arm.run(prompt, trace=trace)))
            recorder.flush()
        recorder.log.compact()
    log = Log(tmp_path / "log")
    assert len(log.runs()) == len(log.nodes()) == 2
    for table in ("runs", "nodes"):
        read = getattr(Log.open(log.export(table, tmp_path / f"{table}.parquet")), table)()
        pd.testing.assert_frame_equal(read, getattr(log, table)())


def test_what_the_stages_of_a_cascade_drew_is_recorded_under_their_own_backends_and_prices(tmp_path):
    large = ScriptedBackend(lambda prompt: ["Answer: 9"], name="large", prices=Prices(prompt=10.0, completion=20.0))
    first = BestOfN(n=3, verifier=Digits(), params=PARAMS)
    arm = Cascade([Stage(first, accept="score >= 0.8"), Stage(SinglePass(PARAMS), large)]).on(small())
    with Recorder(tmp_path) as recorder:
        result = recorded(recorder, arm, "2 + 5", quality=0.5)
    log = Log(tmp_path)
    samples = log.samples()
    assert samples["backend"].tolist() == ["small"] * 3 + ["large"]
    assert samples["wave"].tolist() == [0, 0, 0, 1]
    assert samples["quality"].dropna().to_dict() == {3: 0.5}
    drawn = samples["completion_tokens"]
    assert samples["cost"].tolist() == [2.0 * t for t in drawn[:3]] + [20.0 * drawn[3]]
    [run] = log.runs().to_dict("records")
    assert run["arm"] == f"small/{arm.strategy.name}"
    assert run["cost"] == pytest.approx(result.usage.cost)


def test_a_node_told_again_counts_as_it_was_told_last(tmp_path):
    arm = best_of_3()
    node = {"node": 1, "parent": None, "depth": 1, "text": "a", "score": None, "completion_tokens": 1}
    with Recorder(tmp_path) as recorder:
        trace = recorder.trace("2 + 5", arm)
        trace("node", {**node, "finished": False, "kept": False})
        trace("node", {**node, "score": 0.5, "finished": True, "kept": True})
        recorder.finish("2 + 5", arm, None)
    [row] = Log(tmp_path).nodes().to_dict("records")
    assert (row["score"], row["finished"], row["kept"], row["backend"]) == (0.5, True, True, "small")


def test_an_event_that_lacks_fields_is_told_and_breaks_no_run(tmp_path, caplog):
    arm = best_of_3()
    with Recorder(tmp_path) as recorder:
        recorder.trace("2 + 5", arm)("node", {"node": 1})
        recorder.finish("2 + 5", arm, None)
    assert "a 'node' event without 'depth' is not recorded" in caplog.text
    assert Log(tmp_path).nodes().empty


def test_what_an_unfinished_run_told_is_written_at_the_end_even_after_ctrl_c(tmp_path):
    arm = best_of_3()

    async def go(recorder):
        await arm.run("2 + 5", trace=recorder.trace("2 + 5", arm))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Recorder(tmp_path) as recorder:
        asyncio.run(go(recorder))
    log = Log(tmp_path)
    assert len(log.samples()) == 3
    assert log.runs().empty


def test_a_run_that_raised_is_finished_without_a_result(tmp_path):
    arm = best_of_3(small(fails=lambda prefix, i: True))
    with Recorder(tmp_path) as recorder:
        with pytest.raises(BackendError):
            asyncio.run(arm.run("2 + 5", trace=recorder.trace("2 + 5", arm)))
        recorder.finish("2 + 5", arm, None)
        with pytest.raises(InputError, match="call finish once"):
            recorder.finish("2 + 5", arm, None)
    assert Log(tmp_path).runs().empty
    assert len(Log(tmp_path).prompts()) == 1


def test_rows_are_written_in_batches_and_are_safe_once_flushed(tmp_path):
    seconds = [0.0]
    recorder = Recorder(tmp_path, clock=lambda: seconds[0])
    arm = best_of_3()
    recorded(recorder, arm, "2 + 5")
    assert Log(tmp_path).runs().empty
    recorder.flush()
    assert len(Log(tmp_path).runs()) == 1
    recorded(recorder, arm, "2 + 6")
    seconds[0] = 60.0
    recorded(recorder, arm, "2 + 7")
    assert len(Log(tmp_path).runs()) == 3
    assert len(list((tmp_path / "runs").glob("*.parquet"))) == 2
    recorder.close()


def test_a_kill_loses_nothing_that_was_flushed(tmp_path):
    code = f"""
import os, signal
from howhard.strategies import SinglePass
from howhard.strategies.testing import ScriptedBackend
from howhard.training.recording import Recorder
import asyncio
arm = SinglePass().on(ScriptedBackend(lambda p: ["4"], name="small"))
recorder = Recorder({str(tmp_path)!r})
for i in range(3):
    recorder.finish(f"p{{i}}", arm, asyncio.run(arm.run(f"p{{i}}", trace=recorder.trace(f"p{{i}}", arm))))
    if i == 1: recorder.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == -signal.SIGKILL
    log = Log(tmp_path)
    assert sorted(log.prompts()["text"]) == ["p0", "p1"]
    assert len(log.runs()) == len(log.samples()) == 2
    with Recorder(tmp_path):
        pass  # the lock went with the process


def test_a_log_that_another_one_writes_is_refused_before_anything_is_drawn(tmp_path):
    with Recorder(tmp_path), pytest.raises(WorldError, match="being written by another process"):
        Recorder(tmp_path)


def test_a_directory_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(TableError, match="holds no log"):
        Recorder(tmp_path)


def test_a_grade_outside_its_range_is_refused(tmp_path):
    with Recorder(tmp_path) as recorder, pytest.raises(InputError, match=r"quality=1\.5"):
        recorder.finish("2 + 5", best_of_3(), None, quality=1.5)


def test_texts_and_numbers_that_parquet_or_the_tables_refuse_are_made_storable(tmp_path):
    arm = best_of_3()
    with Recorder(tmp_path) as recorder:
        trace = recorder.trace([{"role": "system", "content": "be \ud800"}, {"role": "user", "content": "2 + 5"}], arm)
        request = trace.request
        drawn = Generation(
            text="half \ud83d", finish_reason="length", completion_tokens=2, prompt_tokens=3,
            logprobs=(float("-inf"), -1.0),
        )  # fmt: skip
        cut = Candidate(text=drawn.text, answer=None, generation=drawn)
        trace("sample", {"backend": "small", "index": 0, "candidate": cut, "chosen": True})
        recorder.finish(request, arm, None)
    [row] = Log(tmp_path).samples().to_dict("records")
    assert row["text"] == "half ?"
    assert pd.isna(row["mean_logprob"])
    assert row["params"] == "{}"
    [prompt] = Log(tmp_path).prompts().to_dict("records")
    assert [m["role"] for m in json.loads(prompt["messages"])] == ["system", "user"]


def test_live_samples_change_nothing_that_is_derived(tmp_path):
    arms = [ArmSpec(backend="small", strategy=BestOfNSpec(n=2, verifier="vote"))]
    params = arms[0].strategy.params(0)
    arm = BestOfN(n=2, verifier=Vote(), params=params).on(small())
    pid = prompt_id("2 + 5")
    collected = [
        {
            "prompt_id": pid, "backend": "small", "fingerprint": "other weights", "sample_index": i,
            "params": '{"max_tokens": 256, "stop": [], "temperature": 1.0, "top_p": 1.0}', "text": text, "answer": text,
            "extractor": "final/1", "quality": quality, "finish_reason": "stop", "prompt_tokens": 3,
            "completion_tokens": 1,
        }
        for i, (text, quality) in enumerate([("3", 0.0), ("7", 1.0), ("7", 1.0), ("5", 0.0)])
    ]  # fmt: skip
    with Log(tmp_path) as log:
        log.append_prompts([{"prompt_id": pid, "text": "2 + 5", "group": "g"}])
        log.append_samples(collected)
        before = assemble(log, arms, {"vote": VoteSpec()})
        held = log.done().samples
    with Recorder(tmp_path) as recorder:
        recorded(recorder, arm, "2 + 5")
    log = Log(tmp_path)
    assert len(log.samples()) == 6
    pd.testing.assert_frame_equal(assemble(log, arms, {"vote": VoteSpec()}), before)
    assert {key: state for key, state in log.done().samples.items() if key.origin == "collect"} == held
