"""Exact checks as a verifier: for prompts that themselves allow to prove a solution right."""

from collections.abc import Callable, Mapping, Sequence

from ..base import Prices, Request, Verdicts
from ..errors import ConfigError
from .checkers import CHECKERS


class ExactCheck:
    """Score 1 for a solution that a check proves right, 0 for one that it proves wrong.

    checkers : name -> check(prompt, solution): True, False, or None for a prompt of another kind. The first
               that
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

    async def score(self, request: Request, texts: Sequence[str], *, partial: bool = False) -> Verdicts:
        """Check each text."""
        if partial:
            return Verdicts((None,) * len(texts))
        return Verdicts(tuple(self._check(request.text, text) for text in texts), sound=True)

    def _check(self, prompt: str, text: str) -> float | None:
        for check in self.checkers.values():
            right = check(prompt, text)
            if right is not None:
                return float(right)
        return None
