import asyncio
import dataclasses
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

from howhard.strategies import (
    ArmSpec,
    BestOfNSpec,
    ExactCheckSpec,
    FirstOfSpec,
    JudgeSpec,
    RewardModelSpec,
    SingleSpec,
    TreeSearchSpec,
    VoteSpec,
)
from howhard.strategies.base import Batch, Generation, Prices, Sample, SamplingParams, Usage, Verdicts
from howhard.strategies.errors import BackendError, ConfigError, InputError, PromptTooLong, TableError, VerifierError
from howhard.strategies.verifiers.first_of import FirstOf
from howhard.strategies.verifiers.vote import Vote
from howhard.training import tables
from howhard.training.collect import assemble, collect, plan
from howhard.training.log import Log

PARAMS = SamplingParams(temperature=1.0, max_tokens=16)
SAMPLING = {"temperature": 1.0, "max_tokens": 16}


class Dice:
    """A backend whose sample is a digit that the seed decides; `spoil` may replace a generation."""

    context = None
    prices = Prices(prompt=0.1, completion=1.0)

    def __init__(self, name="small", *, fingerprint="f", spoil=None):
        self.name, self.fingerprint, self.spoil = name, fingerprint, spoil
        self.calls = []
        self.in_flight = self.most_in_flight = 0

    def count_tokens(self, prefix):
        return 5

    def generate(self, prefixes, *, n, params, apart=False):
        self.calls.append((prefixes, n, params))
        prefixes_samples = []
        loop = asyncio.get_running_loop()
        spent = Usage()
        for prefix in prefixes:
            row = []
            for i in range(n):
                digit = (
                    random.Random(f"{params.seed}+{i}").randrange(10) if params.seed is None else (params.seed + i) % 10
                )
                generation = Generation(
                    text=f"Answer: {digit}", finish_reason="stop", completion_tokens=2, prompt_tokens=5, seconds=0.1
                )
                if self.spoil is not None:
                    generation = self.spoil(prefix.messages[-1].content, i, generation)
                sample = Sample()
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                loop.call_soon(self._end, sample, generation)
                row.append(sample)
                spent += Usage(completion_tokens=generation.completion_tokens, cost=generation.completion_tokens * 1.0)
            prefixes_samples.append(row)
            spent += Usage(prompt_tokens=5, cost=0.5, calls=1)
        return Batch(prefixes_samples, lambda: spent)

    def _end(self, sample, generation):
        self.in_flight -= 1
        sample.finish(generation)

    async def close(self):
        pass


class Digit:
    """A verifier that likes large digits, reads three tokens per text and has a price."""

    sound = False
    prices = Prices(prompt=0.5, completion=0.0)

    def __init__(self, name="prm"):
        self.name = name
        self.read = []

    async def score(self, request, candidates, *, partial=False):
        texts = [c.text for c in candidates]
        self.read += texts
        scores = tuple(int(text[-1]) / 10 if text[-1:].isdigit() else None for text in texts)
        return Verdicts(scores, Usage(verifier_tokens=3 * len(texts), cost=1.5 * len(texts), calls=1))


SPECS = {
    "prm": RewardModelSpec(),
    "vote": VoteSpec(),
    "best": FirstOfSpec(verifiers=("prm",)),
    "check": ExactCheckSpec(),
}
SPECS.pop("check")


def opened():
    prm = Digit()
    return {"prm": prm, "vote": Vote(), "best": FirstOf("best", [prm])}


SINGLE = ArmSpec(backend="small", strategy=SingleSpec(**SAMPLING))
BEST = ArmSpec(backend="small", strategy=BestOfNSpec(n=4, **SAMPLING))
VOTE = ArmSpec(backend="small", strategy=BestOfNSpec(n=4, verifier="vote", **SAMPLING))
BEAM = ArmSpec(backend="small", strategy=TreeSearchSpec(width=1, branches=2, **SAMPLING))


def make_prompts(n=6, **changes):
    rows = [
        {"prompt_id": f"p{i}", "text": f"prompt {i}", "group": "g", "reference": str(i), "grader": "exact"} | changes
        for i in range(n)
    ]
    return tables.validate_prompts(tables.fill("prompts", rows))


def run(log, prompts=None, backend=None, *, arms=(SINGLE, BEST, VOTE), n=4, **options):
    backend = backend or Dice()
    options = {"opened": opened(), "params": PARAMS.but(seed=3)} | options
    return asyncio.run(
        collect(
            make_prompts() if prompts is None else prompts,
            backends={backend.name: backend},
            verifiers=SPECS,
            arms=list(arms),
            n=n,
            log=log,
            **options,
        )
    )


def test_every_sample_is_drawn_graded_and_scored_once(tmp_path):
    backend = Dice()
    with Log(tmp_path) as log:
        seen = []
        done = run(log, backend=backend, progress=lambda *at: seen.append(at))
        samples = log.samples()
    assert done.done
    assert (done.samples, done.failed, done.runs) == (24, 0, 0)
    assert len(samples) == 24
    assert samples.groupby("prompt_id")["sample_index"].apply(sorted).tolist() == [[0, 1, 2, 3]] * 6
    right = [answer == prompt[1:] for answer, prompt in zip(samples["answer"], samples["prompt_id"], strict=True)]
    assert samples["quality"].tolist() == [float(r) for r in right]
    assert samples["prompt_cost"].unique() == pytest.approx(0.5)
    assert samples["cost"].unique() == pytest.approx(2.0)
    [verdict] = samples["verdicts"][0]
    own = {"tokens": 3, "cost": 1.5, "prompt_tokens": 0, "prompt_cost": 0.0}
    assert verdict == {"verifier": "prm", "score": int(samples["text"][0][-1]) / 10, **own}
    assert done.usage.cost == pytest.approx(6 * (0.5 + 4 * 2 + 4 * 1.5))
    assert seen[0] == ("samples of small", 0, 24)
    assert seen[-1] == ("samples of small", 24, 24)
    assert len(backend.calls) == 6


@pytest.mark.parametrize("confidence_of, logged", [(20, [2.0] * 24), (0, [None] * 24)])
def test_the_confidence_of_each_sample_is_logged_where_it_is_asked_for(tmp_path, confidence_of, logged):
    class Sure(Dice):
        def generate(self, prefixes, *, n, params, apart=False):
            sure = (1.0, 3.0) if params.confidence_of == 20 else None
            self.spoil = lambda prompt, i, generation: dataclasses.replace(generation, confidences=sure)
            return super().generate(prefixes, n=n, params=params)

    with Log(tmp_path) as log:
        run(log, backend=Sure(), params=PARAMS.but(seed=3, confidence_of=confidence_of))
        confidence = log.samples()["confidence"]
    assert [None if pd.isna(value) else value for value in confidence] == logged


def test_nothing_is_drawn_of_a_backend_that_judges_ask_and_no_arm_answers_from(tmp_path):
    judged = ArmSpec(backend="small", strategy=BestOfNSpec(n=2, verifier="judge", **SAMPLING))
    small = Dice("small")
    grader = Dice("grader", spoil=lambda prompt, i, generation: dataclasses.replace(generation, text="7"))
    with Log(tmp_path) as log:
        asyncio.run(
            collect(
                make_prompts(2),
                backends={"small": small, "grader": grader},
                verifiers={"judge": JudgeSpec(backend="grader", samples=1, scale=9)},
                arms=[judged],
                n=2,
                params=PARAMS,
                log=log,
            )
        )
        assert set(log.samples()["backend"]) == {"small"}
    asked = {prefix.messages[-1].content for prefixes, _, _ in grader.calls for prefix in prefixes}
    assert asked
    assert all("Answer: " in question for question in asked)


def test_prompts_do_not_share_their_seeds_and_a_rerun_draws_the_same(tmp_path):
    first, second = Dice(), Dice()
    for name, backend in (("a", first), ("b", second)):
        with Log(tmp_path / name) as log:
            run(log, backend=backend)
    seeds = [params.seed for _, _, params in first.calls]
    assert len(set(seeds)) == 6
    assert seeds == [params.seed for _, _, params in second.calls]


def test_a_second_run_draws_nothing_and_a_larger_n_only_what_is_missing(tmp_path):
    with Log(tmp_path) as log:
        run(log)
        again = Dice()
        assert run(log, backend=again).samples == 0
        assert again.calls == []
        more = Dice()
        assert run(log, backend=more, n=6).samples == 12
        assert {n for _, n, _ in more.calls} == {2}
        whole = Dice()
        with Log(tmp_path / "other") as other:
            run(other, backend=whole, n=6)
        assert sorted(p.seed for _, _, p in more.calls) == sorted(p.seed + 4 for _, _, p in whole.calls)


def broken(prompts, indices, reason="error"):
    def spoil(prompt, i, generation):
        if prompt in prompts and i in indices:
            error = "the server hiccuped" if reason == "error" else None
            return Generation(text="Ans", finish_reason=reason, completion_tokens=1, prompt_tokens=5, error=error)
        return generation

    return spoil


def test_failed_samples_are_visible_and_tried_once_more(tmp_path):
    with Log(tmp_path) as log:
        done = run(log, backend=Dice(spoil=broken({"prompt 1"}, {1, 3})))
        assert (done.samples, done.failed) == (22, 2)
        assert done.problems == ("the server hiccuped",)
        failed = log.samples().query("finish_reason == 'error'")
        assert failed["quality"].isna().all()
        assert failed["sample_index"].tolist() == [1, 3]
        second = Dice(spoil=broken({"prompt 1"}, {0}))
        done = run(log, backend=second)
        assert (done.samples, done.failed) == (0, 2)
        assert [n for _, n, _ in second.calls] == [1, 1]
        third = Dice()
        assert run(log, backend=third).samples == 0
        assert third.calls == []
        assert len(assemble(log).query("arm == 'small/single'")) == 6


def test_a_sample_cut_short_is_worth_nothing_and_is_not_scored(tmp_path):
    verifiers = opened()
    with Log(tmp_path) as log:
        run(log, backend=Dice(spoil=broken({"prompt 0"}, {0}, "length")), opened=verifiers)
        row = log.samples().query("prompt_id == 'p0' and sample_index == 0").iloc[0]
    assert row["quality"] == 0.0
    assert pd.isna(row["answer"])
    assert row["verdicts"] == []
    assert len(verifiers["prm"].read) == 23


def test_a_backend_that_only_fails_stops_the_collection_and_leaves_no_trace_of_failures(tmp_path):
    everything = {f"prompt {i}" for i in range(6)}
    with Log(tmp_path) as log:
        with pytest.raises(BackendError, match=r"samples of small: nothing but failures.*the server hiccuped"):
            run(log, backend=Dice(spoil=broken(everything, set(range(9)))))
        assert log.samples().empty
        assert run(log).samples == 24


def test_a_prompt_too_long_for_the_context_is_skipped_and_said(tmp_path):
    class Narrow(Dice):
        def generate(self, prefixes, *, n, params, apart=False):
            if prefixes[0].messages[0].content == "prompt 2":
                raise PromptTooLong("the prompt has 900 tokens, the context 160")
            return super().generate(prefixes, n=n, params=params)

    with Log(tmp_path) as log:
        done = run(log, backend=Narrow())
        assert (done.samples, done.skipped) == (20, 1)
        assert "900 tokens" in done.problems[0]


def test_a_verifier_that_fails_stops_the_collection_but_loses_nothing(tmp_path):
    class Fragile(Digit):
        async def score(self, request, candidates, *, partial=False):
            if request.text == "prompt 4":
                raise VerifierError("the reward model fell over")
            return await super().score(request, candidates, partial=partial)

    with Log(tmp_path) as log:
        with pytest.raises(VerifierError, match="fell over"):
            run(log, opened={"prm": Fragile(), "vote": Vote(), "best": Vote(name="best")}, concurrency=1)
        assert len(log.samples()) == 16
        assert run(log).samples == 8


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_calls_are_in_flight_than_allowed(tmp_path, concurrency):
    backend = Dice()
    with Log(tmp_path) as log:
        run(log, backend=backend, concurrency=concurrency)
    assert backend.most_in_flight == 4 * concurrency


def test_max_cost_stops_cleanly_before_it_is_passed_and_the_next_call_goes_on(tmp_path):
    with Log(tmp_path) as log:
        done = run(log, max_cost=150.0)
        assert not done.done
        assert "max_cost=150 would be passed" in done.stopped_because
        assert 0 < done.usage.cost <= 150.0
        assert len(log.samples()) == done.samples == 12  # a prompt's worst case is 110.5, it takes 14.5
        rest = run(log)
        assert rest.samples == 24 - done.samples


def test_arms_that_cannot_be_derived_are_run_once_per_prompt(tmp_path):
    with Log(tmp_path) as log:
        done = run(log, arms=[SINGLE, BEAM])
        assert (done.runs, done.timed) == (6, 0)
        outcomes = log.outcomes()
        assert run(log, arms=[SINGLE, BEAM]).runs == 0
    assert outcomes["arm"].unique().tolist() == ["small/beam_1x2"]
    assert (outcomes["source"] == "run").all()
    assert outcomes["latency_s"].isna().all()
    assert (outcomes["verifier_tokens"] > 0).all()
    assert outcomes["quality"].isin([0.0, 1.0]).all()


def test_the_timing_pass_runs_every_arm_alone_and_assemble_keeps_derived_quality_with_measured_latency(tmp_path):
    backend = Dice()
    with Log(tmp_path) as log:
        done = run(log, backend=backend, arms=[SINGLE, BEST, BEAM], latency_prompts=2)
        assert (done.runs, done.timed) == (4, 6)
        logged = log.outcomes()
        table = assemble(log)
    assert logged.groupby("arm")["latency_s"].count().to_dict() == {
        "small/single": 2, "small/best_of_4": 2, "small/beam_1x2": 2,
    }  # fmt: skip
    assert len(table) == 18
    source = table.groupby("arm")["source"].unique().apply(list).to_dict()
    assert source == {"small/single": ["derived"], "small/best_of_4": ["derived"], "small/beam_1x2": ["run"]}
    timed = table[table["latency_s"].notna()]
    assert timed["prompt_id"].nunique() == 2
    assert (timed["latency_s"] > 0).all()
    single = table.query("arm == 'small/single'").set_index("prompt_id")["quality"]
    samples = log.samples().groupby("prompt_id")["quality"].mean()
    assert single.to_dict() == samples.to_dict()


def test_assemble_takes_other_arms_and_only_those(tmp_path):
    with Log(tmp_path) as log:
        run(log, arms=[SINGLE, BEAM])
        two = ArmSpec(backend="small", strategy=BestOfNSpec(n=2, verifier="vote", **SAMPLING))
        table = assemble(log, [two], SPECS)
        assert table["arm"].unique().tolist() == ["small/vote_of_2"]


def test_assemble_of_an_empty_log_is_an_error(tmp_path):
    with pytest.raises(TableError, match="Collect or import first"):
        assemble(Log(tmp_path))


def test_a_plan_says_what_it_takes_and_its_probe_is_not_drawn_again(tmp_path):
    backend = Dice()
    everything = {
        "backends": {"small": backend},
        "verifiers": SPECS,
        "opened": opened(),
        "arms": [SINGLE, BEST, BEAM],
        "n": 4,
        "params": PARAMS.but(seed=3),
        "latency_prompts": 1,
    }
    with Log(tmp_path) as log:
        planned = asyncio.run(plan(make_prompts(), log=log, probe=2, **everything))
        assert log.samples().empty
        by_stage = {row.stage: row for row in planned.stages}
        assert by_stage["samples of small"].units == 16
        assert by_stage["samples of small"].cost == pytest.approx(4 * (0.5 + 4 * 2 + 4 * 1.5))
        assert by_stage["runs of small/beam_1x2"].units == 3
        assert by_stage["timing every arm alone"].units == 3
        assert "samples of small" in str(planned)
        assert "in all" in str(planned)
        drawn = len(backend.calls)
        done = asyncio.run(collect(make_prompts(), log=log, planned=planned, **everything))
        assert (done.samples, done.runs) == (24, 5)
        assert len(log.samples()) == 24
        assert len([c for c in backend.calls[drawn:] if c[1] == 4]) == 4 + 1  # four prompts left, one timed best-of-4
        assert asyncio.run(plan(make_prompts(), log=log, **everything)).stages == ()


def test_what_the_probe_spent_counts_as_the_collection_s(tmp_path):
    options = {
        "backends": {"small": Dice()},
        "verifiers": SPECS,
        "opened": opened(),
        "arms": [SINGLE],
        "n": 4,
        "params": PARAMS,
    }
    with Log(tmp_path) as log:
        planned = asyncio.run(plan(make_prompts(), log=log, probe=2, **options))
        assert planned.spent.completion_tokens == 16
        done = asyncio.run(collect(make_prompts(), log=log, planned=planned, max_cost=100.0, **options))
    assert done.usage.completion_tokens == 16
    assert done.stopped_because == "max_cost=100 would be passed: 29 is spent"


def test_cancelling_logs_what_had_ended_and_the_next_call_goes_on(tmp_path):
    class Slow(Dice):
        def _end(self, sample, generation):
            if len(self.calls) <= 3:
                super()._end(sample, generation)
            else:
                self.stuck.set()

    async def interrupted(log):
        backend = Slow()
        backend.stuck = asyncio.Event()
        work = asyncio.ensure_future(
            collect(
                make_prompts(),
                backends={"small": backend},
                verifiers=SPECS,
                opened=opened(),
                arms=[SINGLE],
                n=4,
                params=PARAMS,
                log=log,
                concurrency=1,
            )
        )
        await backend.stuck.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    with Log(tmp_path) as log:
        asyncio.run(interrupted(log))
        assert len(log.samples()) == 12
        assert run(log).samples == 12


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"arms": [BEST], "n": 2}, InputError, "draws 4 samples, the collection 2"),
        ({"params": PARAMS.but(temperature=0.5)}, InputError, r"samples with temperature=1\.0.*draws with 0\.5"),
        ({"prompts": make_prompts(grader=None)}, TableError, "prompt 'p0' has no grader"),
        ({"prompts": make_prompts(reference=None)}, TableError, "'exact' needs a reference"),
        ({"arms": [ArmSpec(backend="big", strategy=SingleSpec(**SAMPLING))]}, ConfigError, "wants backend 'big'"),
        ({"concurrency": 0}, ConfigError, "concurrency=0"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_drawn(tmp_path, options, error, words):
    backend = Dice()
    with Log(tmp_path) as log, pytest.raises(error, match=words):
        run(log, backend=backend, **options)
    assert backend.calls == []


def test_other_weights_are_not_mixed_into_a_log(tmp_path):
    with Log(tmp_path) as log:
        run(log)
        with pytest.raises(ConfigError, match=r"has fingerprint 'g', the log .* collected from 'f'"):
            run(log, backend=Dice(fingerprint="g"))


COLLECTOR = """
    import asyncio, sys
    sys.path.insert(0, sys.argv[2])
    import importlib.util
    spec = importlib.util.spec_from_file_location("collecting", sys.argv[3])
    t = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(t)
    from howhard.training import collect as c
    c._FLUSH_S = 0.0
    with t.Log(sys.argv[1]) as log:
        t.run(log, t.make_prompts(60), arms=[t.SINGLE, t.BEAM], concurrency=4,
              progress=lambda stage, done, total: print(stage.split()[0], done, flush=True))
    print("end", flush=True)
"""


def test_a_collection_killed_at_random_moments_goes_on_without_loss_or_repetition(tmp_path):
    rng = random.Random(11)
    path, here = tmp_path / "log", Path(__file__)
    command = [sys.executable, "-c", textwrap.dedent(COLLECTOR), str(path), str(here.parent), str(here)]
    kills, ended = 0, False
    while not ended:
        before = len(Log.open(path).samples()) if path.exists() else 0
        acknowledged, left = 0, rng.randrange(2, 6)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line == "end\n":
                    ended = True
                    break
                stage, done = line.split()
                acknowledged = max(acknowledged, int(done)) if stage == "samples" else acknowledged
                left -= 1
                if left == 0 and kills < 3:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
        samples = Log.open(path).samples()
        assert len(samples) >= before + acknowledged
        assert not samples.duplicated(["prompt_id", "sample_index"]).any()
    assert kills >= 2
    assert len(samples) == 240
    outcomes = Log.open(path).outcomes()
    assert len(outcomes) == outcomes["prompt_id"].nunique() == 60
