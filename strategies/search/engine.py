"""Grow a tree of steps: the one mechanism under every search.

A rule of choice is asked from which branches to draw how many steps; the engine draws them all in one round, merges
those that say the same, has the new ones judged, and tells the rule. It keeps the budget before every round, holds
tokens back so that there is always an answer, and stops at a proof. Which branch is worth going on from is the
rule's matter alone: each has its file beside this one.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterable, Sequence
from typing import Required, TypedDict

from ..base import (
    Backend,
    Bindable,
    Budget,
    Generation,
    Prefix,
    Request,
    SamplingParams,
    StrategyResult,
    Trace,
    Verifier,
)
from ..errors import ConfigError, PromptTooLong
from ..naming import DEFAULT_VERIFIER, by_step_verifier, unusual
from ..running import Call, CountsTokens, Run, best_of, demand_absolute, most_tokens, proves
from ..spec import Parts, StrategyFields
from .branch import Ask, Branch, Grown, Rule
from .steps import StepEnd, Steps
from .tree import Node, State, Tree


class Common(TypedDict, total=False):
    """The settings that every search takes beside its own; what they mean, and their defaults, stand at StepSearch."""

    verifier: Required[Verifier]
    params: SamplingParams | None
    step_end: StepEnd
    step_tokens: int
    max_steps: int
    token_budget: int | None


class StepSearch(Bindable):
    """What all searches have in common. A subclass adds its own settings, a title, and its rule.

    verifier     : scores partial solutions (a process reward model) and finished ones, each alone.
    params       : how steps are drawn; `max_tokens` bounds one whole solution, `stop` ends a solution.
    step_end     : what ends a step; see StepEnd. A string is kept in the text.
    step_tokens  : most tokens of one step; a longer one goes on in the next step, so a separator that never comes
                   costs no more. Budgets reserve that much.
    max_steps    : most steps of one solution.
    token_budget : most tokens of the whole search, read, drawn and judged ones together; None = only the run's.

    The search ends when its rule has nothing left to ask, when the budget does not hold another round, and at once
    when a sound verifier proves a solution. Where nothing has finished by then, the best partial solution is written
    to its end greedily, for which the budget always holds tokens back. Finished solutions are ranked by score, ties
    by launch order. Holds settings only: one instance may serve any number of requests at once.
    """

    rollouts = False
    """Whether a new branch is worth what one sample to its end scores, rather than its own score."""
    across = True
    """Whether equal texts are one branch also where they come from two branches of a round."""
    blind = "they counted as even chances"
    """What became of branches that the verifier left unjudged, for people."""
    minor: tuple[str, ...] = ()
    """Own settings that the title leaves out: they show in the name where they are not the usual ones."""

    def __init__(
        self,
        *,
        verifier: Verifier,
        params: SamplingParams | None = None,
        step_end: StepEnd = "\n",
        step_tokens: int = 64,
        max_steps: int = 32,
        token_budget: int | None = None,
    ) -> None:
        at_least_one(max_steps=max_steps)
        demand_absolute(verifier, "a search has solutions judged round by round", "one that judges each text alone")
        self.steps = Steps.of(step_end, step_tokens)
        self.step_end, self.step_tokens = step_end, step_tokens
        self.verifier = verifier
        self.params = params or SamplingParams()
        self.max_steps = max_steps
        self.token_budget = token_budget
        Budget(tokens=token_budget)  # checks it
        if self.params.temperature == 0 and self.stride > 1:
            raise ConfigError("temperature=0 would draw the same step again and again: set it above 0")

    @property
    def stride(self) -> int:
        """Samples that one round draws from one branch at most: seeds of rounds lie so far apart, or further."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """Its kind and main settings: what its name begins with."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The title, and what is not as usual: "beam_4x4", "rebase_16_spread_0.1_by_judge_step_tokens_48"."""
        own = unusual(self, type(self), *self.minor)
        common = unusual(self, StepSearch, "step_end", "step_tokens", "max_steps", "token_budget")
        return "_".join([self.title, *own, *by_step_verifier(self.verifier), *common])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, verifier={self.verifier.name!r}, params={self.params!r})"

    def rule(self, root: Branch, rng: random.Random) -> Rule:
        """Make the rule for one search; all that it leaves to chance, it draws from `rng`."""
        raise NotImplementedError

    async def run(
        self, request: Request, backend: Backend, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> StrategyResult:
        """Search, and answer with the best finished solution; `StrategyResult.tree` has every step that was tried.

        Raises InputError where the budget does not hold one token, BackendError where every sample failed,
        VerifierError where the verifier did, PromptTooLong where the prompt and `max_tokens` exceed the context.
        """
        return await _Search(self, Run(request, backend, self._tighter(budget), trace)).run_to_the_end()

    def _tighter(self, budget: Budget | None) -> Budget | None:
        if self.token_budget is None:
            return budget
        budget = budget or Budget()
        tokens = self.token_budget if budget.tokens is None else min(budget.tokens, self.token_budget)
        return dataclasses.replace(budget, tokens=tokens)


def at_least_one(**settings: int) -> None:
    """Raise ConfigError for a setting below 1."""
    for name, value in settings.items():
        if value < 1:
            raise ConfigError(f"{name}={value!r}: it must be at least 1")


class SearchFields(StrategyFields, frozen=True, kw_only=True):
    """What the spec of every search has; see StepSearch for each setting.

    step_end : a string, a list of strings (SENTENCE_ENDS of steps.py), or null: every `step_tokens` tokens.
    """

    verifier: str = DEFAULT_VERIFIER
    step_end: str | tuple[str, ...] | None = "\n"
    step_tokens: int = 64
    max_steps: int = 32
    token_budget: int | None = None

    def common(self, parts: Parts, *, asked_by: str) -> Common:
        """The arguments that every search takes."""
        return {
            "verifier": parts.verifier(self.verifier, asked_by=asked_by),
            "params": self.params(parts.seed),
            "step_end": self.step_end,
            "step_tokens": self.step_tokens,
            "max_steps": self.max_steps,
            "token_budget": self.token_budget,
        }


# ── one search ──────────────────────────────────────────────────────────────────────────────────────────────


class _Search:
    """The state of one search.

    branches : all, in launch order; the root is the first.
    ended    : finished, failed and cut ones, in launch order.
    """

    def __init__(self, settings: StepSearch, run: Run) -> None:
        self.settings, self.run = settings, run
        self.branches = [Branch(0, Prefix(run.request.messages), kept=True)]
        self.ended: list[Branch] = []
        seed = settings.params.seed
        self.rule = settings.rule(self.branches[0], random.Random() if seed is None else random.Random(seed))
        self._known: dict[tuple[int, str, State], Branch] = {}
        self._lengths: dict[int, int] = {}
        self._seed = 0  # added to the settings' seed
        self._unjudged = self._judged = 0  # partial solutions
        self._unguided = False  # all partial solutions of some round were left unjudged
        self._notes: dict[str, None] = {}
        self._broken = False  # every sample of the last round failed
        self._written = False  # the best way was written on, as far as it could be

    async def run_to_the_end(self) -> StrategyResult:
        """Grow, write an end where there is none, and choose."""
        self._check_context()
        why = await self._grow()
        if not any(branch.finished for branch in self.ended):
            why += await self._finish_greedily()
        why += self._guidance()
        weighed = {branch: branch.candidate() for branch in self.ended}
        best = best_of(list(weighed.values()))
        if best is None or not best.generation.complete:  # no answer: show how far the best way came
            partial = self._best_partial()
            if partial.steps or not weighed:
                best = weighed.setdefault(partial, partial.candidate())
        chosen = next((branch for branch, own in weighed.items() if own is best), self.branches[0])
        return self.run.result(list(weighed.values()), best, why, params=self.settings.params, tree=self._tree(chosen))

    # ── rounds ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _grow(self) -> str:
        """Go on round by round; returns why it ended."""
        run, rule, s = self.run, self.rule, self.settings
        for done in itertools.count():
            asked = rule.ask()
            if not asked:
                return rule.ended
            asks = self._affordable(asked)
            if not asks:
                return f"{run.budget_words} holds no further {rule.unit} after {done}"
            first = len(self.branches)
            try:
                grown = await self._expand(asks)
            except PromptTooLong:
                if done == 0:
                    raise
                return f"the context of {run.backend.name!r} was full after {done} {rule.unit}s"
            new = self.branches[first:]
            full = ""
            if s.rollouts:
                proven = await self._judge([b for b in new if b.finished])
                try:
                    proven = proven or await self._roll_out([b for b in new if b.state == "partial"])
                except PromptTooLong:
                    full = f"the context of {run.backend.name!r} was full after {done + 1} {rule.unit}s"
            else:
                proven = await self._judge(new)
            rule.tell(grown)
            self._trace(self.branches[first:])
            if proven:
                return f"{s.verifier.name!r} proved a solution at {rule.unit} {done + 1}"
            if full:
                return full
            if run.out_of_time:
                return f"{run.budget_words} was spent at {rule.unit} {done + 1}"
            if all(child.state == "failed" for one in grown for child in one.children):
                self._broken = True
                return f"every sample of {rule.unit} {done + 1} failed"
        raise AssertionError  # count() has no end

    def _guidance(self) -> str:
        """What must be told about the verifier, if anything."""
        words = "".join(f"; {note}" for note in self._notes)
        name = self.settings.verifier.name
        if self._unguided:
            return f"; {name!r} judged no partial solution, so {self.settings.blind}{words}"
        if self._unjudged:
            known = self._judged + self._unjudged
            return f"; {name!r} left {self._unjudged} of {known} steps unjudged, {self.settings.blind}{words}"
        return words

    def _check_context(self) -> None:
        """Raise PromptTooLong at once, rather than in the middle of the search, where lengths are known."""
        backend, most = self.run.backend, self.settings.params.max_tokens
        if backend.context is not None and isinstance(backend, CountsTokens):
            prompt = self._length(self.branches[0])
            if prompt + most > backend.context:
                raise PromptTooLong(
                    f"{backend.name!r} holds {backend.context} tokens, but the prompt has {prompt} and "
                    f"max_tokens={most} more were asked for: lower max_tokens or shorten the prompt"
                )

    # ── the budget ──────────────────────────────────────────────────────────────────────────────────────────

    def _length(self, branch: Branch) -> int:
        """Most tokens of its prefix."""
        if branch.index not in self._lengths:
            self._lengths[branch.index] = most_tokens(self.run.backend, branch.prefix)
        return self._lengths[branch.index]

    def _cap(self, branch: Branch) -> int:
        return min(self.settings.steps.tokens, self._room(branch))

    def _room(self, branch: Branch) -> int:
        return self.settings.params.max_tokens - branch.used

    def _affordable(self, asks: Sequence[Ask]) -> list[Ask]:
        """Take as much of the asks as keeps the budget in the worst case.

        While nothing has finished, the tokens to write the best way to its end are held back.
        """
        run = self.run
        if not run.meter.allows():
            return []
        held = [(0, 0)]
        if not any(branch.finished for branch in self.ended):
            # The end is written from a prefix that is longer by a step and lacks as many tokens: the sum stays. Any
            # of the partial solutions may be the one, so the shortest and the longest must both fit.
            lengths = sorted((*self.rule.partials(), *(a.branch for a in asks)), key=self._length)
            held = [(self._length(b) + self._cap(b), self._room(b)) for b in (lengths[0], lengths[-1])]
        for plan in _plans(asks):
            prompt = drawn = judged = 0
            for ask in plan:
                length, cap = self._length(ask.branch), self._cap(ask.branch)
                if self.settings.rollouts:
                    prompt += ask.n * (length + cap)
                    cap = self._room(ask.branch)
                prompt += length
                drawn += ask.n * cap
                judged += ask.n * (length + cap + 2)
            if all(
                run.allows(
                    prompt=prompt + more_prompt,
                    completion=drawn + more_drawn,
                    judged=judged,
                    verifier=self.settings.verifier,
                )
                for more_prompt, more_drawn in held
            ):
                return plan
        return []

    # ── drawing ─────────────────────────────────────────────────────────────────────────────────────────────

    def _new(self, parent: Branch, generation: Generation, **fields: object) -> Branch:
        """Make a branch, not yet in the tree."""
        s = self.settings
        generation, cut = s.steps.cut(generation, lambda text: self._tokens_of(parent, text))
        finished = not cut and s.steps.finishes(generation, s.params.stop)
        prefix = parent.prefix.extended(generation)
        if finished or generation.finish_reason in ("stop", "length"):
            # A stop string of the solution may have been drawn over the end of a step.
            ending = next((end for end in s.params.stop if prefix.answer.endswith(end)), None)
            if ending is not None:
                finished = True
                generation = dataclasses.replace(generation, finish_reason="stop")
                if not s.params.keep_stop:
                    prefix = dataclasses.replace(prefix, answer=prefix.answer.removesuffix(ending))
                    generation = dataclasses.replace(generation, text=generation.text.removesuffix(ending))
        used = parent.used + generation.completion_tokens
        if finished:
            state: State = "finished"
        elif generation.finish_reason == "error":
            state = "failed"
        elif generation.finish_reason == "cancelled" or used >= s.params.max_tokens or fields.get("rollout"):
            state = "cut"
        else:
            state = "partial"
        steps = (*parent.steps, generation)
        return Branch(
            len(self.branches),
            prefix,
            parent,
            steps,
            used,
            state,
            open=state == "partial" and len(steps) < s.max_steps,
            **fields,  # type: ignore[arg-type]
        )

    def _tokens_of(self, parent: Branch, text: str) -> int:
        """Most tokens that a text takes behind a branch."""
        backend = self.run.backend
        if not isinstance(backend, CountsTokens):
            return len(text.encode())
        longer = Prefix(parent.prefix.messages, parent.prefix.answer + text)
        return backend.count_tokens(longer) - self._length(parent)

    def _add(self, branch: Branch) -> Branch:
        """Put a branch into the tree."""
        self.branches.append(branch)
        if branch.parent is not None:
            branch.parent.children.append(branch)
        if branch.state != "partial":
            self.ended.append(branch)
        return branch

    async def _expand(self, asks: Sequence[Ask]) -> list[Grown]:
        """Draw all asks at once; steps that lead to the same text become one branch."""
        s, base = self.settings, self.settings.params.seed
        seed = None if base is None else base + self._seed
        alike: dict[tuple[int, int], list[Ask]] = {}
        for ask in asks:
            alike.setdefault((self._cap(ask.branch), ask.n), []).append(ask)
        calls = [
            Call([ask.branch.prefix for ask in group], n, s.steps.params(s.params, cap, seed))
            for (cap, n), group in alike.items()
        ]
        drawn = await self.run.draw(calls)
        self._seed += max(s.stride, *(ask.n for ask in asks))
        rows = {
            ask.branch: row
            for group, of_call in zip(alike.values(), drawn, strict=True)
            for ask, row in zip(group, of_call, strict=True)
        }
        if s.across:
            self._known.clear()
        grown = []
        for ask in asks:
            ask.branch.drawn += ask.n
            grown.append(Grown(ask.branch, tuple(self._led(ask.branch, g) for g in rows[ask.branch])))
        return grown

    def _led(self, parent: Branch, generation: Generation) -> Branch:
        """Find where a sample led: to a new branch, or to one that says the same."""
        branch = self._new(parent, generation)
        if not branch.going:  # what failed or was cut off stays visible for itself
            return self._add(branch)
        # A text may be finished and go on, both.
        key = (-1 if self.settings.across else parent.index, branch.prefix.answer, branch.state)
        if key in self._known:
            self._known[key].copies += 1
            return self._known[key]
        self._known[key] = branch
        return self._add(branch)

    async def _roll_out(self, branches: Sequence[Branch]) -> bool:
        """Draw one sample to its end from each branch, which is then worth what that scores."""
        if not branches or self.run.out_of_time:
            return False
        s, base = self.settings, self.settings.params.seed
        params = s.params.but(keep_stop=True, seed=None if base is None else base + self._seed)
        by_room: dict[int, list[Branch]] = {}
        for branch in branches:
            by_room.setdefault(self._room(branch), []).append(branch)
        drawn = await self.run.draw(
            [Call([b.prefix for b in group], 1, params.but(max_tokens=room)) for room, group in by_room.items()]
        )
        self._seed += 1  # the next round may go on from the same branches
        ends = {
            branch: self._add(self._new_end(branch, row[0]))
            for group, rows in zip(by_room.values(), drawn, strict=True)
            for branch, row in zip(group, rows, strict=True)
        }
        proven = await self._judge([end for end in ends.values() if end.finished])
        for branch, end in ends.items():
            end.kept = end.finished
            if end.state != "failed":
                branch.score = end.score if end.finished else 0.0
        return proven

    def _new_end(self, parent: Branch, generation: Generation) -> Branch:
        """Make a branch that was drawn to its end at once, and is cut where it came to none."""
        s = self.settings
        if generation.stop_text is not None and not s.params.keep_stop:
            generation = dataclasses.replace(generation, text=generation.text.removesuffix(generation.stop_text))
        used = parent.used + generation.completion_tokens
        failed: State = "failed" if generation.finish_reason == "error" else "cut"
        return Branch(
            len(self.branches),
            parent.prefix.extended(generation),
            parent,
            (*parent.steps, generation),
            used,
            "finished" if generation.complete else failed,
            open=False,
            rollout=True,
        )

    async def _judge(self, branches: Iterable[Branch]) -> bool:
        """Score finished and partial branches; returns whether one is proven right."""
        run, s = self.run, self.settings
        branches = [branch for branch in branches if branch.going]
        for partial in (False, True):
            group = [branch for branch in branches if branch.finished != partial]
            verdicts = await run.judge(s.verifier, [branch.candidate() for branch in group], partial=partial)
            for i, branch in enumerate(group):
                branch.score = verdicts.scores[i]
                branch.step_scores = verdicts.steps[i] if verdicts.steps is not None else None
                branch.feedback = verdicts.feedback[i] if verdicts.feedback is not None else None
                branch.proven = not partial and proves(s.verifier, verdicts, i)
            if verdicts.note:
                self._notes[verdicts.note] = None
            if partial and group and not run.out_of_time:
                unjudged = sum(score is None for score in verdicts.scores)
                self._unguided = self._unguided or unjudged == len(group)
                self._unjudged += unjudged
                self._judged += len(group) - unjudged
            if any(branch.proven for branch in group):
                return True
        return False

    def _trace(self, new: Sequence[Branch]) -> None:
        for branch in new:
            self.run.trace(
                "node",
                backend=self.run.backend.name,
                node=branch.index,
                parent=branch.parent.index if branch.parent is not None else None,
                depth=branch.depth,
                text=branch.steps[-1].text,
                score=branch.score,
                copies=branch.copies,
                completion_tokens=branch.steps[-1].completion_tokens,
                finished=branch.finished,
                kept=branch.kept,
            )

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────

    def _best_partial(self) -> Branch:
        """The most promising solution that has not finished, the root if need be."""
        going = [] if self._written else self.rule.partials()
        cut = (branch for branch in reversed(self.ended) if branch.state == "cut" and not branch.rollout)
        passed = sorted((b for b in self.branches if b.drawn), key=lambda b: (-b.depth, b.rank))
        return next(itertools.chain(going, cut, passed, self.branches))

    async def _finish_greedily(self) -> str:
        """Write the best partial solution to its end, within what is left; returns what came of it."""
        run, s = self.run, self.settings
        partials = self.rule.partials()
        if self._broken or not partials or run.out_of_time or not run.meter.allows():
            return ""  # what failed or was cut is not tried again: nobody asked for more calls
        branch = partials[0]
        most = self._room(branch)
        room = run.most_completion(branch.prefix, most)
        if room < 1:
            if len(self.branches) == 1:
                run.at_least_one(branch.prefix, most)  # raises: nothing was drawn at all
            return ""
        params = s.params.but(temperature=0.0, max_tokens=room)
        try:
            [[[generation]]] = await run.draw([Call([branch.prefix], 1, params)])
        except PromptTooLong:
            if not branch.steps:
                raise
            return "; there was no room to finish the best way"
        last = self._add(self._new_end(branch, generation))
        read = most_tokens(run.backend, last.prefix) + 2
        if last.finished and run.allows(prompt=0, completion=0, judged=read, verifier=s.verifier):
            await self._judge([last])
        last.kept = last.finished
        self._trace([last])
        if last.state != "failed":
            self._written = True  # the end of this way is what there is to show
        return "; the best way was written to its end greedily" if last.finished else ""

    def _tree(self, chosen: Branch) -> Tree:
        way = {branch.index for branch in chosen.way()}
        return Tree(
            strategy=self.settings.name,
            prompt=self.run.request.text,
            nodes=tuple(
                Node(
                    index=b.index,
                    parent=None if b.parent is None else b.parent.index,
                    depth=b.depth,
                    text=b.steps[-1].text if b.steps else "",
                    score=b.score,
                    copies=b.copies,
                    visits=b.visits,
                    value=b.mean if b.visits else None,
                    completion_tokens=b.steps[-1].completion_tokens if b.steps else 0,
                    state=b.state,
                    rollout=b.rollout,
                    kept=b.kept,
                    chosen=b.index in way,
                )
                for b in self.branches
            ),
        )


def _plans(asks: Sequence[Ask]) -> Iterable[list[Ask]]:
    """The asks, then less and less of them: first fewer samples each, then fewer branches."""
    most = max(ask.n for ask in asks)
    for n in range(most, 0, -1):
        yield [Ask(ask.branch, min(n, ask.n)) for ask in asks]
    for width in range(len(asks) - 1, 0, -1):
        yield [Ask(ask.branch, 1) for ask in asks[:width]]
