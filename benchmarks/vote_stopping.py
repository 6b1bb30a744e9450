"""What does a stop rule save of a vote of N, and what does it cost in accuracy?

Replays recorded samples: every prompt of a samples log with at least N samples of a backend, in several random launch
orders, by the same rules, equivalence and tie rule that SelfConsistency uses. Tokens are those drawn; with the prompt
read again, at full price, by every wave they are given too. "fired at once" draws all N in one batch and cancels in the
order in which samples END, as other tools do: one token of every running sample per step, so short answers vote first.
Intervals: bootstrap over prompts, paired with the fixed vote.

    python benchmarks/vote_stopping.py LOG --n 16 | tail -1 | jq '.rules[] | {rule, saved, accuracy_difference}'
"""

import argparse
import asyncio
import json
import platform
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd

from howhard.strategies import Candidate, Request, StopRule, get_equivalence, get_stop_rule
from howhard.strategies.equivalence import numbered
from howhard.strategies.selection import elect
from howhard.strategies.stopping import Seen, Tally, stays_ahead
from howhard.training.log import Log

RULES = (
    "none",
    "beta",
    "beta,doubling",
    "beta:0.8",
    "beta:0.9",
    "beta:0.99",
    "beta:0.8,scattered=8",
    "beta:0.8,scattered=16",
    "beta,wave=1",
    "esc:5",
    "esc:4",
    "consensus",
    "exact",
    "exact,doubling",
    "exact,wave=1",
)
FIRED = "beta, fired at once"
LAUNCH_TIES = "none, ties by launch order"
BY_LOGPROB = "none, weights=logprob"
REQUEST, NOBODY = Request.of("replayed"), Candidate.of("")


@dataclass(frozen=True, slots=True)
class Drawn:
    """N samples of one prompt in one launch order."""

    groups: tuple[int | None, ...]
    quality: np.ndarray
    tokens: np.ndarray
    prompt: int
    logprob: np.ndarray

    def chosen(self, places: np.ndarray, *, weights: np.ndarray | None = None, ties: bool = True) -> float:
        """Quality of the vote over the samples at these places, in this order; 0 where nobody votes."""
        groups = numbered([self.groups[i] for i in places])
        weighed = [1.0] * len(places) if weights is None else weights[places].tolist()
        sure = self.logprob[places].tolist() if ties else [None] * len(places)
        winner = elect(groups, weighed, [None if p is None or np.isnan(p) else p for p in sure])
        return 0.0 if winner is None else float(self.quality[places[groups.index(winner)]])

    def outcome(self, quality: float, spent: float, samples: int, waves: int = 1) -> "Outcome":
        return quality, spent, spent + waves * self.prompt, float(samples)


Outcome = tuple[float, float, float, float]
"""Quality, completion tokens, tokens with the prompt read by every wave, samples."""


def in_waves(rule: StopRule, drawn: Drawn) -> Outcome:
    n, k, waves = len(drawn.groups), 0, 0
    while k < n:
        seen = drawn.groups[:k]
        weights = tuple(float(g is not None) for g in seen)
        more = rule.more(Seen(request=REQUEST, candidates=(NOBODY,) * k, groups=seen, weights=weights, planned=n))
        if not more:
            break
        k, waves = k + more, waves + 1
    return drawn.outcome(drawn.chosen(np.arange(k)), float(drawn.tokens[:k].sum()), k, waves)


def fired_at_once(drawn: Drawn) -> Outcome:
    """All N run in step; the Beta rule is asked whenever one ends, and the rest is cancelled."""
    ends = np.argsort(drawn.tokens, kind="stable")
    voted: list[int | None] = []
    for place in ends:
        voted.append(drawn.groups[place])
        counts = sorted(Tally.of(numbered(voted), [1.0] * len(voted)).counts, reverse=True) or [0]
        if stays_ahead(counts[0], counts[1] if len(counts) > 1 else 0, 0.95):
            break
    last = drawn.tokens[ends[len(voted) - 1]]
    spent = float(np.minimum(drawn.tokens, last).sum())
    return drawn.outcome(drawn.chosen(ends[: len(voted)]), spent, len(voted))


def fixed_vote(drawn: Drawn, **how: object) -> Outcome:
    """All N, voted on in another way."""
    everyone = np.arange(len(drawn.groups))
    return drawn.outcome(drawn.chosen(everyone, **how), float(drawn.tokens.sum()), len(everyone))  # type: ignore[arg-type]


def load(path: str, n: int, equivalence: str, most: int | None) -> dict[str, list[Drawn]]:
    """Per backend and prompt: the samples as logged, to be put into launch orders."""
    with Log.open(path) as log:
        samples = log.samples()
    samples = samples[(samples["origin"] == "collect") & (samples["finish_reason"] != "error")]
    samples = samples.sort_values(["backend", "params", "prompt_id", "sample_index"])
    how = get_equivalence(equivalence)
    found: dict[str, list[Drawn]] = {}
    for (backend, _, _), rows in samples.groupby(["backend", "params", "prompt_id"], sort=False):
        prompts = found.setdefault(str(backend), [])
        if len(rows) < n or (most is not None and len(prompts) >= most):
            continue
        rows = rows.iloc[:n]
        texts = rows["text" if how.whole_text else "answer"].tolist()
        complete = (rows["finish_reason"] == "stop").tolist()
        answers = [t if c and not pd.isna(t) else None for t, c in zip(texts, complete, strict=True)]
        drawn = Drawn(
            asyncio.run(how.groups(answers)),
            rows["quality"].to_numpy(float),
            rows["completion_tokens"].to_numpy(float),
            int(rows["prompt_tokens"].iloc[0]),
            rows["mean_logprob"].to_numpy(float),
        )
        prompts.append(drawn)
    return {backend: prompts for backend, prompts in found.items() if prompts}


def shuffled(drawn: Drawn, order: np.ndarray) -> Drawn:
    groups = numbered([drawn.groups[i] for i in order])
    return Drawn(groups, drawn.quality[order], drawn.tokens[order], drawn.prompt, drawn.logprob[order])


def replay(prompts: list[Drawn], orders: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Per rule: array (prompts, 4) of outcomes, means over launch orders, which all rules share."""
    rules = {name: get_stop_rule(name) for name in RULES}
    totals = {name: np.zeros((len(prompts), 4)) for name in (*RULES, FIRED, LAUNCH_TIES, BY_LOGPROB)}
    for row, logged in enumerate(prompts):
        for _ in range(orders):
            drawn = shuffled(logged, rng.permutation(len(logged.groups)))
            for name, rule in rules.items():
                totals[name][row] += in_waves(rule, drawn)
            totals[FIRED][row] += fired_at_once(drawn)
            totals[LAUNCH_TIES][row] += fixed_vote(drawn, ties=False)
            totals[BY_LOGPROB][row] += fixed_vote(drawn, weights=np.exp(drawn.logprob))
    return {name: total / orders for name, total in totals.items()}


def interval(values: np.ndarray) -> list[float]:
    return [round(float(v), 5) for v in np.percentile(values, [2.5, 97.5])]


def compare(outcomes: dict[str, np.ndarray], rng: np.random.Generator, resamples: int) -> list[dict]:
    fixed = outcomes["none"]
    counts = rng.multinomial(len(fixed), np.full(len(fixed), 1 / len(fixed)), size=resamples).astype(float)
    rows = []
    for name, own in outcomes.items():
        difference = own[:, 0] - fixed[:, 0]
        saved = 1 - (counts @ own[:, 1]) / (counts @ fixed[:, 1])
        rows.append(
            {
                "rule": name,
                "samples": round(float(own[:, 3].mean()), 2),
                "tokens": round(float(own[:, 1].mean()), 1),
                "tokens_with_prompt": round(float(own[:, 2].mean()), 1),
                "saved": round(float(1 - own[:, 1].sum() / fixed[:, 1].sum()), 4),
                "saved_interval": interval(saved),
                "saved_with_prompt": round(float(1 - own[:, 2].sum() / fixed[:, 2].sum()), 4),
                "accuracy": round(float(own[:, 0].mean()), 4),
                "accuracy_difference": round(float(difference.mean()), 5),
                "difference_interval": interval(counts @ difference / len(difference)),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", help="a directory that `howhard collect` wrote")
    parser.add_argument("--n", type=int, default=16, help="samples of the fixed vote")
    parser.add_argument("--equivalence", default="canonical")
    parser.add_argument("--prompts", type=int, help="at most so many prompts per backend")
    parser.add_argument("--orders", type=int, default=4, help="random launch orders per prompt")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start, result = time.perf_counter(), {}
    for backend, prompts in load(args.log, args.n, args.equivalence, args.prompts).items():
        rng = np.random.default_rng(args.seed)
        rows = compare(replay(prompts, args.orders, rng), rng, args.resamples)
        print(f"\n{backend}: {len(prompts)} prompts, votes of {args.n}")
        print(f"{'rule':32}{'samples':>8}{'tokens':>9}{'saved':>8}{'with prompt':>13}{'accuracy':>10}   difference")
        for r in rows:
            low, high = r["difference_interval"]
            print(
                f"{r['rule']:32}{r['samples']:8.2f}{r['tokens']:9.1f}{r['saved']:8.1%}{r['saved_with_prompt']:13.1%}"
                f"{r['accuracy']:10.4f}   {r['accuracy_difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
            )
        result[backend] = {"prompts": len(prompts), "rules": rows}
    print(
        json.dumps(
            {
                "benchmark": "vote_stopping",
                "log": args.log,
                "n": args.n,
                "orders": args.orders,
                "machine": platform.processor() or platform.machine(),
                "seconds": round(time.perf_counter() - start, 1),
                "backends": result,
            }
        )
    )


if __name__ == "__main__":
    main()
