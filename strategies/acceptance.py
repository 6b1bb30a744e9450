"""When a stage's answer is good enough to stop at: the rules of a cascade.

    get_acceptance("agreement >= 0.8")           so large a share of the stage's samples gives its answer
    get_acceptance("agreement of math >= 0.8")   the same, by another equivalence of answers
    get_acceptance("score >= 0.7")               the stage's own verifier scored its answer so high
    get_acceptance("score of prm >= 0.7")        a verifier that the stage does not use does
    get_acceptance("logprob >= -0.3")            the model was so sure of it: mean log-probability per token

Nothing here runs stages; that is done in `cascade.py`.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from .base import Candidate, Prefix, Strategy, StrategyResult, Verifier
from .equivalence import Equivalence, get_equivalence
from .errors import ConfigError
from .running import Run, demand_absolute, most_tokens, with_verdict
from .single import SinglePass

RULES = ("agreement", "score", "logprob")


@dataclass(frozen=True, slots=True)
class Weighed:
    """Whether an answer was accepted, why in words, and the candidate with whatever the rule learned about it."""

    yes: bool
    words: str
    candidate: Candidate


class Acceptance(Protocol):
    """Says whether a stage's answer is good enough. Holds settings only.

    name : short and stable, part of the cascade's name.
    """

    @property
    def name(self) -> str:
        """For instance "agreement_0.8"."""
        ...

    def check(self, strategy: Strategy) -> None:
        """Raise ConfigError for a strategy whose answers the rule can never accept."""
        ...

    async def weigh(self, run: Run, result: StrategyResult, chosen: Candidate, backend: str) -> Weighed:
        """Weigh what a stage came to. `chosen` is complete; `run` judges within the budget and keeps the books."""
        ...


class Agreement:
    """Accept an answer that at least `share` of the stage's samples give (Yue et al. 2023, 2310.03094).

    share       : in (0, 1]. Samples that failed or are not complete count among those that disagree.
    equivalence : which answers count as one; see `equivalence.get_equivalence`.

    One sample agrees with nothing: it is never accepted.
    """

    def __init__(
        self, share: float = 0.8, *, equivalence: "str | Equivalence | Callable[[str, str], object]" = "canonical"
    ) -> None:
        if not 0 < share <= 1:
            raise ConfigError(f"agreement >= {share!r}: the share of samples that agree lies in (0, 1]")
        self.share = share
        self.equivalence = get_equivalence(equivalence)

    def __repr__(self) -> str:
        return f"Agreement({self.share:g}, equivalence={self.equivalence.name!r})"

    @property
    def name(self) -> str:
        """For instance "agreement_0.8", or "agreement_of_math_0.8"."""
        of = "" if self.equivalence.name == "canonical" else f"_of_{self.equivalence.name.replace(':', '_')}"
        return f"agreement{of}_{self.share:g}"

    def check(self, strategy: Strategy) -> None:
        """See Acceptance."""
        if isinstance(strategy, SinglePass) or getattr(strategy, "n", None) == 1:
            raise ConfigError(
                f"accept by agreement needs several samples, and {strategy.name!r} draws one: take a strategy with n "
                "samples, or accept by score or logprob"
            )

    async def weigh(self, run: Run, result: StrategyResult, chosen: Candidate, backend: str) -> Weighed:
        """See Acceptance."""
        drawn = result.candidates
        if len(drawn) < 2:
            return Weighed(False, "one sample agrees with nothing", chosen)
        answers = [chosen.answer, *(c.answer for c in drawn)]
        if self.equivalence.whole_text:
            answers = [chosen.text, *(c.text if c.generation.complete else None for c in drawn)]
        own, *groups = await self.equivalence.groups(answers)
        agree = sum(group == own for group in groups if group is not None)
        yes = agree / len(drawn) >= self.share - 1e-12
        return Weighed(yes, f"{agree} of {len(drawn)} agree, {_bar(yes)} {self.share:g}", chosen)


class VerifierScore:
    """Accept an answer that a verifier scores at least `threshold`.

    threshold : in (0, 1].
    verifier  : judges the stage's answer; None = the stage's own verifier has done so.
    """

    def __init__(self, threshold: float, *, verifier: Verifier | None = None) -> None:
        if not 0 < threshold <= 1:
            raise ConfigError(f"score >= {threshold!r}: a score that is good enough lies in (0, 1]")
        if verifier is not None:
            demand_absolute(verifier, "a stage's answer is judged alone", "another one, or accept by agreement")
        self.threshold = threshold
        self.verifier = verifier

    def __repr__(self) -> str:
        by = "" if self.verifier is None else f", verifier={self.verifier.name!r}"
        return f"VerifierScore({self.threshold:g}{by})"

    @property
    def name(self) -> str:
        """For instance "score_0.7", or "score_of_prm_0.7"."""
        return f"score{'' if self.verifier is None else f'_of_{self.verifier.name}'}_{self.threshold:g}"

    def check(self, strategy: Strategy) -> None:
        """See Acceptance."""
        if self.verifier is None and isinstance(strategy, SinglePass):
            raise ConfigError(
                f"accept by score needs a verifier, and {strategy.name!r} has none: name one, as in "
                "'score of best >= 0.7', or take a strategy with a verifier"
            )

    async def weigh(self, run: Run, result: StrategyResult, chosen: Candidate, backend: str) -> Weighed:
        """See Acceptance."""
        if self.verifier is not None:
            whole = Prefix(run.request.messages, chosen.text)
            read = most_tokens(run.backend, whole) + 2  # a reader may add a token at either end
            if not run.allows(prompt=0, completion=0, judged=read, verifier=self.verifier):
                return Weighed(False, f"{run.budget_words} does not hold {self.verifier.name!r}'s reading it", chosen)
            verdicts = await run.judge(self.verifier, [chosen])
            score = verdicts.scores[0]
            own = with_verdict(chosen, self.verifier, verdicts, 0)
            chosen = own if chosen.score is None else replace(chosen, proven=chosen.proven or own.proven)
        else:
            score = chosen.score
        if score is None:
            judge = "no verifier" if self.verifier is None else f"not even {self.verifier.name!r}"
            return Weighed(False, f"{judge} scored its answer", chosen)
        yes = score >= self.threshold
        return Weighed(yes, f"score {score:.3g}, {_bar(yes)} {self.threshold:g}", chosen)


class MeanLogprob:
    """Accept an answer whose tokens have at least this mean natural log-probability.

    threshold : finite, <= 0.

    The mean and not the sum, which punishes long answers: "Chow-Average" of Gupta et al. 2024 (2404.10136).
    Raises ConfigError where the backend sends no log-probabilities.
    """

    def __init__(self, threshold: float) -> None:
        if not (math.isfinite(threshold) and threshold <= 0):
            raise ConfigError(f"logprob >= {threshold!r}: a mean log-probability is a finite number <= 0")
        self.threshold = threshold

    def __repr__(self) -> str:
        return f"MeanLogprob({self.threshold:g})"

    @property
    def name(self) -> str:
        """For instance "logprob_-0.3"."""
        return f"logprob_{self.threshold:g}"

    def check(self, strategy: Strategy) -> None:
        """See Acceptance."""
        params = getattr(strategy, "params", None)
        if params is not None and not params.logprobs:
            raise ConfigError(f"accept by logprob needs log-probabilities: let {strategy.name!r} ask for logprobs")

    async def weigh(self, run: Run, result: StrategyResult, chosen: Candidate, backend: str) -> Weighed:
        """See Acceptance."""
        mean = chosen.generation.mean_logprob
        if mean is None:
            raise ConfigError(
                f"accept by logprob needs log-probabilities, and backend {backend!r} sent none: accept by agreement or "
                "score, or use a backend that sends them"
            )
        yes = mean >= self.threshold
        return Weighed(yes, f"mean log-probability {mean:.3g}, {_bar(yes)} {self.threshold:g}", chosen)


def _bar(yes: bool) -> str:
    return "not below" if yes else "below"


_RULE = re.compile(r"\s*([a-z]+)(?:\s+of\s+(\S+))?\s*>=\s*(\S+)\s*")


def get_acceptance(words: str, *, verifier: Callable[[str], Verifier] | None = None) -> Acceptance:
    """Read a rule, as the head of this module shows.

    verifier : finds the one of a name; None = a rule that names one is refused.
    Raises ConfigError for an unknown rule or a bar out of range.
    """
    match = _RULE.fullmatch(words)
    if match is None or match[1] not in RULES:
        raise ConfigError(f"accept={words!r}: write 'agreement >= 0.8', 'score >= 0.7' or 'logprob >= -0.3'")
    try:
        bar = float(match[3])
    except ValueError:
        raise ConfigError(f"accept={words!r}: {match[3]!r} is no number") from None
    kind, of = match[1], match[2]
    if kind == "agreement":
        return Agreement(bar, equivalence=of or "canonical")
    if kind == "logprob":
        if of is not None:
            raise ConfigError(f"accept={words!r}: a log-probability is of nothing but the answer: 'logprob >= {bar:g}'")
        return MeanLogprob(bar)
    if of is None:
        return VerifierScore(bar)
    if verifier is None:
        raise ConfigError(f"accept={words!r} names a verifier: give VerifierScore({bar:g}, verifier=...) instead")
    return VerifierScore(bar, verifier=verifier(of))
