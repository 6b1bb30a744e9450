"""Best-of-N: draw several answers in one batch and keep the one that a verifier ranks first."""

from collections.abc import Sequence

from .base import (
    Backend,
    Bindable,
    Budget,
    Candidate,
    Prefix,
    Request,
    SamplingParams,
    StrategyResult,
    Trace,
    Verifier,
)
from .errors import ConfigError
from .running import Call, Run, best_of, candidate, most_tokens, with_verdict
from .spec import Parts, StrategyFields

DEFAULT_VERIFIER = "best"
"""A verifier of this name is the default one: it does not show in a strategy's name."""


def best_of_n_name(n: int, verifier: str) -> str:
    """Name the strategy: "best_of_8" with the default verifier, "vote_of_8" with another one."""
    return f"best_of_{n}" if verifier == DEFAULT_VERIFIER else f"{verifier}_of_{n}"


class BestOfN(Bindable):
    """Draw `n` answers in one batched call and keep the one the verifier ranks first.

    n        : >= 1.
    verifier : judges the complete samples; ties, and samples that it does not judge, go by launch order.

    A sample that failed or is not complete never wins over a complete one. Holds settings only: one instance
    may serve any number of requests at once.
    """

    def __init__(self, *, n: int, verifier: Verifier, params: SamplingParams | None = None) -> None:
        if n < 1:
            raise ConfigError(f"n={n!r}: best-of-N draws at least 1 sample")
        self.n = n
        self.verifier = verifier
        self.params = params or SamplingParams()
        if n > 1 and self.params.temperature == 0:
            raise ConfigError(f"temperature=0 would draw the same sample {n} times: set it above 0, or n=1")

    def __repr__(self) -> str:
        return f"BestOfN(n={self.n}, verifier={self.verifier.name!r}, params={self.params!r})"

    @property
    def name(self) -> str:
        """For instance "best_of_8", or "vote_of_8" with another verifier than the default one."""
        return best_of_n_name(self.n, self.verifier.name)

    async def run(
        self, request: Request, backend: Backend, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> StrategyResult:
        """Draw, judge, choose.

        A budget too small for all is met before anything is drawn: by fewer samples, and where not even one
        fits whole, by one shorter, unjudged sample. `stopped_because` says so. Raises InputError where the
        budget does not hold one token, BackendError where every sample failed, VerifierError where the
        verifier did.
        """
        run = Run(request, backend, budget, trace)
        prefix = Prefix(request.messages)
        n, max_tokens, judge = self._affordable(run, prefix)
        [[generations]] = await run.draw([Call([prefix], n, self.params.but(max_tokens=max_tokens))])
        candidates = [candidate(g) for g in generations]
        complete = [i for i, c in enumerate(candidates) if c.generation.complete]
        reason = self._why(run, n, max_tokens, judge, candidates)
        if judge and complete:
            verdicts = await run.judge(self.verifier, [candidates[i] for i in complete])
            for place, i in enumerate(complete):
                candidates[i] = with_verdict(candidates[i], verdicts, place)
            if all(score is None for score in verdicts.scores):
                reason += f"; {self.verifier.name!r} judged none of them, so the first complete one was kept"
        return run.result(candidates, best_of(candidates), reason, params=self.params, planned=self.n)

    def _affordable(self, run: Run, prefix: Prefix) -> tuple[int, int, bool]:
        """Find how many samples, of how many tokens, the budget holds, and whether they can be judged."""
        prompt, most = most_tokens(run.backend, prefix), self.params.max_tokens
        for n in range(self.n, 0, -1):
            read = n * (prompt + most + 2)  # a reader may add a token at either end
            if run.allows(prompt=prompt, completion=n * most, judged=read, verifier=self.verifier):
                return n, most, True
        return 1, run.at_least_one(prefix, most), False

    def _why(self, run: Run, n: int, max_tokens: int, judge: bool, candidates: Sequence[Candidate]) -> str:
        if run.out_of_time:
            ended = sum(c.generation.finish_reason != "cancelled" for c in candidates)
            return f"{run.budget_words} was spent when {ended} of {n} samples had ended"
        if not judge:
            return f"{run.budget_words} holds one sample of at most {max_tokens} tokens, not judged"
        if n < self.n:
            return f"{run.budget_words} holds {n} of {self.n} samples"
        return f"drew all {n} samples" if n > 1 else "drew 1 sample"


class BestOfNSpec(StrategyFields, frozen=True, kw_only=True, tag="best_of_n"):
    """`n` samples and the name of the verifier that chooses; the default one is called "best"."""

    n: int = 8
    verifier: str = DEFAULT_VERIFIER

    def build(self, parts: Parts) -> BestOfN:
        """See StrategyFields."""
        verifier = parts.verifier(self.verifier, asked_by="best-of-N")
        return BestOfN(n=self.n, verifier=verifier, params=self.params(parts.seed))
