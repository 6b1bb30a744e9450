"""One contract that every verifier keeps, and what is needed to check it.

    @pytest.mark.parametrize("check", VERIFIER_CONTRACT, ids=lambda c: c.__name__)
    def test_my_verifier(check):
        asyncio.run(check(VerifierSubject(MyVerifier(), questions=(("1 + 2?", (a, b)), ("3 + 4?", (c,))))))

Each check is a coroutine that raises AssertionError. The contract of strategies is in `testing.py`.
"""

import asyncio
import dataclasses
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from .base import Candidate, Prices, Request, Usage, Verdicts, Verifier
from .errors import VerifierError
from .running import judged, most_usage, reading_prices


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierSubject:
    """A verifier to be checked.

    questions : two requests or more, each with candidates that this verifier judges without failing.
    remembers : whether it may pay less for what it read before, so that usage does not repeat.
    tolerance : how much a score may differ between two calls (a model's rounding).
    """

    verifier: Verifier
    questions: Sequence[tuple[Request, Sequence[Candidate]]]
    remembers: bool = False
    tolerance: float = 1e-5

    async def score(self, place: int, *, partial: bool = False) -> Verdicts:
        """Have the candidates of a question judged, and what comes back checked as strategies check it."""
        request, candidates = self.questions[place]
        return await judged(self.verifier, Request(request.messages), candidates, partial=partial)


VerifierCheck = Callable[[VerifierSubject], Awaitable[None]]


async def it_says_what_it_is(subject: VerifierSubject) -> None:
    """It has a name, and says whether it is sound and what a token that it reads costs (None: it reads none)."""
    verifier = subject.verifier
    assert isinstance(verifier, Verifier)
    assert isinstance(verifier.name, str)
    assert verifier.name
    assert isinstance(verifier.sound, bool)
    assert hasattr(verifier, "prices"), "a verifier has `prices`: Prices, or None where it reads no tokens"
    assert isinstance(reading_prices(verifier), Prices | None)


async def it_cannot_be_handed_a_reference(subject: VerifierSubject) -> None:
    """What it is called with holds the request, the candidates and whether they are finished, and no more."""
    assert set(inspect.signature(subject.verifier.score).parameters) == {"request", "candidates", "partial"}
    asked = {f.name for kind in (Request, Candidate) for f in dataclasses.fields(kind)}
    assert not {name for name in asked if "reference" in name or "gold" in name}


async def every_candidate_has_one_score_in_order(subject: VerifierSubject) -> None:
    """As many scores as candidates, each in [0, 1] or None, and at least one candidate of each question is judged."""
    for place, (_, candidates) in enumerate(subject.questions):
        verdicts = await subject.score(place)
        assert len(verdicts.scores) == len(candidates)
        assert any(score is not None for score in verdicts.scores)
        assert isinstance(verdicts.note, str)


async def no_candidates_cost_nothing(subject: VerifierSubject) -> None:
    """An empty call is answered, without a call and without a token."""
    verdicts = await judged(subject.verifier, subject.questions[0][0], [])
    assert verdicts.scores == ()
    assert verdicts.usage == Usage()


async def its_usage_adds_up(subject: VerifierSubject) -> None:
    """What it reads and writes are verifier tokens, priced and counted in calls; `shared` is a part of it."""
    prices = reading_prices(subject.verifier)
    for place in range(len(subject.questions)):
        verdicts = await subject.score(place)
        usage = verdicts.usage
        assert usage.prompt_tokens == usage.completion_tokens == usage.cached_tokens == 0
        if prices is None:
            assert usage.verifier_tokens == 0
            assert usage.cost == 0
        else:
            dearest = max(prices.prompt, prices.completion, prices.cached or 0.0)
            assert usage.cost <= usage.verifier_tokens * dearest + 1e-9
            if min(prices.prompt, prices.completion) > 0 and usage.verifier_tokens:
                assert usage.cost > 0
        assert usage.calls >= 1 or usage.verifier_tokens == 0
        assert verdicts.shared.verifier_tokens <= usage.verifier_tokens
        assert verdicts.shared.cost <= usage.cost + 1e-9


async def its_own_bound_holds(subject: VerifierSubject) -> None:
    """Where it bounds what a call may take (`running.BoundsUsage`), no call takes more."""
    for place, (request, candidates) in enumerate(subject.questions):
        bound = most_usage(subject.verifier, request, candidates)
        if bound is not None:
            usage = (await subject.score(place)).usage
            assert usage.total_tokens <= bound.total_tokens
            assert usage.cost <= bound.cost + 1e-9


async def unfinished_texts_are_judged_or_left_unjudged(subject: VerifierSubject) -> None:
    """Texts that are said to be partial get scores or None, and no error other than VerifierError."""
    for place, (_, candidates) in enumerate(subject.questions):
        try:
            verdicts = await subject.score(place, partial=True)
        except VerifierError:
            continue
        assert len(verdicts.scores) == len(candidates)


async def the_same_candidates_have_the_same_scores(subject: VerifierSubject) -> None:
    """A second call says what the first one said."""
    first, second = await subject.score(0), await subject.score(0)
    _like(first, second, subject)
    assert subject.remembers or first.usage == second.usage


async def concurrent_calls_do_not_mix(subject: VerifierSubject) -> None:
    """Calls made at once, for several requests, give what they give one by one."""
    places = [i % len(subject.questions) for i in range(12)]
    alone = [await subject.score(place) for place in range(len(subject.questions))]
    for place, verdicts in zip(places, await asyncio.gather(*(subject.score(p) for p in places)), strict=True):
        _like(verdicts, alone[place], subject)


def _like(one: Verdicts, other: Verdicts, subject: VerifierSubject) -> None:
    assert len(one.scores) == len(other.scores)
    for a, b in zip(one.scores, other.scores, strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or abs(a - b) <= subject.tolerance


VERIFIER_CONTRACT: tuple[VerifierCheck, ...] = (
    it_says_what_it_is,
    it_cannot_be_handed_a_reference,
    every_candidate_has_one_score_in_order,
    no_candidates_cost_nothing,
    its_usage_adds_up,
    its_own_bound_holds,
    unfinished_texts_are_judged_or_left_unjudged,
    the_same_candidates_have_the_same_scores,
    concurrent_calls_do_not_mix,
)
"""What every verifier promises."""
