"""A samples log as runs that could have been: each prompt's samples in many orders, ready to be drawn one by one.

A run of a plan draws some of a prompt's logged samples, in an order drawn at random, without replacement. The runs of
one prompt weigh as one prompt. What a draw costs, how long it takes and how good its answer is come from the log; the
prompt is paid once per wave, and so is what a verifier reads once per call.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from ...router.flight import Draws
from ...router.plan import Leg, Menu
from ...strategies import VerifierSpec
from ...strategies.answers import EXTRACTOR
from ...strategies.errors import ConfigError, TableError, nearest
from ..derive import labels_of, leaves_of, verdict_columns
from ..fit_success import is_sound

logger = logging.getLogger(__name__)

SIGNALS = {"logprobs": "logprob", "confidence": "confidence"}
"""Signals that a server may or may not give, as PlanFacts.needs calls them, and the column of Draws that holds each."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """All logged samples of one leg for n prompts, k each.

    draws   : as they were drawn.   quality : (n, k).   cost : (n, k), of a sample with its verdict; prompt_cost : (n,)
    of a wave.   tokens : (n, k), completion and verifier tokens.   prompt_tokens, reading_cost : (n,), what a verifier
    takes once per wave in which a sample is complete.
    """

    draws: Draws
    quality: np.ndarray
    cost: np.ndarray
    prompt_cost: np.ndarray
    tokens: np.ndarray
    prompt_tokens: np.ndarray
    reading_cost: np.ndarray

    def __getitem__(self, rows: Any) -> "Samples":
        return Samples(*(getattr(self, name)[rows] for name in Samples.__slots__))

    def ordered(self, order: np.ndarray) -> "Samples":
        """The samples of each row in another order, (n, k) of places."""
        rows = np.arange(len(order))[:, None]
        draws = Draws(*(getattr(self.draws, name)[rows, order] for name in Draws.__slots__))
        return replace(
            self, draws=draws, quality=self.quality[rows, order], cost=self.cost[rows, order],
            tokens=self.tokens[rows, order],
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """What one search of the menu came to on n prompts, (n,) each.

    seconds : mean of the runs that were timed, the same for all prompts, since few are; NaN = none was.   label : -1 =
    no answer.
    """

    quality: np.ndarray
    cost: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray
    label: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class SampleLog:
    """What a plan of this menu needs of a log: n prompts that have all of it.

    left_out : prompts that have too few samples, or lack a search.
    """

    menu: Menu
    prompt_ids: tuple[str, ...]
    legs: tuple[Samples, ...]
    searches: tuple[Searched, ...]
    left_out: int

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @property
    def signals(self) -> tuple[str, ...]:
        """Which of SIGNALS most complete samples of every leg carry."""
        there = {name: [getattr(leg.draws, column)[leg.draws.complete] for leg in self.legs] for name, column in
                 SIGNALS.items()}  # fmt: skip
        return tuple(n for n, legs in there.items() if all(len(v) and np.isfinite(v).mean() > 0.5 for v in legs))

    def without(self, signals: Sequence[str]) -> "SampleLog":
        """The same log as a server would show it that lacks some of SIGNALS: nothing reads them, they break no tie.

        For the same samples without the verifier, and without what it costs, read the log for a menu without one.
        Raises ConfigError for a name that is no signal.
        """
        for name in signals:
            if name not in SIGNALS:
                raise ConfigError(f"signals: there is no {name!r}{nearest(name, SIGNALS)}")
        blank = [SIGNALS[name] for name in signals]

        def blanked(leg: Samples) -> Samples:
            return replace(
                leg, draws=replace(leg.draws, **{c: np.full_like(getattr(leg.draws, c), np.nan) for c in blank})
            )

        return replace(self, legs=tuple(blanked(leg) for leg in self.legs))

    def rows(self, index: np.ndarray) -> "SampleLog":
        """Some of the prompts."""
        where = np.arange(len(self))[index]
        return replace(
            self,
            prompt_ids=tuple(self.prompt_ids[i] for i in where),
            legs=tuple(leg[where] for leg in self.legs),
            searches=tuple(Searched(*(getattr(s, f)[where] for f in Searched.__slots__)) for s in self.searches),
        )

    def first_leg(self) -> "SampleLog":
        """The same prompts where there is the first leg alone, and no search."""
        menu = msgspec.structs.replace(self.menu, legs=self.menu.legs[:1], searches=())
        return replace(self, menu=menu, legs=self.legs[:1], searches=())


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────


def read_samples(
    samples: pd.DataFrame,
    outcomes: pd.DataFrame,
    menu: Menu,
    verifiers: Mapping[str, VerifierSpec] | None = None,
    *,
    sound: Sequence[str] = (),
) -> SampleLog:
    """Arrange a log's samples, and its runs of searches, for a menu.

    samples, outcomes : validated tables.   verifiers : those of the log, so that the menu's is known by its parts.
    sound : verifiers to be taken for sound beside those that are by their specs.

    Prompts that have fewer samples of a leg than its last stage, or lack a search, are left out and counted.
    Raises TableError that names the leg or search for which the log has nothing, or too little; for samples that were
    not graded, lack the verifier's scores, are of two fingerprints, have prices that contradict each other, or whose
    answers another kind of extractor read. Raises InputError for an unknown verifier.
    """
    usable = samples["origin"].eq("collect").to_numpy(bool) & samples["finish_reason"].ne("error").to_numpy(bool)
    table = samples.loc[usable].reset_index(drop=True)
    if table.empty:
        raise TableError("samples: no row of origin 'collect' came to an end: a plan is learned from collected samples")
    _check_extractors(table)
    complete = table["finish_reason"].eq("stop").to_numpy(bool)
    searched = outcomes.loc[outcomes["arm"].isin(menu.searches)].reset_index(drop=True)
    answers = labels_of(
        pd.concat([table[["answer", "extractor", "text"]], _as_samples(searched)], ignore_index=True),
        np.concatenate([complete, searched["answer"].notna().to_numpy(bool)]),
    )
    chains = None if menu.verifier is None else leaves_of("the plan", menu.verifier, dict(verifiers or {}))
    read = _Reader(table, complete, answers[: len(table)], chains, {*sound, *_sound(chains, verifiers or {})})
    legs = [read.leg(leg) for leg in menu.legs]
    runs = [_search(searched, answers[len(table) :], name) for name in menu.searches]
    whole = set.intersection(*(set(found) for found in (*legs, *runs)))
    ids = tuple(i for i in dict.fromkeys(table["prompt_id"].tolist()) if i in whole)
    seen = len(set(table["prompt_id"]))
    if not ids:
        raise TableError(
            "samples: no prompt has all that the menu asks for: fewer stages, or no searches, or collect more"
        )
    if len(ids) < seen:
        logger.warning(
            "plan: %d of %d prompts have too few samples, or lack a search, and are left out", seen - len(ids), seen
        )
    return SampleLog(
        menu=menu,
        prompt_ids=ids,
        legs=tuple(read.samples(leg, found, ids) for leg, found in zip(menu.legs, legs, strict=True)),
        searches=tuple(Searched(*(np.array([found[i][j] for i in ids]) for j in range(5))) for found in runs),
        left_out=seen - len(ids),
    )


def _check_extractors(table: pd.DataFrame) -> None:
    """Answers of an older extractor of the same family are read again from the texts; those of another can't be."""
    family = EXTRACTOR.split("/")[0]
    foreign = sorted(e for e in set(table["extractor"]) if e.split("/")[0] != family)
    if foreign:
        raise TableError(
            f"samples: answers were read by extractor {foreign[0]!r}, this howhard reads them by {EXTRACTOR!r}: what "
            "agrees in the log would not agree when it serves. Collect again, or use the howhard that made the log"
        )


def _as_samples(outcomes: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"answer": outcomes["answer"], "extractor": EXTRACTOR, "text": ""})


def _sound(chains: Sequence[tuple[str, bool]] | None, verifiers: Mapping[str, VerifierSpec]) -> list[str]:
    return [name for name, _ in chains or () if is_sound(name, verifiers)]


def _search(outcomes: pd.DataFrame, labels: np.ndarray, name: str) -> dict[str, tuple[float, ...]]:
    """prompt_id -> quality, cost, tokens, seconds, label of a search's runs."""
    mine = np.flatnonzero(outcomes["arm"].eq(name).to_numpy(bool))
    if not len(mine):
        raise TableError(f"searches: the log has no runs of {name!r}{nearest(name, set(outcomes['arm']))}")
    rows = outcomes.iloc[mine]
    tokens = rows["completion_tokens"].fillna(0) + rows["verifier_tokens"].fillna(0)
    if rows["cost"].isna().any():
        raise TableError(
            f"searches: runs of {name!r} have no cost: give its backend prices, or leave it out of the menu"
        )
    timed = rows["latency_s"].dropna()
    seconds = np.full(len(rows), float(timed.mean()) if len(timed) else np.nan)
    columns = (rows["quality"], rows["cost"], tokens, seconds, labels[mine])
    return dict(zip(rows["prompt_id"].tolist(), zip(*(c.tolist() for c in columns), strict=True), strict=True))


class _Reader:
    """The samples table as columns, and where each prompt's samples of a leg lie."""

    def __init__(
        self,
        table: pd.DataFrame,
        complete: np.ndarray,
        labels: np.ndarray,
        chain: Sequence[tuple[str, bool]] | None,
        sound: set[str],
    ) -> None:
        self._table, self._complete, self._labels = table, complete, labels
        self._score, self._proven = np.full(len(table), np.nan), np.zeros(len(table), dtype=bool)
        self._cost = table["cost"].to_numpy(float, copy=True)
        self._tokens = table["completion_tokens"].to_numpy(float, copy=True)
        self._prompt_cost = table["prompt_cost"].to_numpy(float, copy=True)
        self._prompt_tokens, self._reading_cost = np.zeros(len(table)), np.zeros(len(table))
        if chain is not None:
            self._judge(chain, sound)

    def _judge(self, chain: Sequence[tuple[str, bool]], sound: set[str]) -> None:
        """Take the score of the first verifier that judges a prompt; those that were asked before it are paid too."""
        columns = verdict_columns(self._table["verdicts"].tolist())
        prompt = np.unique(self._table["prompt_id"].tolist(), return_inverse=True)[1]
        waiting = np.ones(len(self._table), dtype=bool)
        for name, is_vote in chain:
            if is_vote:
                break
            if name not in columns:
                raise TableError(
                    f"the samples carry no scores of verifier {name!r}{nearest(name, columns)}: collect with it, or "
                    "make a plan of votes alone (verifier = null)"
                )
            told = columns[name]
            able = np.zeros(prompt.max() + 1, dtype=bool)
            able[prompt[~np.isnan(told.score)]] = True
            mine = waiting & able[prompt]
            self._score[mine] = told.score[mine]
            if name in sound:
                self._proven[mine] = told.score[mine] == 1.0
            for total, each in ((self._cost, told.cost), (self._tokens, told.tokens)):
                total[waiting] += each[waiting]
            for total, each in ((self._reading_cost, told.prompt_cost), (self._prompt_tokens, told.prompt_tokens)):
                total[waiting] += each[waiting]
            waiting &= ~mine

    def leg(self, leg: Leg) -> dict[str, np.ndarray]:
        """prompt_id -> the rows of its samples, for the prompts that have enough."""
        most = leg.stages[-1]
        mine = self._table["backend"].eq(leg.backend).to_numpy(bool)
        if not mine.any():
            known = set(self._table["backend"])
            raise TableError(f"legs: the log has no samples of {leg.backend!r}{nearest(leg.backend, known)}")
        wanted = {"temperature": leg.temperature, "top_p": leg.top_p, "max_tokens": leg.max_tokens}
        params = np.array(self._table["params"].tolist())
        fitting = [
            p for p in set(params[mine].tolist()) if all(msgspec.json.decode(p).get(n) == v for n, v in wanted.items())
        ]
        if not fitting:
            raise TableError(
                f"legs: {leg.backend!r} is to be drawn with {wanted}, the log's samples were with "
                f"{'; '.join(sorted(set(params[mine])))}. Give the leg those settings, or collect with the leg's"
            )
        mine = mine & (params == fitting[0])
        self._check(leg.backend, mine)
        rows = np.flatnonzero(mine)
        order = rows[np.argsort(self._table["sample_index"].to_numpy(int)[rows], kind="stable")]
        ids = np.array(self._table["prompt_id"].tolist())[order]
        number = np.unique(ids, return_inverse=True)[1]
        split = np.split(order[np.argsort(number, kind="stable")], np.cumsum(np.bincount(number))[:-1])
        held = {str(self._table["prompt_id"].iloc[part[0]]): part for part in split}
        enough = {i: part[:most] for i, part in held.items() if len(part) >= most}
        if not enough:
            deepest = max(map(len, held.values()))
            if deepest < 2 <= most:
                raise TableError(
                    f"legs: the log has one sample of {leg.backend!r} per prompt: a plan learns from what more samples "
                    "show. Collect several (samples = 16 in [collect])"
                )
            raise TableError(
                f"legs: stage {most} of {leg.backend!r} is missing in the log, which has at most {deepest} samples per "
                f"prompt: end its stages at {deepest}, or collect more"
            )
        return enough

    def _check(self, backend: str, mine: np.ndarray) -> None:
        prints = set(self._table["fingerprint"][mine])
        if len(prints) > 1:
            raise TableError(
                f"samples: backend {backend!r} has {len(prints)} fingerprints ({', '.join(sorted(prints))}): other "
                "weights or another template. Collect into a log per fingerprint"
            )
        if np.isnan(self._table["quality"].to_numpy(float)[mine]).any():
            raise TableError(f"samples: column 'quality' is null for samples of {backend!r}: grade them, collect again")
        tokens, cost = self._table["completion_tokens"].to_numpy(float)[mine], self._table["cost"].to_numpy(float)[mine]
        some = tokens > 0
        price = cost[some] / tokens[some]
        if some.any() and price.max() > price.min() * (1 + 1e-6) + 1e-15:
            raise TableError(
                f"samples: prices of {backend!r} contradict each other: a completion token costs between "
                f"{price.min():.6g} and {price.max():.6g}. Log at one price, or recompute the column 'cost'"
            )

    def samples(self, leg: Leg, rows: Mapping[str, np.ndarray], ids: Sequence[str]) -> Samples:
        """The samples of the prompts, in their order."""
        at = np.stack([rows[i] for i in ids])
        table = self._table

        def column(name: str) -> np.ndarray:
            return table[name].to_numpy(float, na_value=np.nan)[at]

        draws = Draws(
            complete=self._complete[at],
            label=self._labels[at],
            score=self._score[at],
            proven=self._proven[at],
            logprob=column("mean_logprob"),
            confidence=column("confidence"),
            tokens=column("completion_tokens"),
        )
        return Samples(
            draws=draws,
            quality=column("quality"),
            cost=self._cost[at],
            prompt_cost=self._prompt_cost[at].mean(axis=1),
            tokens=self._tokens[at],
            prompt_tokens=self._prompt_tokens[at].max(axis=1),
            reading_cost=self._reading_cost[at].max(axis=1),
        )
