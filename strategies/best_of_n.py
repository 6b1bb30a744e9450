"""Best-of-N: draw several answers and keep the one that a verifier ranks first, alone or together with the votes."""

import warnings
from collections.abc import Callable

from .base import (
    Backend,
    Bindable,
    Budget,
    Candidate,
    Request,
    SamplingParams,
    StrategyResult,
    Trace,
    Verifier,
)
from .equivalence import Equivalence, Groups, get_equivalence
from .errors import ConfigError, nearest
from .naming import DEFAULT_VERIFIER
from .running import Run, best_of, demand_absolute, is_relative, with_verdict
from .selection import SELECTIONS, best_of_majority, weighted_best
from .spec import Parts, StrategyFields
from .stopping import Accepted, Fixed, StopRule, get_stop_rule
from .verifier_errors import PastTheOptimum, VerifierErrors
from .waves import Waves

DEFAULT_FREQUENT = 0.1
"""Share of the answers from which on best-of-majority takes an answer for frequent."""


def best_of_n_name(n: int, verifier: str) -> str:
    """Name the strategy: "best_of_8" with the default verifier, "vote_of_8" with another one."""
    return f"best_of_{n}" if verifier == DEFAULT_VERIFIER else f"{verifier}_of_{n}"


class BestOfN(Bindable):
    """Draw `n` answers in one batched call and keep the one the verifier ranks first.

    n           : most samples, >= 1.
    verifier    : judges the complete samples; ties, and samples that it does not judge, go by launch order.
    selection   : "best" = the highest score; "weighted" = the answer whose samples' scores have the largest sum;
                  "majority" = the highest score among the frequent answers; see `selection.py`.
    stop        : when to draw no more: "accept:0.9" = once a sample scores at least that, "accept" = 1, what a sound
                  verifier gives to what it has proved; "none" = draw all in one call; any StopRule or its name.
                  Samples are then drawn and judged wave by wave, and every wave is a call that reads the prompt again.
    equivalence : which answers count as one, for "weighted", "majority" and stop rules that count votes; see
                  `equivalence.get_equivalence`.
    frequent    : share of the answers from which on "majority" takes one for frequent, in [0, 1].
    errors      : the verifier's error rates, where they are known: an n past the optimum is then warned of when
                  built (PastTheOptimum), and told with every result.

    A sample that failed or is not complete never wins over a complete one, and what a sound verifier has proved wins
    whatever the selection. Where the verifier needs the samples'
    confidences (its `confidence_of`), they are asked for. Holds settings only: one instance may serve any number of
    requests at once.
    """

    def __init__(
        self,
        *,
        n: int,
        verifier: Verifier,
        selection: str = "best",
        stop: str | StopRule | None = None,
        equivalence: "str | Equivalence | Callable[[str, str], object]" = "canonical",
        frequent: float = DEFAULT_FREQUENT,
        errors: VerifierErrors | None = None,
        params: SamplingParams | None = None,
    ) -> None:
        if n < 1:
            raise ConfigError(f"n={n!r}: best-of-N draws at least 1 sample")
        if selection not in SELECTIONS:
            raise ConfigError(f"selection={selection!r} is not known{nearest(selection, SELECTIONS)}")
        if not 0 <= frequent <= 1:
            raise ConfigError(f"frequent={frequent!r}: a share of the answers lies in [0, 1]")
        self.n = n
        self.verifier = verifier
        self.selection, self.frequent = selection, frequent
        self.stop = get_stop_rule(stop)
        self.equivalence = get_equivalence(equivalence)
        self.errors = errors
        self.params = params or SamplingParams()
        if n > 1 and self.params.temperature == 0:
            raise ConfigError(f"temperature=0 would draw the same sample {n} times: set it above 0, or n=1")
        if not isinstance(self.stop, Fixed):
            demand_absolute(
                verifier,
                f"stop={self.stop.name!r} judges each wave alone",
                "stop='none', or for votes SelfConsistency with its stop rules",
            )
        self.past_optimum = errors.warning(n) if errors is not None else None
        if self.past_optimum is not None:
            warnings.warn(self.past_optimum, PastTheOptimum, stacklevel=2)

    def __repr__(self) -> str:
        return f"BestOfN(n={self.n}, verifier={self.verifier.name!r}, name={self.name!r}, params={self.params!r})"

    @property
    def name(self) -> str:
        """For instance "best_of_8", or "vote_of_8" with another verifier than the default one; what changes the
        choice shows: "best_of_8_weighted", "best_of_16_until_1.0".
        """
        parts = [best_of_n_name(self.n, self.verifier.name)]
        if self.selection != "best":
            parts.append(self.selection)
        if self.selection == "majority" and self.frequent != DEFAULT_FREQUENT:
            parts.append(f"{self.frequent:g}")
        if self._compares and self.equivalence.name != "canonical":
            parts.append(self.equivalence.name.replace(":", "_"))
        if not isinstance(self.stop, Fixed):
            parts.append(self.stop.name)
        return "_".join(parts)

    @property
    def _compares(self) -> bool:
        """Whether it counts who gives the same answer."""
        return self.selection != "best" or not isinstance(self.stop, (Fixed, Accepted))

    async def run(
        self, request: Request, backend: Backend, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> StrategyResult:
        """Draw, judge, choose.

        A budget too small for all is met before anything is drawn: by fewer samples, then by as many more as what
        those left holds (with a verifier that compares samples with each other: no more), and where not even one
        fits whole, by one shorter, unjudged sample. `stopped_because` says so. Raises InputError where the
        budget does not hold one token, BackendError where every sample failed, VerifierError where the
        verifier did.
        """
        run = Run(request, backend, budget, trace)
        params = self.params.but(
            confidence_of=max(self.params.confidence_of, getattr(self.verifier, "confidence_of", 0))
        )
        equivalence = self.equivalence if self._compares else None
        waves = Waves(
            run, params, self.n, self.stop, equivalence=equivalence, verifier=self.verifier,
            refills=not is_relative(self.verifier),
        )  # fmt: skip
        groups = await waves.groups()
        while more := waves.wanted(groups, (1.0,) * len(groups)):
            if not await waves.draw(more):
                break
            await self._judge(run, waves)
            groups = await waves.groups()
        reasons = [waves.stopped_because, *self._told(waves), *waves.notes]
        proven = any(c.proven for c in waves.candidates)
        best = best_of(waves.candidates) if proven else self._choose(waves.candidates, groups)
        return run.result(waves.candidates, best, "; ".join(reasons), params=params, waves=waves.waves, planned=self.n)

    async def _judge(self, run: Run, waves: Waves) -> None:
        """Have the complete samples of the last wave judged."""
        last = waves.waves[-1]
        fresh = [i for i, c in enumerate(waves.candidates) if waves.waves[i] == last and c.generation.complete]
        if not (fresh and waves.judges):
            return
        verdicts = await run.judge(self.verifier, [waves.candidates[i] for i in fresh])
        for place, i in enumerate(fresh):
            waves.candidates[i] = with_verdict(waves.candidates[i], self.verifier, verdicts, place)
        if verdicts.note and verdicts.note not in waves.notes:
            waves.notes.append(verdicts.note)

    def _told(self, waves: Waves) -> list[str]:
        told = []
        complete = [c for c in waves.candidates if c.generation.complete]
        if waves.judges and complete and all(c.score is None for c in complete):
            told.append(f"{self.verifier.name!r} judged none of them, so the first complete one was kept")
        if self.past_optimum is not None:
            told.append(self.past_optimum)
        return told

    def _choose(self, candidates: list[Candidate], groups: Groups) -> Candidate | None:
        if self.selection == "weighted":
            return weighted_best(candidates, groups)
        if self.selection == "majority":
            return best_of_majority(candidates, groups, frequent=self.frequent)
        return best_of(candidates)


class BestOfNSpec(StrategyFields, frozen=True, kw_only=True, tag="best_of_n"):
    """`n` samples and the name of the verifier that chooses; the default one is called "best".

    The other settings are those of BestOfN, by name.
    """

    n: int = 8
    verifier: str = DEFAULT_VERIFIER
    selection: str = "best"
    stop: str = "none"
    equivalence: str = "canonical"
    frequent: float = DEFAULT_FREQUENT
    errors: VerifierErrors | None = None

    def build(self, parts: Parts) -> BestOfN:
        """See StrategyFields."""
        return BestOfN(
            n=self.n,
            verifier=parts.verifier(self.verifier, asked_by="best-of-N"),
            selection=self.selection,
            stop=self.stop,
            equivalence=self.equivalence,
            frequent=self.frequent,
            errors=self.errors,
            params=self.params(parts.seed),
        )
