"""A verifier made of several: the first that can judge a request does."""

import dataclasses
from collections.abc import Sequence

from ..base import Candidate, Prices, Request, Usage, Verdicts, Verifier
from ..errors import ConfigError
from ..running import most_usage
from ..spec import Parts, VerifierFields, demand


class FirstOf:
    """Hand texts to each verifier in turn, until one judges at least one of them.

    Its scores are taken whole, never mixed with another's: scores of two verifiers don't compare. `sound`
    only if all are; single verdicts say for themselves whether they prove anything.
    """

    def __init__(self, name: str, verifiers: Sequence[Verifier]) -> None:
        if not verifiers:
            raise ConfigError(f"verifier {name!r} is made of no verifier: name at least one")
        self.name = name
        self.verifiers = tuple(verifiers)
        self.sound = all(v.sound for v in self.verifiers)

    @property
    def prices(self) -> Prices | None:
        """The dearest of the members' prices, as any of them may judge; None if none reads tokens."""
        known = [p for v in self.verifiers if (p := getattr(v, "prices", None)) is not None]
        if not known:
            return None
        return Prices(prompt=max(p.prompt for p in known), completion=max(p.completion for p in known))

    @property
    def confidence_of(self) -> int:
        """What samples must be drawn with for the most demanding member (see SamplingParams)."""
        return max(getattr(v, "confidence_of", 0) for v in self.verifiers)

    def most_usage(self, request: Request, candidates: Sequence[Candidate]) -> Usage | None:
        """Bound what judging may take by the bounds of all members; None where no member gives one."""
        bounds = [m for v in self.verifiers if (m := most_usage(v, request, candidates)) is not None]
        return sum(bounds, Usage()) if bounds else None

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Have the candidates judged by the first verifier that can; nobody's verdict is None for each."""
        spent = Usage()
        for verifier in self.verifiers:
            verdicts = await verifier.score(request, candidates, partial=partial)
            spent += verdicts.usage
            if any(score is not None for score in verdicts.scores):
                sound = verifier.sound or verdicts.sound
                return dataclasses.replace(verdicts, usage=spent, shared=Usage(), sound=sound)
        return Verdicts((None,) * len(candidates), spent)


class FirstOfSpec(VerifierFields, frozen=True, kw_only=True, tag="first_of"):
    """Other verifiers by name; the first that can judge a request does."""

    verifiers: tuple[str, ...]

    def __post_init__(self) -> None:
        demand(len(self.verifiers) > 0, "verifiers is empty: name at least one verifier")

    @property
    def needs_verifiers(self) -> tuple[str, ...]:
        """See VerifierFields."""
        return self.verifiers

    def open(self, name: str, parts: Parts) -> FirstOf:
        """See VerifierFields."""
        return FirstOf(name, [parts.verifier(v, asked_by=f"verifier {name!r}") for v in self.verifiers])
