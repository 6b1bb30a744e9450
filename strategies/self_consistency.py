"""Self-consistency: draw several answers and take the one that most of them give.

Wang et al. 2022 (2203.11171), with what came after: votes by equivalence instead of by exact strings, stop rules that
save most of the samples where the first ones agree, weights by the model's own confidence, and DeepConf's online stop.
"""

import asyncio
import dataclasses
import math
from collections.abc import Callable

from .base import (
    Backend,
    Bindable,
    Budget,
    Candidate,
    Generation,
    Request,
    Sample,
    SamplingParams,
    StrategyResult,
    Trace,
)
from .confidence import ByConfidence, RunningLowest, Weighting, get_weighting, most_confident
from .equivalence import Equivalence, Groups, get_equivalence
from .errors import ConfigError
from .running import Run, best_of
from .selection import voted
from .spec import Parts, StrategyFields
from .stopping import Accepted, Exact, Fixed, StopRule, Tally, get_stop_rule
from .waves import Waves


class SelfConsistency(Bindable):
    """Draw up to `n` answers and return the one with the most votes.

    n           : most samples, >= 1.
    equivalence : which answers count as one: a name ("canonical", "math", "numeric:0.01", ...), a function
                  (a, b) -> bool, or an Equivalence; see `equivalence.get_equivalence`.
    stop        : when to draw no more: a name ("beta:0.95", "esc:5", "exact", "none" = draw all in one call), or a
                  StopRule; see `stopping.get_stop_rule`.
    weights     : what a vote weighs: None = 1, a name ("logprob", "self_certainty", "confidence:tail,keep=0.9"), or a
                  Weighting; see `confidence.get_weighting`.
    online      : DeepConf's: `warmup` samples set a bar, the lowest group of the least confident of them that is kept;
                  a later stream is cancelled once its lowest group falls below it, and only samples at or above it
                  vote. Needs weights="confidence,keep=...". Each later sample is a call of its own. How far a stopped
                  stream came depends on the moment, so a seeded run repeats its votes, not its usage.

    The winner is the answer of the most weight; ties go to the answer with the higher mean log-probability, where the
    backend gives them, then to the one launched first (`selection.elect`). The text is that of its first sample.
    Samples that failed, or are not complete, abstain. `score` of a candidate is its
    answer's share of all weight. A stop rule draws in waves; each wave is a call that reads the prompt again, which
    the usage counts. Holds settings only: one instance may serve any number of requests at once.
    """

    def __init__(
        self,
        n: int = 16,
        *,
        equivalence: "str | Equivalence | Callable[[str, str], object]" = "canonical",
        stop: str | StopRule | None = None,
        weights: str | Weighting | None = None,
        online: bool = False,
        warmup: int = 16,
        params: SamplingParams | None = None,
    ) -> None:
        if n < 1:
            raise ConfigError(f"n={n!r}: self-consistency draws at least 1 sample")
        self.n = n
        self.equivalence = get_equivalence(equivalence)
        self.stop = get_stop_rule(stop)
        self.weighting = get_weighting(weights)
        self.online, self.warmup = online, warmup
        self.params = params or SamplingParams()
        if n > 1 and self.params.temperature == 0:
            raise ConfigError(f"temperature=0 would draw the same sample {n} times: set it above 0, or n=1")
        self._check_stop()
        if online:
            self._check_online()

    def _check_stop(self) -> None:
        if isinstance(self.stop, Accepted):
            raise ConfigError("stop='accept' waits for a verifier's score, and a vote has none: take best-of-N")
        if isinstance(self.stop, Exact):
            largest = self.weighting.largest
            if largest is None:
                raise ConfigError(
                    f"stop='exact' needs to know the most that a vote can weigh, and weights={self.weighting.name!r} "
                    "have no such bound: take stop='beta', or weights='logprob'"
                )
            if self.stop.largest < largest:
                raise ConfigError(f"stop: largest={self.stop.largest!r}, but a vote may weigh {largest:g}: give that")

    def _check_online(self) -> None:
        weighting = self.weighting
        if not isinstance(weighting, ByConfidence) or weighting.measure != "lowest" or weighting.keep is None:
            raise ConfigError(
                f"online=True with weights={weighting.name or None!r}: streams are stopped by their lowest group, so "
                "it needs weights='confidence,keep=0.1' (or another share)"
            )
        if not 2 <= self.warmup < self.n:
            raise ConfigError(f"warmup={self.warmup!r}: at least 2 samples set the bar, and fewer than n={self.n}")

    def __repr__(self) -> str:
        return f"SelfConsistency({self.name!r}, params={self.params!r})"

    @property
    def name(self) -> str:
        """For instance "sc_32", "sc_32_beta", "sc_16_math_logprob"; settings that are not the usual ones show."""
        equivalence = "" if self.equivalence.name == "canonical" else self.equivalence.name.replace(":", "_")
        online = "" if not self.online else "online" if self.warmup == 16 else f"online_{self.warmup}"
        stop = "" if isinstance(self.stop, Fixed) else self.stop.name
        return "_".join(part for part in ("sc", str(self.n), equivalence, self.weighting.name, online, stop) if part)

    async def run(
        self, request: Request, backend: Backend, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> StrategyResult:
        """Draw in waves, vote, and stop where the rule says so.

        A budget too small for a wave is met before it is drawn: by fewer samples, and where not even one fits, by
        the vote of those so far. `stopped_because` says so. Raises InputError where the budget does not hold one
        token, BackendError where every sample failed, ConfigError where the backend's samples lack what `weights`
        needs, or what `equivalence` needs is not installed.
        """
        run = Run(request, backend, budget, trace)
        params = self.weighting.asking(self.params)
        waves = Waves(run, params, self.n, self.stop, equivalence=self.equivalence)
        online = _Online(self, waves) if self.online else None
        groups = await waves.groups()
        weights: tuple[float, ...] = ()
        while more := waves.wanted(groups, weights):
            if online is None:
                drawn = await waves.draw(more)
            else:
                drawn = await online.draw(more)
            if not drawn:
                break
            groups = await waves.groups()
            weights = self._weights(waves.candidates, groups, None if online is None else online.bar)
        reason = "; ".join([waves.stopped_because, *self._told(groups, weights, online), *waves.notes])
        candidates = _with_shares(waves.candidates, groups, weights)
        best = voted(candidates, groups, weights) or best_of(candidates)
        return run.result(candidates, best, reason, params=params, waves=waves.waves, planned=self.n)

    def _weights(self, candidates: list[Candidate], groups: Groups, bar: float | None) -> tuple[float, ...]:
        """Weigh every candidate; those without an answer weigh nothing."""
        voters = [i for i, group in enumerate(groups) if group is not None]
        samples = [candidates[i].generation for i in voters]
        if bar is None:
            own = self.weighting.weights(samples)
        else:
            assert isinstance(self.weighting, ByConfidence)
            own = tuple(c if c >= bar else 0.0 for c in self.weighting.confidences(samples))
        weights = [0.0] * len(candidates)
        for i, weight in zip(voters, own, strict=True):
            weights[i] = weight
        return tuple(weights)

    def _told(self, groups: Groups, weights: tuple[float, ...], online: "_Online | None") -> list[str]:
        tally = Tally.of(groups, weights)
        told = []
        if tally.leader is not None and self.n > 1:
            told.append(f"the leading answer has {tally.counts[tally.leader]} of {sum(tally.counts)} votes")
        if online is not None:
            told.append(online.told())
        return told


class _Online:
    """DeepConf's online stop in one run.

    bar : lowest group of the least confident warm-up sample that is kept; None before, or where none is complete.
    """

    def __init__(self, strategy: SelfConsistency, waves: Waves) -> None:
        assert isinstance(strategy.weighting, ByConfidence)
        self.bar: float | None = None
        self._weighting, self._warmup, self._waves = strategy.weighting, strategy.warmup, waves
        self._stopped = 0
        self._silent = 0  # streams that ended without having told a confidence

    async def draw(self, more: int) -> list[Candidate]:
        """Draw the warm-up in one call, and what comes later as streams that are watched."""
        drawn = len(self._waves.candidates)
        if drawn < self._warmup:
            fresh = await self._waves.draw(self._warmup - drawn)
            self._set_bar()
            return fresh
        if self.bar is None:
            return await self._waves.draw(more)
        return await self._waves.draw(more, self._streamed, apart=True)

    def _set_bar(self) -> None:
        if len(self._waves.candidates) < self._warmup:
            return
        complete = [c.generation for c in self._waves.candidates if c.generation.complete]
        values = self._weighting.confidences(complete)
        assert self._weighting.keep is not None
        kept = most_confident(values, self._weighting.keep)
        self.bar = values[kept[-1]] if kept else None

    async def _streamed(self, n: int, params: SamplingParams) -> list[Generation]:
        run, drawn = self._waves.run, len(self._waves.candidates)
        seed = None if params.seed is None else params.seed + drawn
        batch = run.backend.generate([self._waves.prefix], n=n, params=params.but(seed=seed), apart=True)
        streams = [_Stream(sample, self._weighting.window) for sample in batch.samples[0]]
        watching = [asyncio.ensure_future(stream.watch(self.bar or 0.0)) for stream in streams]
        try:
            [[generations]] = await run.collect([batch])
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
        for stream, generation in zip(streams, generations, strict=True):
            self._stopped += stream.stopped and generation.finish_reason == "cancelled"
            self._silent += not stream.told and generation.finish_reason == "stop"
        return generations

    def told(self) -> str:
        """What became of the streams."""
        if self.bar is None:
            return "no bar was set, so no stream was stopped"
        streams = len(self._waves.candidates) - self._warmup
        words = f"{self._stopped} of {streams} streams fell below the bar of {self.bar:.4g} and were stopped"
        if self._silent:
            words += f"; {self._silent} told no confidence while they ran"
        return words


class _Stream:
    """One sample under way, watched."""

    def __init__(self, sample: Sample, window: int) -> None:
        self.stopped = self.told = False
        self._sample, self._lowest = sample, RunningLowest(window)

    async def watch(self, bar: float) -> None:
        """Cancel the sample once its lowest group is below the bar."""
        async for delta in self._sample:
            for confidence in delta.confidences:
                self.told = True
                self._lowest.add(confidence)
            if self._lowest.lowest < bar and not self._sample.done:
                self.stopped = True
                self._sample.cancel()
                return


def _with_shares(candidates: list[Candidate], groups: Groups, weights: tuple[float, ...]) -> list[Candidate]:
    tally = Tally.of(groups, weights)
    total = math.fsum(tally.weights)
    if total <= 0:
        return candidates
    return [
        c if group is None else dataclasses.replace(c, score=min(1.0, tally.weights[group] / total))
        for c, group in zip(candidates, groups, strict=True)
    ]


class SelfConsistencySpec(StrategyFields, frozen=True, kw_only=True, tag="self_consistency"):
    """The settings of SelfConsistency, by name; a function of one's own cannot stand in a configuration."""

    n: int = 16
    equivalence: str = "canonical"
    stop: str = "none"
    weights: str | None = None
    online: bool = False
    warmup: int = 16

    def build(self, parts: Parts) -> SelfConsistency:
        """See StrategyFields."""
        return SelfConsistency(
            self.n,
            equivalence=self.equivalence,
            stop=self.stop,
            weights=self.weights,
            online=self.online,
            warmup=self.warmup,
            params=self.params(parts.seed),
        )
