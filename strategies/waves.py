"""Draw the samples of one run in waves, within its budget: what votes and best-of-N have in common.

How large a wave is, and whether there is another, is said by a stop rule (`stopping.py`); what becomes of the samples
by the strategy.
"""

import dataclasses
from collections.abc import Awaitable, Callable

from .base import Candidate, Generation, Prefix, SamplingParams, Verifier
from .equivalence import Canonical, Equivalence, Groups
from .running import Run, candidate, most_tokens
from .stopping import Fixed, Seen, StopRule

Draw = Callable[[int, SamplingParams], Awaitable[list[Generation]]]


class Waves:
    """The samples of one run so far, in launch order, and why no more are drawn. One per run, never shared.

    candidates : all samples, failed and cancelled ones included.    waves : of each, which wave it came from.
    notes      : sentences that the result must tell.
    judges     : False where the budget holds one short sample only, and nothing to judge it with.
    """

    def __init__(
        self,
        run: Run,
        params: SamplingParams,
        planned: int,
        rule: StopRule,
        *,
        equivalence: Equivalence | None = None,
        verifier: Verifier | None = None,
        refills: bool = True,
    ) -> None:
        """Set out to draw `planned` samples.

        equivalence : None where answers are not compared.   verifier : None where nothing is read afterwards.
        refills : where the budget holds fewer samples, each taken at its longest, draw again with what they left.
        """
        self.run, self.params, self.planned, self.rule = run, params, planned, rule
        self.prefix = Prefix(run.request.messages)
        self.candidates: list[Candidate] = []
        self.waves: list[int] = []
        self.notes: list[str] = []
        self.judges = True
        self._equivalence, self._verifier, self._refills = equivalence, verifier, refills
        self._ended = ""  # why nothing more is drawn
        self._max_tokens = params.max_tokens

    async def groups(self) -> Groups:
        """Sort the answers so far; those of no use have None.

        Where the run's time is over while they are compared, by their canonical forms.
        """
        if self._equivalence is None:
            return (None,) * len(self.candidates)
        answers = [c.answer for c in self.candidates]
        try:
            async with self.run.in_time():
                return await self._equivalence.groups(answers, tell=self._tell)
        except TimeoutError:
            self._ended = self._ended or f"{self.run.budget_words} was spent while answers were compared"
            self._tell("answers were compared by their canonical forms")
            return await Canonical().groups(answers)

    def _tell(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def wanted(self, groups: Groups, weights: tuple[float, ...]) -> int:
        """Ask the rule how many more to draw; 0 where it, the budget or a wave that failed whole ends the run."""
        drawn = len(self.candidates)
        if self._ended or drawn >= self.planned:
            return 0
        seen = Seen(
            request=self.run.request,
            candidates=tuple(self.candidates),
            groups=groups,
            weights=weights,
            planned=self.planned,
            usage=self.run.meter.usage,
            seconds=self.run.meter.seconds,
        )
        asked = min(self.rule.more(seen), self.planned - drawn)
        return max(asked, 0 if drawn else 1)

    async def draw(self, n: int, how: Draw | None = None, *, apart: bool = False) -> list[Candidate]:
        """Draw up to n more, as many as the budget holds; [] where it holds none.

        A first wave of which not even one sample fits whole is one shorter, unjudged sample.
        how : draws so many generations with these settings; None = in one call. apart : it takes a call for each.
        Raises InputError where the budget does not hold the first token.
        """
        run, drawn = self.run, len(self.candidates)
        fits = self._fitting(n, apart=apart)
        if not fits:
            if drawn:
                self._ended = f"{run.budget_words} holds {drawn} of {self.planned} samples"
                return []
            fits, self.judges = 1, False
            self._max_tokens = run.at_least_one(self.prefix, self.params.max_tokens)
            judged = ", not judged" if self._verifier is not None else ""
            self._ended = f"{run.budget_words} holds one sample of at most {self._max_tokens} tokens{judged}"
        elif fits < n == self.planned - drawn and not self._refills:
            self._ended = f"{run.budget_words} holds {drawn + fits} of {self.planned} samples"
        params = self.params.but(max_tokens=self._max_tokens)
        if how is None:
            generations = await run.wave(self.prefix, fits, params, drawn=drawn)
        else:
            generations = await how(fits, params)
        fresh = [self._read(g) for g in generations]
        self.waves += [self.waves[-1] + 1 if self.waves else 0] * len(fresh)
        self.candidates += fresh
        if run.out_of_time:
            ended = sum(c.generation.finish_reason != "cancelled" for c in self.candidates)
            self._ended = f"{run.budget_words} was spent when {ended} of {len(self.candidates)} samples had ended"
        elif all(g.finish_reason == "error" for g in generations) and len(self.candidates) < self.planned:
            self._ended = f"gave up after {len(self.candidates)} of {self.planned} samples: a whole wave failed"
        return fresh

    def _fitting(self, n: int, *, apart: bool) -> int:
        prompt, most = most_tokens(self.run.backend, self.prefix), self.params.max_tokens
        for k in range(n, 0, -1):
            read = k * (prompt + most + 2)  # a reader may add a token at either end
            prompts = k * prompt if apart else prompt
            if self.run.allows(prompt=prompts, completion=k * most, judged=read, verifier=self._verifier):
                return k
        return 0

    def _read(self, generation: Generation) -> Candidate:
        read = candidate(generation)
        if self._equivalence is not None and self._equivalence.whole_text and read.answer is not None:
            return dataclasses.replace(read, answer=read.text.strip())
        return read

    @property
    def stopped_because(self) -> str:
        """Why no more were drawn, without the notes."""
        drawn = len(self.candidates)
        if self._ended:
            return self._ended
        if drawn < self.planned and not isinstance(self.rule, Fixed):
            return f"{self.rule.name} stopped it after {drawn} of {self.planned} samples"
        return f"drew all {drawn} samples" if drawn > 1 else "drew 1 sample"
