"""Agreement as a verifier: an answer is worth the share of the samples that give it (self-consistency)."""

from collections import Counter
from collections.abc import Sequence

from ..answers import canonical
from ..base import Candidate, Prices, Request, Verdicts
from ..running import answer_of
from ..spec import Parts, VerifierFields


class Vote:
    """Score each text by the share of texts whose answer is the same, in the sense of `answers.same`.

    Best-of-N with it is the majority vote: among equal shares the answer launched first wins. Partial
    solutions have no answer yet and are not judged. SelfConsistency knows other kinds of equivalence, weights and
    stop rules.
    """

    sound = False
    relative = True  # a share of the samples judged together: scores of two calls do not compare
    prices: Prices | None = None  # reads no tokens

    def __init__(self, *, name: str = "vote") -> None:
        self.name = name

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Count the votes."""
        if partial:
            return Verdicts((None,) * len(candidates))
        answers = [canonical(answer_of(c)) for c in candidates]
        votes = Counter(answers)
        return Verdicts(tuple(votes[answer] / len(answers) for answer in answers))


class VoteSpec(VerifierFields, frozen=True, kw_only=True, tag="vote"):
    """Agreement of the samples."""

    def open(self, name: str, parts: Parts) -> Vote:
        """See VerifierFields."""
        return Vote(name=name)
