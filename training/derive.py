"""What each arm would have done, computed exactly from the samples that were logged once.

Drawing k of m logged samples without replacement is what an arm with k samples does, as long as the samples
are exchangeable. So every quantity here is an expectation over all C(m, k) subsets, in closed form: no
permutation is drawn, nothing is resampled. Only samples of origin "collect" count: live draws stop when they
succeed, which biases their share of successes. Failed samples (finish_reason "error") are left out: they say
nothing about the model.

Rules that the strategies of howhard.strategies keep, and so does the arithmetic here:
- a sample that is not complete (finish_reason other than "stop") never wins over a complete one, is not shown
  to verifiers, and abstains in votes;
- a verifier that cannot judge a candidate (score null) ranks it below every candidate with a score;
- candidates that rank equally are equally likely to be launched first, so they share the win equally.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from ..strategies import (
    ArmSpec,
    BestOfNSpec,
    FirstOfSpec,
    SingleSpec,
    VerifierSpec,
    VoteSpec,
)
from ..strategies.answers import EXTRACTOR, canonical, extract
from ..strategies.errors import InputError, TableError, nearest
from . import tables

logger = logging.getLogger(__name__)

Array = np.ndarray


# ── the arithmetic, on arrays ───────────────────────────────────────────────────────────────────────────────


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that at least one of k samples is right, of n logged ones of which `correct` are.

        1 - C(n - correct, k) / C(n, k)

    Returns a probability in [0, 1]. Raises ValueError unless 1 <= k <= n and 0 <= correct <= n.
    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code".
    >>> round(pass_at_k(8, 3, 4), 4)
    0.9286
    """
    if not (1 <= k <= n and 0 <= correct <= n):
        raise ValueError(f"pass_at_k(n={n}, correct={correct}, k={k}): needs 1 <= k <= n and 0 <= correct <= n")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def best_of_k(scores: Array, quality: Array, k: int) -> Array:
    """Expected quality of the highest-scored of k samples drawn without replacement, ties sharing equally.

    scores  : float (n_prompts, m), higher is better; -inf ranks last, NaN is not allowed.
    quality : float (n_prompts, m), in [0, 1].

    With the samples of a prompt sorted by score, the one at rank i = 0..m-1 is the best of k with chance
    C(i, k-1) / C(m, k) (the others come from the i below it). Samples of equal score split the chance of
    their ranks evenly, that is, each counts with the mean quality of its tie.

    Returns float (n_prompts,). Raises ValueError unless 1 <= k <= m.
    Source: order statistics without replacement; for 0/1 quality and scores = quality it is pass@k.
    >>> best_of_k(np.array([[0.9, 0.1, 0.5]]), np.array([[0.0, 1.0, 1.0]]), 2).round(4).tolist()
    [0.3333]
    """
    n_prompts, m = scores.shape
    if not 1 <= k <= m:
        raise ValueError(f"best_of_k: k={k} does not lie in 1..{m}, the number of logged samples")
    order = np.argsort(scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    new_tie = np.ones((n_prompts, m), dtype=bool)
    new_tie[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    tie = np.cumsum(new_tie) - 1  # numbered through all rows: a row begins a new tie
    sums = np.bincount(tie, weights=np.take_along_axis(quality, order, axis=1).ravel())
    means = (sums / np.bincount(tie))[tie].reshape(n_prompts, m)
    chances = np.array([math.comb(i, k - 1) / math.comb(m, k) for i in range(m)])
    return means @ chances


def vote_of_k(labels: Array, quality: Array, k: int) -> Array:
    """Expected quality of the answer that most of k samples give, drawn without replacement, ties split
    evenly.

    labels  : int (n_prompts, m), equal where answers are equal; -1 abstains.
    quality : float (n_prompts, m), in [0, 1].

    An answer wins with the chance that `vote_shares` counts and is worth the mean quality of the samples that
    give it. Where all k abstain, one of the abstainers is the answer.

    Returns float (n_prompts,). Raises ValueError unless 1 <= k <= m.
    """
    n_prompts, m = labels.shape
    if not 1 <= k <= m:
        raise ValueError(f"vote_of_k: k={k} does not lie in 1..{m}, the number of logged samples")
    result = np.zeros(n_prompts)
    for row in range(n_prompts):
        sums: dict[int, float] = {}
        counts: Counter[int] = Counter()
        for label, value in zip(labels[row].tolist(), quality[row].tolist(), strict=True):
            counts[label] += 1
            sums[label] = sums.get(label, 0.0) + value
        abstain = counts.pop(-1, 0)
        shares = vote_shares(tuple(sorted(counts.values())), abstain, k)
        result[row] = sum(shares[size] * sums[label] / size for label, size in counts.items())
        if abstain >= k:
            result[row] += math.comb(abstain, k) / math.comb(m, k) * sums[-1] / abstain
    return result


@lru_cache(maxsize=65536)
def vote_shares(sizes: tuple[int, ...], abstain: int, k: int) -> dict[int, float]:
    """Chance that one given answer wins a vote of k samples drawn without replacement, by how many gave it.

    sizes   : how many of the logged samples gave each answer, sorted.
    abstain : how many gave none.

    With v votes for the answer, j for others of which t answers also have v and none has more, and the rest
    of the k abstaining, it wins 1 / (t + 1) of C(s, v) * W_v(t, j) * C(abstain, k - v - j) subsets. W_v(t, j)
    counts the ways to pick the others: the coefficient of y^t x^j in the product over the other answers, of
    size s', of sum_{u < v} C(s', u) x^u + C(s', v) x^v y.

    Returns {size: chance}, exact counts divided once. The chances of all answers, and of nobody voting, add
    to 1. Source: multivariate hypergeometric counting.
    >>> vote_shares((1, 2), 0, 1)
    {1: 0.3333333333333333, 2: 0.6666666666666666}
    """
    total = math.comb(sum(sizes) + abstain, k)
    shares = {}
    for size in sorted(set(sizes)):
        others = list(sizes)
        others.remove(size)
        wins = 0.0
        for v in range(1, min(size, k) + 1):
            for (t, j), ways in _ways(tuple(others), v, k - v).items():
                wins += math.comb(size, v) * ways * math.comb(abstain, k - v - j) / (t + 1)
        shares[size] = wins / total
    return shares


@lru_cache(maxsize=65536)
def _ways(sizes: tuple[int, ...], v: int, most: int) -> dict[tuple[int, int], int]:
    """Count the picks of j <= `most` samples with no answer over v and t answers at v: {(t, j): ways}.

    Built answer by answer; the shared beginnings of `sizes` are cached.
    """
    if not sizes:
        return {(0, 0): 1}
    size = sizes[-1]
    picks = [(u, math.comb(size, u)) for u in range(min(v, size) + 1)]
    ways: dict[tuple[int, int], int] = {}
    for (t, j), before in _ways(sizes[:-1], v, most).items():
        for u, count in picks:
            if j + u <= most:
                key = (t + (u == v), j + u)
                ways[key] = ways.get(key, 0) + before * count
    return ways


# ── from tables to arrays ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Block:
    """The samples of those prompts of one backend and params that have the same number m of them.

    prompt_ids : (n_prompts,); every other array is (n_prompts, m).
    labels     : answers as numbers, -1 where the sample is not complete.
    verdicts   : verifier -> what it made of the samples.
    """

    prompt_ids: list[str]
    complete: Array
    quality: Array
    labels: Array
    prompt_tokens: Array
    cached_tokens: Array
    completion_tokens: Array
    cost: Array
    prompt_cost: Array
    verdicts: Mapping[str, "_Judged"]

    @property
    def m(self) -> int:
        return self.quality.shape[1]


class SampleSet:
    """The collected samples, arranged once so that any number of arms can be derived from them."""

    def __init__(self, samples: pd.DataFrame) -> None:
        """Arrange a validated samples table.

        Raises TableError for a table without usable samples, for samples of one backend with two
        fingerprints, and for samples that were never graded.
        """
        usable = [
            origin == "collect" and reason != "error"
            for origin, reason in zip(samples["origin"].tolist(), samples["finish_reason"].tolist(), strict=True)
        ]
        samples = samples.iloc[[row for row, keep in enumerate(usable) if keep]]
        if samples.empty:
            raise TableError(
                "samples: nothing to derive from: no row of origin 'collect' came to an end. Collect first."
            )
        ids, backends = samples["prompt_id"].tolist(), samples["backend"].tolist()
        ungraded = [i for i, quality in zip(ids, samples["quality"].tolist(), strict=True) if math.isnan(quality)]
        if ungraded:
            raise TableError(
                f"samples: column 'quality' is null for {len(ungraded)} samples, the first of prompt "
                f"{ungraded[0]!r}. Give the prompts a grader and collect again."
            )
        prints: dict[str, set[str]] = {}
        for backend, fingerprint in zip(backends, samples["fingerprint"].tolist(), strict=True):
            prints.setdefault(backend, set()).add(fingerprint)
        for backend, found in prints.items():
            if len(found) > 1:
                raise TableError(
                    f"samples: backend {backend!r} has {len(found)} fingerprints ({', '.join(sorted(found))}): "
                    f"other weights or another template. Collect into a log per fingerprint."
                )
        rows_of: dict[tuple[str, str], list[int]] = {}
        for row, key in enumerate(zip(backends, samples["params"].tolist(), strict=True)):
            rows_of.setdefault(key, []).append(row)
        self._blocks = {key: _blocks(samples.iloc[rows]) for key, rows in sorted(rows_of.items())}

    def blocks(self, arm: ArmSpec) -> list[_Block]:
        """The samples that an arm would have drawn: of its backend, with its sampling parameters.

        Raises TableError that says what the log has instead.
        """
        strategy = arm.strategy
        wanted = {f: getattr(strategy, f) for f in ("temperature", "top_p", "max_tokens")}
        there = {b: p for (b, p), blocks in self._blocks.items() if b == arm.backend and blocks}
        if not there:
            known = {backend for backend, _ in self._blocks}
            raise TableError(f"arm {arm.name!r}: the log has no samples of it{nearest(arm.backend, known)}")
        found = []
        for (backend, params), blocks in self._blocks.items():
            if backend == arm.backend:
                logged = json.loads(params)
                if all(logged.get(name) == value for name, value in wanted.items()):
                    return blocks
                found.append(", ".join(f"{name}={logged.get(name)}" for name in wanted))
        asked = ", ".join(f"{name}={value}" for name, value in wanted.items())
        raise TableError(
            f"arm {arm.name!r} samples with {asked}, but the log's samples were drawn with "
            f"{'; '.join(found)}. Give the arm those settings, or collect with the arm's."
        )


def _blocks(rows: pd.DataFrame) -> list[_Block]:
    rows = rows.sort_values(["prompt_id", "sample_index"], kind="stable").reset_index(drop=True)
    ids = rows["prompt_id"].tolist()
    complete = rows["finish_reason"].eq("stop").to_numpy(dtype=bool)
    columns = {
        name: rows[name].to_numpy(dtype=float)
        for name in (
            "quality",
            "prompt_tokens",
            "cached_tokens",
            "completion_tokens",
            "cost",
            "prompt_cost",
        )
    }
    labels = labels_of(rows, complete)
    verdicts = verdict_columns(rows["verdicts"].tolist())
    starts = [i for i, one in enumerate(ids) if i == 0 or ids[i - 1] != one]
    ends = [*starts[1:], len(ids)]
    by_count: dict[int, list[int]] = {}
    for start, end in zip(starts, ends, strict=True):
        by_count.setdefault(end - start, []).append(start)
    blocks = []
    for m, begin in sorted(by_count.items()):
        at = np.array(begin)[:, None] + np.arange(m)
        blocks.append(
            _Block(
                prompt_ids=[ids[start] for start in begin],
                complete=complete[at],
                labels=labels[at],
                verdicts={name: judged.at(at) for name, judged in verdicts.items()},
                **{name: column[at] for name, column in columns.items()},
            )
        )
    return blocks


def labels_of(rows: pd.DataFrame, complete: Array) -> Array:
    """Number the canonical answers; answers that an older extractor read are read from the text again."""
    forms: dict[str, str] = {}
    numbers: dict[str, int] = {}
    family = EXTRACTOR.split("/")[0] + "/"
    labels = np.full(len(rows), -1)
    cells = zip(rows["answer"].tolist(), rows["extractor"].tolist(), rows["text"].tolist(), strict=True)
    for row, (answer, extractor, text) in enumerate(cells):
        if not complete[row]:
            continue
        if extractor != EXTRACTOR and extractor.startswith(family):
            answer = extract(text)
        if not isinstance(answer, str):
            continue
        form = forms.get(answer)
        if form is None:
            form = forms[answer] = canonical(answer)
        labels[row] = numbers.setdefault(form, len(numbers))
    return labels


@dataclass(slots=True)
class _Judged:
    """One verifier's verdicts, every array of the shape of the samples; score NaN where null.

    tokens, cost : of each sample by itself. prompt_tokens, prompt_cost : taken once for all samples of a call.
    """

    score: Array
    tokens: Array
    cost: Array
    prompt_tokens: Array
    prompt_cost: Array

    def at(self, index: Array) -> "_Judged":
        return _Judged(*(getattr(self, name)[index] for name in self.__slots__))

    def take(self, name: str, k: int, any_complete: Array) -> Array:
        """Expected `name` ("tokens" or "cost") of judging k of the samples, (n_prompts,).

        any_complete : chance that there is anything to judge among the k.
        """
        return any_complete * getattr(self, f"prompt_{name}").max(axis=1) + k * getattr(self, name).mean(axis=1)


def verdict_columns(cells: list[list[dict]]) -> dict[str, _Judged]:
    """The verdicts of all samples by verifier, arrays of one entry per sample; NaN where it did not judge one."""
    columns: dict[str, _Judged] = {}
    for row, verdicts in enumerate(cells):
        for verdict in verdicts:
            name = verdict["verifier"]
            if name not in columns:
                columns[name] = _Judged(np.full(len(cells), np.nan), *(np.zeros(len(cells)) for _ in range(4)))
            judged = columns[name]
            judged.score[row] = math.nan if verdict["score"] is None else verdict["score"]
            for field in ("tokens", "cost", "prompt_tokens", "prompt_cost"):
                getattr(judged, field)[row] = verdict[field]
    return columns


# ── arms ────────────────────────────────────────────────────────────────────────────────────────────────────


def is_derivable(arm: ArmSpec) -> bool:
    """Whether an arm's outcomes follow from independent samples: single pass, best-of-N and votes.

    Best-of-N that stops early, or whose choice counts scores and votes together, must be run.
    """
    strategy = arm.strategy
    if isinstance(strategy, BestOfNSpec):
        return strategy.selection == "best" and strategy.stop == "none"
    return isinstance(strategy, SingleSpec)


def derive(
    samples: "pd.DataFrame | SampleSet",
    prompts: pd.DataFrame,
    arms: Iterable[ArmSpec],
    verifiers: Mapping[str, VerifierSpec],
) -> pd.DataFrame:
    """Outcomes (source "derived") of every arm on every prompt with enough samples, in the order of both.

    quality, tokens, cost : expectations over all subsets of the logged samples. The prompt counts once, a
        verifier's reading of it too, the completion and its verdicts k times; `calls` is one, and one more where a
        verifier reads tokens.
    latency_s, answer, propensity : null; a derived arm was never run.

    A prompt with fewer samples than the arm draws has no row, and a warning says how many those are.
    Raises InputError for an arm that must be run (`is_derivable`) and for an unknown verifier; TableError
    when the samples do not fit an arm at all, or a sample's prompt is not in `prompts`.
    """
    sampled = samples if isinstance(samples, SampleSet) else SampleSet(samples)
    groups = dict(zip(prompts["prompt_id"].tolist(), prompts["group"].tolist(), strict=True))
    parts = [_derive_arm(sampled, groups, arm, verifiers) for arm in arms]
    if not parts:
        raise InputError("no arm to derive: name at least one single or best-of-N arm")
    return tables.validate_outcomes(tables.fill("outcomes", pd.concat(parts, ignore_index=True)))


def coverage(samples: "pd.DataFrame | SampleSet", arm: ArmSpec, ks: Sequence[int]) -> pd.DataFrame:
    """Expected best quality among k samples of an arm's backend: what a perfect verifier reaches (pass@k).

    arm : any arm of that backend with the right sampling parameters, for instance its single pass.

    Returns columns prompt_id, k, quality; prompts with fewer than k samples have no row for that k.
    """
    sampled = samples if isinstance(samples, SampleSet) else SampleSet(samples)
    rows = []
    for block in sampled.blocks(arm):
        for k in ks:
            if k <= block.m:
                best = best_of_k(block.quality, block.quality, k)
                rows.append(pd.DataFrame({"prompt_id": block.prompt_ids, "k": k, "quality": best}))
    if not rows:
        raise TableError(f"no prompt has {min(ks)} samples of {arm.backend!r}: collect more, or ask for a smaller k")
    return pd.concat(rows, ignore_index=True)


def _derive_arm(
    sampled: SampleSet, groups: Mapping[str, str], arm: ArmSpec, verifiers: Mapping[str, VerifierSpec]
) -> pd.DataFrame:
    strategy = arm.strategy
    if not is_derivable(arm):
        raise InputError(f"arm {arm.name!r} cannot be derived from samples: run it")
    k = strategy.n if isinstance(strategy, BestOfNSpec) else 1
    leaves = leaves_of(arm.name, strategy.verifier, verifiers) if isinstance(strategy, BestOfNSpec) else []
    blocks = sampled.blocks(arm)
    enough = [block for block in blocks if block.m >= k]
    few = sum(len(block.prompt_ids) for block in blocks if block.m < k)
    if not enough:
        most = max(block.m for block in blocks)
        raise TableError(
            f"arm {arm.name!r} draws {k} samples, but the log has at most {most} per prompt: "
            f"collect {k} samples, or use a smaller arm"
        )
    if few:
        logger.warning("arm %s: %d prompts have fewer than %d samples and are left out", arm.name, few, k)
    rows = pd.concat([_outcomes(block, groups, arm, k, leaves) for block in enough], ignore_index=True)
    place = {prompt_id: i for i, prompt_id in enumerate(groups)}
    return rows.iloc[np.argsort([place[prompt_id] for prompt_id in rows["prompt_id"]], kind="stable")]


def _outcomes(
    block: _Block, groups: Mapping[str, str], arm: ArmSpec, k: int, leaves: Sequence[tuple[str, bool]]
) -> pd.DataFrame:
    for prompt_id in block.prompt_ids:
        if prompt_id not in groups:
            raise TableError(f"samples: prompt {prompt_id!r} is not in the prompts table. Log its prompt too.")
    selected = _select(block, arm, k, leaves) if leaves else _Selected.plain(block)
    return pd.DataFrame(
        {
            "prompt_id": block.prompt_ids,
            "group": [groups[prompt_id] for prompt_id in block.prompt_ids],
            "arm": arm.name,
            "backend": arm.backend,
            "strategy": arm.strategy.name,
            "n": k,
            "quality": np.clip(selected.quality, 0.0, 1.0),  # sums of chances may exceed 1 by an ulp
            "draws": block.m / k,
            "prompt_tokens": block.prompt_tokens.mean(axis=1),
            "cached_tokens": block.cached_tokens.mean(axis=1),
            "completion_tokens": k * block.completion_tokens.mean(axis=1),
            "verifier_tokens": selected.tokens,
            "calls": 1.0 + (selected.tokens > 0),
            "cost": block.prompt_cost.mean(axis=1) + k * block.cost.mean(axis=1) + selected.cost,
            "source": "derived",
        }
    )


@dataclass(slots=True)
class _Selected:
    """What choosing among k samples comes to, per prompt: expected quality, verifier tokens and cost."""

    quality: Array
    tokens: Array
    cost: Array

    @classmethod
    def plain(cls, block: _Block) -> "_Selected":
        """One sample, taken as it is."""
        nothing = np.zeros(len(block.prompt_ids))
        return cls(block.quality.mean(axis=1), nothing, nothing)


def _select(block: _Block, arm: ArmSpec, k: int, leaves: Sequence[tuple[str, bool]]) -> _Selected:
    """Let the first of the verifiers that can judge a prompt choose there; those before it are paid too."""
    n_prompts = len(block.prompt_ids)
    nothing = np.zeros(n_prompts)
    # Nobody could judge: all complete samples rank equally.
    blind = np.where(block.complete, 0.0, -np.inf)
    result = _Selected(best_of_k(blind, block.quality, k), nothing.copy(), nothing.copy())
    open_ = np.ones(n_prompts, dtype=bool)
    cut = block.m - block.complete.sum(axis=1)
    any_complete = np.array([1.0 - math.comb(int(c), k) / math.comb(block.m, k) for c in cut])
    for name, is_vote in leaves:
        if is_vote:
            result.quality[open_] = vote_of_k(block.labels[open_], block.quality[open_], k)
            break
        if name not in block.verdicts:
            raise TableError(
                f"arm {arm.name!r}: the samples of {arm.backend!r} carry no scores of verifier {name!r}"
                f"{nearest(name, block.verdicts)}. Collect with that verifier."
            )
        verdicts = block.verdicts[name]
        scores = verdicts.score
        result.tokens[open_] += verdicts.take("tokens", k, any_complete)[open_]
        result.cost[open_] += verdicts.take("cost", k, any_complete)[open_]
        judged = open_ & ~np.isnan(scores).all(axis=1)
        if judged.any():
            # A score lies in [0, 1], so -1 stands below every score and above what is not complete.
            ranks = np.where(block.complete, np.where(np.isnan(scores), -1.0, scores), -np.inf)
            result.quality[judged] = best_of_k(ranks[judged], block.quality[judged], k)
        open_ &= ~judged
    return result


def leaves_of(arm: str, name: str, verifiers: Mapping[str, VerifierSpec]) -> list[tuple[str, bool]]:
    """The verifiers that are asked in turn, each with whether it is a vote (which always judges)."""
    if name not in verifiers:
        raise InputError(f"arm {arm!r} wants verifier {name!r}{nearest(name, verifiers)}")
    spec = verifiers[name]
    if isinstance(spec, FirstOfSpec):
        return [leaf for inner in spec.verifiers for leaf in leaves_of(arm, inner, verifiers)]
    return [(name, isinstance(spec, VoteSpec))]
