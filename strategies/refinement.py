"""Sequential refinement: draft, have it criticised, fix it, verify, and again.

What is criticised is never thrown away: a version that the verifier ranks below the draft is not returned. For code
the verifier runs tests, and which of them failed is the criticism (generate, test, fix).
Sources: Self-Refine (Madaan et al. 2023, 2303.17651); for code Self-Debug (Chen et al. 2023, 2304.05128).
"""

import string
from collections.abc import Sequence

from .answers import canonical
from .base import (
    Backend,
    Bindable,
    Budget,
    Candidate,
    Message,
    Prefix,
    Request,
    SamplingParams,
    StrategyResult,
    Trace,
    Verifier,
)
from .errors import ConfigError, PromptTooLong, nearest
from .naming import DEFAULT_VERIFIER, by_verifier, unusual
from .running import Call, Run, best_of, candidate, demand_absolute, most_tokens, with_verdict
from .spec import Parts, StrategyFields

CRITIQUE = """\
Below are a question and an answer to it. Check the answer step by step and name every mistake, with the step that \
it is in. Do not write a new answer. If there is none, end with a line that says only: {satisfied}

Question:
{prompt}

Answer:
{answer}"""
"""How the model is asked to criticise an answer."""

FIX = """\
This was found wrong with your answer:

{feedback}

Write the whole answer again, corrected."""
"""How the model is asked to fix an answer that it has just given."""

SATISFIED = "NO MISTAKES"
"""What a criticism without any criticism says, on a line of its own."""


class Refinement(Bindable):
    """Draft an answer, then criticise and fix it, up to `rounds` times.

    rounds     : >= 1 fixes at most.
    verifier   : judges every version alone; None = there is none. One that compares texts with each other (a vote, a
                 tournament) says nothing about one version, and is refused.
    drafts     : >= 1 drafts, drawn in one call; the first round goes on from the one that the verifier ranks first.
    threshold  : a score in (0, 1] that is good enough to stop; a sound verifier's proof always is.
    params     : how drafts and fixes are drawn.
    critique_tokens : most tokens of one criticism by the model; None = params.max_tokens.
    critique   : template of a question by itself, with the slots {prompt}, {answer} and, if wished, {satisfied}.
    fix        : template of the user's turn after the answer, with the slot {feedback}.

    The criticism is the verifier's own words where it has some (which test failed), else the model is asked, in a
    conversation of its own, which begins with the request's system messages.

    A round goes on from the newest version that the verifier did not rank below the one before. It stops when a
    version is good enough, when the model finds no mistakes, when a fix changes nothing (the canonical answer and the
    text without its white space are those of a version before), when the budget or the backend's context does not
    hold another round, or when the rounds are over.

    Returned is the complete version with the highest score; ties go to the one drawn first. Without a verifier, or
    where it judged none, it is the last complete version (of several drafts the first): each was asked for because
    the one before was found wanting. Holds settings only: one instance may serve any number of requests at once.
    """

    def __init__(
        self,
        *,
        rounds: int,
        verifier: Verifier | None = None,
        drafts: int = 1,
        threshold: float = 1.0,
        params: SamplingParams | None = None,
        critique_tokens: int | None = None,
        critique: str = CRITIQUE,
        fix: str = FIX,
    ) -> None:
        if rounds < 1:
            raise ConfigError(f"rounds={rounds!r}: refinement fixes at least once; for none, take best-of-N")
        if drafts < 1:
            raise ConfigError(f"drafts={drafts!r}: refinement needs at least 1 draft to begin with")
        if not 0 < threshold <= 1:
            raise ConfigError(f"threshold={threshold!r}: a score that is good enough lies in (0, 1]")
        if critique_tokens is not None and critique_tokens < 1:
            raise ConfigError(f"critique_tokens={critique_tokens!r}: it must be at least 1, or None")
        self.rounds, self.drafts, self.threshold = rounds, drafts, threshold
        self.verifier = verifier
        self.params = params or SamplingParams()
        self.critique_tokens = critique_tokens or self.params.max_tokens
        self.critique = _checked("critique", critique, needed=("prompt", "answer"), known=("satisfied",))
        self.fix = _checked("fix", fix, needed=("feedback",), known=("prompt", "answer"))
        if drafts > 1 and self.params.temperature == 0:
            raise ConfigError(f"temperature=0 would draw the same draft {drafts} times: set it above 0, or drafts=1")
        if verifier is not None:
            demand_absolute(
                verifier,
                "refinement has each version judged alone",
                "another one, or none: the model then criticises itself (verifier = '' in configurations)",
            )
        if drafts > 1 and verifier is None:
            raise ConfigError(f"drafts={drafts}, but no verifier ranks them: give one, or set drafts=1")

    def __repr__(self) -> str:
        judge = None if self.verifier is None else self.verifier.name
        return f"Refinement(rounds={self.rounds}, drafts={self.drafts}, verifier={judge!r}, params={self.params!r})"

    @property
    def name(self) -> str:
        """For instance "refine_3", "refine_3_of_4" after the best of 4 drafts, "refine_3_by_tests", "..._alone"."""
        parts = ["refine", str(self.rounds)]
        parts += [f"of_{self.drafts}"] if self.drafts > 1 else []
        parts += ["alone"] if self.verifier is None else by_verifier(self.verifier)
        if self.critique_tokens != self.params.max_tokens:
            parts.append(f"critique_tokens_{self.critique_tokens}")
        return "_".join([*parts, *unusual(self, Refinement, "threshold", "critique", "fix")])

    async def run(
        self, request: Request, backend: Backend, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> StrategyResult:
        """Draft, criticise, fix.

        A budget too small for all drafts is met by fewer, where not even one fits whole by a shorter one that is not
        judged; a round is begun only where the budget holds all of it. Raises InputError where the budget does not
        hold one token, BackendError where every draft failed, VerifierError where the verifier did.
        """
        return await _Refining(self, Run(request, backend, budget, trace)).go()


class _Refining:
    """One request being refined."""

    def __init__(self, settings: Refinement, run: Run) -> None:
        self.settings, self.run = settings, run
        self.versions: list[Candidate] = []
        self.waves: list[int] = []
        self.notes: dict[str, None] = {}  # what the verifier wants told, once each
        self.drawn = 0  # samples, so that no two share a seed

    async def go(self) -> StrategyResult:
        reason = await self._draft()
        best = self._best()
        if not reason and best is not None:
            reason = await self._rounds(best)
        return self.run.result(
            self.versions,
            self._best(),
            "; ".join((reason, *self._unjudged(), *self.notes)),
            params=self.settings.params,
            waves=self.waves,
            planned=self.settings.drafts + self.settings.rounds,
        )

    async def _draft(self) -> str:
        """Draw and judge the drafts; returns why it ends with them, "" where it does not."""
        run, s = self.run, self.settings
        prefix = Prefix(run.request.messages)
        n = next((n for n in range(s.drafts, 0, -1) if self._holds(prefix, n)), 0)
        most = s.params.max_tokens if n else run.at_least_one(prefix, s.params.max_tokens)
        await self._draw(prefix, max(n, 1), most, wave=0, judge=n > 0)
        if run.out_of_time:
            return f"{run.budget_words} was spent with the drafts"
        if not n:
            return f"{run.budget_words} holds one draft of at most {most} tokens, not judged"
        if not any(c.generation.complete for c in self.versions):
            return "no draft was complete, so there was nothing to refine"
        return ""

    async def _rounds(self, current: Candidate) -> str:
        """Refine; returns why it stopped."""
        run, s = self.run, self.settings
        for place in range(1, s.rounds + 1):
            if why := self._good_enough(current):
                return f"{why} after {_rounds(place - 1)}"
            try:
                feedback, why = await self._feedback(current)
                if feedback is None:
                    return f"{why} after {_rounds(place - 1)}"
                prefix = self._fix_prefix(current, feedback)
                if not self._holds(prefix, 1):
                    return f"{run.budget_words} does not hold round {place} of {s.rounds}"
                version = await self._draw(prefix, 1, s.params.max_tokens, wave=place)
            except PromptTooLong as exc:
                return f"round {place} does not fit the backend's context: {exc}"
            run.trace("round", round=place, feedback=feedback, score=version.score, text=version.text)
            if run.out_of_time:
                return f"{run.budget_words} was spent in round {place} of {s.rounds}"
            if version.generation.complete:
                if any(_same(version, c) for c in self.versions[:-1] if c.generation.complete):
                    return f"round {place} changed nothing"
                if version.score is None or current.score is None or version.score >= current.score:
                    current = version
        why = self._good_enough(current)
        return f"{why} after {_rounds(s.rounds)}" if why else f"did all {_rounds(s.rounds)}"

    def _good_enough(self, current: Candidate) -> str:
        name = "" if self.settings.verifier is None else repr(self.settings.verifier.name)
        if any(c.proven for c in self.versions):
            return f"{name} proved an answer"
        if current.score is not None and current.score >= self.settings.threshold:
            return f"{name} gave {current.score:.3g}, which is good enough,"
        return ""

    async def _feedback(self, current: Candidate) -> tuple[str | None, str]:
        """What is wrong with a version: of the verifier, or of the model; None and why, where there is nothing."""
        run, s = self.run, self.settings
        if current.feedback:
            return current.feedback, ""
        system = tuple(m for m in run.request.messages if m.role == "system")
        asked = run.request.text if not system else "\n".join(
            m.content for m in run.request.messages if m.role != "system"
        )  # fmt: skip
        words = s.critique.format(prompt=asked, answer=current.text, satisfied=SATISFIED)
        prefix = Prefix((*system, Message("user", words)))
        later = most_tokens(run.backend, self._fix_prefix(current, "")) + s.critique_tokens + s.params.max_tokens
        prompt = most_tokens(run.backend, prefix)
        if not run.allows(prompt=prompt + later, completion=s.critique_tokens):
            return None, f"{run.budget_words} does not hold another round"
        params = self._seeded(1).but(max_tokens=s.critique_tokens)
        [[[generation]]] = await run.draw([Call([prefix], 1, params)])
        run.trace("critique", text=generation.text, finish_reason=generation.finish_reason, error=generation.error)
        if run.out_of_time:
            return None, f"{run.budget_words} was spent"
        if generation.finish_reason == "error":
            return None, f"a criticism failed ({generation.error})"
        if _is_satisfied(generation.text):
            return None, "the model found no mistakes"
        if not generation.text.strip():
            return None, "the model had nothing to say"
        return generation.text.strip(), ""

    def _fix_prefix(self, current: Candidate, feedback: str) -> Prefix:
        words = self.settings.fix.format(feedback=feedback, prompt=self.run.request.text, answer=current.text)
        return Prefix((*self.run.request.messages, Message("assistant", current.text), Message("user", words)))

    async def _draw(self, prefix: Prefix, n: int, max_tokens: int, *, wave: int, judge: bool = True) -> Candidate:
        """Draw n versions, have the complete ones judged, and return the last one."""
        params = self._seeded(n).but(max_tokens=max_tokens)
        [[generations]] = await self.run.draw([Call([prefix], n, params)])
        drawn = [candidate(g) for g in generations]
        complete = [i for i, c in enumerate(drawn) if c.generation.complete]
        if judge and complete and self.settings.verifier is not None:
            verdicts = await self.run.judge(self.settings.verifier, [drawn[i] for i in complete])
            for place, i in enumerate(complete):
                drawn[i] = with_verdict(drawn[i], self.settings.verifier, verdicts, place)
            if verdicts.note:
                self.notes[verdicts.note] = None
        self.versions += drawn
        self.waves += [wave] * n
        return drawn[-1]

    def _seeded(self, n: int) -> SamplingParams:
        """The sampling settings for n more samples, which no two of a run draw with one seed."""
        params, first = self.settings.params, self.drawn
        self.drawn += n
        return params if params.seed is None else params.but(seed=params.seed + first)

    def _holds(self, prefix: Prefix, n: int) -> bool:
        """Whether the budget holds n whole versions, judged."""
        prompt, most = most_tokens(self.run.backend, prefix), self.settings.params.max_tokens
        asked = most_tokens(self.run.backend, Prefix(self.run.request.messages))
        read = n * (asked + most + 2)  # a reader may add a token at either end
        return self.run.allows(prompt=prompt, completion=n * most, judged=read, verifier=self.settings.verifier)

    def _unjudged(self) -> list[str]:
        """Tell of versions that the verifier did not judge: it could not, or the budget did not hold it."""
        complete = [c for c in self.versions if c.generation.complete]
        without = sum(c.score is None for c in complete)
        if self.settings.verifier is None or not without or self.run.out_of_time:
            return []
        kept = ", so the last one was kept" if without == len(complete) else ""
        return [f"{self.settings.verifier.name!r} did not judge {without} of {len(complete)} complete versions{kept}"]

    def _best(self) -> Candidate | None:
        complete = [c for c in self.versions if c.generation.complete]
        if complete and all(c.score is None for c in complete):
            last = max(wave for c, wave in zip(self.versions, self.waves, strict=True) if c.generation.complete)
            return best_of(self.versions[self.waves.index(last) :])
        return best_of(self.versions)


def _rounds(n: int) -> str:
    return f"{n} round" if n == 1 else f"{n} rounds"


def _same(a: Candidate, b: Candidate) -> bool:
    """Whether nothing changed: neither the answer nor, white space aside, the text."""
    answers = [None if c.answer is None else canonical(c.answer) for c in (a, b)]
    return answers[0] == answers[1] and a.text.split() == b.text.split()


def _is_satisfied(critique: str) -> bool:
    """Whether the last line that says anything says only that there are no mistakes."""
    lines = [line.strip(string.punctuation + string.whitespace) for line in critique.splitlines()]
    said = [line.casefold() for line in lines if line]
    return bool(said) and said[-1] == SATISFIED.casefold()


def _checked(name: str, template: str, *, needed: Sequence[str], known: Sequence[str]) -> str:
    """Return the template if it has its slots and no others; raises ConfigError that names the slot."""
    try:
        slots = [slot for _, slot, _, _ in string.Formatter().parse(template) if slot is not None]
    except ValueError as exc:
        raise ConfigError(f"{name} is no template: {exc}; write {{{{ and }}}} for plain braces") from exc
    for slot in needed:
        if slot not in slots:
            raise ConfigError(f"{name} lacks the slot {{{slot}}}: without it the model would not see the {slot}")
    for slot in slots:
        if slot not in (*needed, *known):
            hint = nearest(slot, (*needed, *known))
            raise ConfigError(f"{name} has a slot {{{slot}}} that nothing fills{hint}; write {{{{ for a plain brace")
    return template


class RefinementSpec(StrategyFields, frozen=True, kw_only=True, tag="refinement"):
    """Draft, criticise, fix; see Refinement for each setting. `verifier` "" = none."""

    rounds: int = 3
    drafts: int = 1
    verifier: str = DEFAULT_VERIFIER
    threshold: float = 1.0
    critique_tokens: int | None = None
    critique: str = CRITIQUE
    fix: str = FIX

    def build(self, parts: Parts) -> Refinement:
        """See StrategyFields."""
        return Refinement(
            rounds=self.rounds,
            drafts=self.drafts,
            verifier=parts.verifier(self.verifier, asked_by="refinement") if self.verifier else None,
            threshold=self.threshold,
            params=self.params(parts.seed),
            critique_tokens=self.critique_tokens,
            critique=self.critique,
            fix=self.fix,
        )
