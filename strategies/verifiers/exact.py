"""Exact checks as a verifier: for prompts that themselves allow to prove a solution right."""

from collections.abc import Callable, Mapping, Sequence

from ..base import Candidate, Prices, Request, Verdicts
from ..errors import ConfigError
from ..spec import Parts, VerifierFields
from .checkers import CHECKERS


class ExactCheck:
    """Score 1 for a solution that a check proves right, 0 for one that it proves wrong.

    checkers : name -> check(prompt, solution): True, False, or None for a prompt of another kind. The first that
               knows the prompt judges.

    Prompts of no known kind, and partial solutions, are not judged.
    """

    sound = True
    prices: Prices | None = None  # reads no tokens

    def __init__(
        self, checkers: Mapping[str, Callable[[str, str], bool | None]] = CHECKERS, *, name: str = "check"
    ) -> None:
        if not checkers:
            raise ConfigError("checkers is empty: an exact check needs at least one")
        self.name = name
        self.checkers = dict(checkers)

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Check each candidate."""
        if partial:
            return Verdicts((None,) * len(candidates))
        return Verdicts(tuple(self._check(request.text, c.text) for c in candidates), sound=True)

    def _check(self, prompt: str, text: str) -> float | None:
        for check in self.checkers.values():
            right = check(prompt, text)
            if right is not None:
                return float(right)
        return None


class ExactCheckSpec(VerifierFields, frozen=True, kw_only=True, tag="exact_check"):
    """The exact checks that ship: Countdown, path in a graph."""

    def open(self, name: str, parts: Parts) -> ExactCheck:
        """See VerifierFields."""
        return ExactCheck(name=name)
