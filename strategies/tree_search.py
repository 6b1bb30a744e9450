"""Tree search over steps: a beam of partial solutions, scored by a process reward model after every line.

Each level draws the next step of every partial solution in one batched call, merges steps that say the same,
scores what is left, and goes on with the best. The search can stop at any time with the best finished answer.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .base import (
    Backend,
    Bindable,
    Budget,
    Candidate,
    Generation,
    Prefix,
    Request,
    SamplingParams,
    StrategyResult,
    Trace,
    Verifier,
)
from .errors import ConfigError, PromptTooLong
from .running import Call, CountsTokens, Run, best_of, candidate, most_tokens
from .spec import Parts, StrategyFields


@dataclass(slots=True, eq=False)
class _Node:
    """A partial or finished solution: what was drawn since the prompt, step by step."""

    index: int
    prefix: Prefix
    parent: "_Node | None" = None
    steps: tuple[Generation, ...] = ()
    score: float | None = None
    step_scores: tuple[float, ...] | None = None
    copies: int = 1
    finished: bool = False

    @property
    def used(self) -> int:
        """Completion tokens on the way here."""
        return sum(step.completion_tokens for step in self.steps)

    @property
    def rank(self) -> tuple[float, int]:
        """Sorts the best first; ties go to the node that was launched first."""
        return (math.inf if self.score is None else -self.score, self.index)

    def candidate(self) -> Candidate:
        """What the strategy weighs: the whole way as one sample."""
        if not self.steps:  # the root: nothing was drawn
            nothing = Generation(text="", finish_reason="cancelled", completion_tokens=0, prompt_tokens=0)
            return candidate(nothing)
        joined = _joined(self.steps)
        if not self.finished and joined.finish_reason == "stop":
            joined = dataclasses.replace(joined, finish_reason="length")
        own = candidate(joined, text=self.prefix.answer)
        return dataclasses.replace(own, score=self.score, steps=self.step_scores)


def _joined(steps: Sequence[Generation]) -> Generation:
    """Make one generation of consecutive ones: prompt of the first, end of the last."""
    ids = [step.token_ids for step in steps]
    logprobs = [step.logprobs for step in steps]
    return dataclasses.replace(
        steps[-1],
        text="".join(step.text for step in steps),
        completion_tokens=sum(step.completion_tokens for step in steps),
        prompt_tokens=steps[0].prompt_tokens,
        cached_tokens=steps[0].cached_tokens,
        token_ids=None if None in ids else tuple(itertools.chain.from_iterable(i or () for i in ids)),
        prompt_token_ids=steps[0].prompt_token_ids,
        logprobs=None if None in logprobs else tuple(itertools.chain.from_iterable(p or () for p in logprobs)),
        reasoning="".join(step.reasoning for step in steps),
        seconds=sum(step.seconds for step in steps),
    )


class TreeSearch(Bindable):
    """Beam search over steps, guided by a verifier that scores partial solutions.

    width        : partial solutions that are kept after each level.
    branches     : next steps drawn for each of them; the first level draws width * branches, so that all
                   levels
                   cost alike.
    verifier     : scores partial solutions (a process reward model) and finished ones.
    params       : how steps are drawn; `max_tokens` bounds one whole solution, `stop` ends a solution.
    step_end     : what ends a step; it is kept in the text.
    step_tokens  : most tokens of one step; a longer one goes on at the next level. Budgets reserve that much.
    max_steps    : most levels.
    token_budget : most tokens of the whole search, read, drawn and judged ones together; None = only the
                   run's.

    A finished solution takes its place in the beam out of play; the search ends when all places are, and at
    once when a sound verifier proves a solution. Where nothing has finished, the best partial solution is
    written to its end greedily, for which the budget always holds tokens back. Finished solutions are ranked
    by score, ties by launch order. Holds settings only: one instance may serve any number of requests at
    once.
    """

    def __init__(
        self,
        *,
        width: int,
        branches: int,
        verifier: Verifier,
        params: SamplingParams | None = None,
        step_end: str = "\n",
        step_tokens: int = 64,
        max_steps: int = 32,
        token_budget: int | None = None,
    ) -> None:
        counts = {"width": width, "branches": branches, "step_tokens": step_tokens, "max_steps": max_steps}
        for setting, value in counts.items():
            if value < 1:
                raise ConfigError(f"{setting}={value!r}: it must be at least 1")
        if not step_end:
            raise ConfigError("step_end is empty: give the text that ends a step, such as a line break")
        self.width = width
        self.branches = branches
        self.verifier = verifier
        self.params = params or SamplingParams()
        self.step_end = step_end
        self.step_tokens = step_tokens
        self.max_steps = max_steps
        self.token_budget = token_budget
        Budget(tokens=token_budget)  # checks it
        if self.params.temperature == 0 and width * branches > 1:
            raise ConfigError("temperature=0 would draw the same step again and again: set it above 0")

    def __repr__(self) -> str:
        return (
            f"TreeSearch(width={self.width}, branches={self.branches}, verifier={self.verifier.name!r}, "
            f"params={self.params!r})"
        )

    @property
    def name(self) -> str:
        """For instance "beam_4x4": width, then branches."""
        return f"beam_{self.width}x{self.branches}"

    async def run(
        self, request: Request, backend: Backend, *, budget: Budget | None = None, trace: Trace | None = None
    ) -> StrategyResult:
        """Search, and answer with the best finished solution.

        Raises InputError where the budget does not hold one token, BackendError where every sample failed,
        VerifierError where the verifier did, PromptTooLong where the prompt and `max_tokens` exceed the
        context.
        """
        run = Run(request, backend, self._tighter(budget), trace)
        search = _Search(self, run)
        search.check_context()
        why = await search.grow() + search.guidance
        if not any(node.finished for node in search.ended):
            why += await search.finish_greedily()
        weighed = {node: node.candidate() for node in sorted(search.ended, key=lambda node: node.index)}
        best = best_of(list(weighed.values()))
        if best is None or not best.generation.complete:  # no answer: show how far the best way came
            partial = search.best_partial()
            if partial.steps or not weighed:
                best = weighed.setdefault(partial, partial.candidate())
        candidates = list(weighed.values())
        return run.result(candidates, best, why, params=self.params)

    def _tighter(self, budget: Budget | None) -> Budget | None:
        if self.token_budget is None:
            return budget
        budget = budget or Budget()
        tokens = self.token_budget if budget.tokens is None else min(budget.tokens, self.token_budget)
        return dataclasses.replace(budget, tokens=tokens)


class _Search:
    """The state of one search.

    beam   : partial solutions to go on from, best first.
    ended  : finished, failed and cut solutions.
    places : beam places still in play.
    """

    def __init__(self, settings: TreeSearch, run: Run) -> None:
        self.settings, self.run = settings, run
        self.beam = [_Node(0, Prefix(run.request.messages))]
        self.ended: list[_Node] = []
        self.places = settings.width
        self._passed: list[_Node] = []  # partial solutions that were gone on from, best first
        self._unguided = False  # the verifier left all partial solutions of some level unjudged
        self._broken = False  # every sample of the last level failed
        self._count = itertools.count(1)

    # ── levels ──────────────────────────────────────────────────────────────────────────────────────────────

    async def grow(self) -> str:
        """Go on level by level; returns why it ended."""
        s, run = self.settings, self.run
        for level in range(s.max_steps):
            nodes, branches = self._affordable(s.width * s.branches if level == 0 else s.branches)
            if not nodes:
                return f"{run.budget_words} holds no further level after {level}"
            try:
                children = await self._expand(level, nodes, branches)
            except PromptTooLong:
                if level == 0:
                    raise
                return f"the context of {run.backend.name!r} was full after {level} levels"
            proven = await self._judge(children)
            self._select(level, nodes, children)
            if proven:
                return f"{s.verifier.name!r} proved a solution at level {level + 1}"
            if run.out_of_time:
                return f"{run.budget_words} was spent at level {level + 1}"
            if self._broken:
                return f"every sample of level {level + 1} failed"
            if not self.beam:
                return f"every way had ended after {level + 1} levels"
        return f"took all {s.max_steps} levels"

    @property
    def guidance(self) -> str:
        """What must be told about the verifier, if anything."""
        if not self._unguided:
            return ""
        return f"; {self.settings.verifier.name!r} judged no partial solution, so ways were kept in launch order"

    def check_context(self) -> None:
        """Raise PromptTooLong at once, rather than in the middle of the search, where lengths are known."""
        backend, root, most = self.run.backend, self.beam[0].prefix, self.settings.params.max_tokens
        if backend.context is not None and isinstance(backend, CountsTokens):
            prompt = most_tokens(backend, root)
            if prompt + most > backend.context:
                raise PromptTooLong(
                    f"{backend.name!r} holds {backend.context} tokens, but the prompt has {prompt} and "
                    f"max_tokens={most} more were asked for: lower max_tokens or shorten the prompt"
                )

    def _cap(self, node: _Node) -> int:
        return min(self.settings.step_tokens, self.settings.params.max_tokens - node.used)

    def _affordable(self, branches: int) -> tuple[list[_Node], int]:
        """Choose from how many nodes to go on, with how many branches, so that the worst case keeps the
        budget.

        While nothing has finished, the tokens to write the best way to its end are held back.
        """
        run, s = self.run, self.settings
        if not run.meter.allows():
            return [], 0
        lengths = {node.index: most_tokens(run.backend, node.prefix) for node in self.beam}
        held_prompt = held = 0
        if not any(node.finished for node in self.ended):
            # The end is written from a prefix that is longer by a step and lacks as many tokens: the sum
            # stays.
            held_prompt = lengths[self.beam[0].index] + self._cap(self.beam[0])
            held = s.params.max_tokens - self.beam[0].used
        plans = [(self.beam, n) for n in range(branches, 0, -1)]
        plans += [(self.beam[:width], 1) for width in range(len(self.beam) - 1, 0, -1)]
        for nodes, n in plans:
            prompt = sum(lengths[node.index] for node in nodes)
            drawn = n * sum(self._cap(node) for node in nodes)
            judged = n * sum(lengths[node.index] + self._cap(node) + 2 for node in nodes)
            if run.allows(prompt=prompt + held_prompt, completion=drawn + held, judged=judged, verifier=s.verifier):
                return nodes, n
        return [], 0

    async def _expand(self, level: int, nodes: Sequence[_Node], branches: int) -> list[_Node]:
        """Draw `branches` next steps of every node; steps that lead to the same text become one child."""
        s = self.settings
        seed = s.params.seed
        params = s.params.but(
            stop=(s.step_end, *s.params.stop),
            keep_stop=True,
            seed=None if seed is None else seed + level * s.width * s.branches,
        )
        by_cap: dict[int, list[_Node]] = {}
        for node in nodes:
            by_cap.setdefault(self._cap(node), []).append(node)
        calls = [
            Call([node.prefix for node in group], branches, params.but(max_tokens=cap)) for cap, group in by_cap.items()
        ]
        drawn = await self.run.draw(calls)
        children: dict[object, _Node] = {}
        for group, rows in zip(by_cap.values(), drawn, strict=True):
            for node, row in zip(group, rows, strict=True):
                for generation in row:
                    child = self._child(node, generation)
                    # What failed or was cut off stays visible for itself; a text may be finished and go on,
                    # both.
                    key = (child.prefix.answer, child.finished) if self._goes_on(child) else child
                    children.setdefault(key, child)
                    if children[key] is not child:
                        children[key].copies += 1
        return list(children.values())

    def _child(self, node: _Node, generation: Generation) -> _Node:
        s = self.settings
        stop = generation.stop_text
        finished = generation.complete and stop != s.step_end
        if finished and stop is not None and not s.params.keep_stop:
            generation = dataclasses.replace(generation, text=generation.text.removesuffix(stop))
        prefix = node.prefix.extended(generation)
        return _Node(next(self._count), prefix, node, (*node.steps, generation), finished=finished)

    def _goes_on(self, node: _Node) -> bool:
        """Whether a child is finished, or may be gone on from; else it has failed or was cut off."""
        if node.finished:
            return True
        reason = node.steps[-1].finish_reason
        return reason in ("stop", "length") and node.used < self.settings.params.max_tokens

    async def _judge(self, children: Iterable[_Node]) -> bool:
        """Score finished and partial children; returns whether one is proven right."""
        run, s = self.run, self.settings
        proven = False
        children = [child for child in children if self._goes_on(child)]
        for partial in (False, True):
            group = [child for child in children if child.finished != partial]
            verdicts = await run.judge(s.verifier, [child.candidate() for child in group], partial=partial)
            for i, child in enumerate(group):
                child.score = verdicts.scores[i]
                child.step_scores = verdicts.steps[i] if verdicts.steps is not None else None
            if partial and group and not run.out_of_time and all(score is None for score in verdicts.scores):
                self._unguided = True
            if not partial and (s.verifier.sound or verdicts.sound) and 1.0 in verdicts.scores:
                proven = True
                break
        return proven

    def _select(self, level: int, nodes: Sequence[_Node], children: Sequence[_Node]) -> None:
        """Keep the best: finished ones take their place out of play, the others are the next beam."""
        going = sorted((child for child in children if self._goes_on(child)), key=lambda child: child.rank)
        kept = going[: self.places]
        self.places -= sum(child.finished for child in kept)
        self.ended += [child for child in children if child.finished or not self._goes_on(child)]
        self._passed = [*nodes, *self._passed]
        self._broken = all(child.steps[-1].finish_reason == "error" for child in children)
        self.beam = [child for child in kept if not child.finished]
        for child in children:
            self.run.trace(
                "node",
                node=child.index,
                parent=child.parent.index if child.parent is not None else None,
                level=level + 1,
                text=child.steps[-1].text,
                score=child.score,
                copies=child.copies,
                completion_tokens=child.steps[-1].completion_tokens,
                finished=child.finished,
                kept=child in kept,
            )

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────

    def best_partial(self) -> _Node:
        """The most promising solution that has not finished, the root if need be."""
        cut = (node for node in reversed(self.ended) if node.steps[-1].finish_reason != "error")
        return next(itertools.chain(self.beam, cut, self._passed))

    async def finish_greedily(self) -> str:
        """Write the best partial solution to its end, within what is left; returns what came of it."""
        run, s = self.run, self.settings
        if not self.beam or run.out_of_time or not run.meter.allows():
            return ""  # what failed or was cut is not tried again: nobody asked for more calls
        node = self.beam[0]
        most = s.params.max_tokens - node.used
        room = run.most_completion(node.prefix, most)
        if room < 1:
            if not node.steps and not self.ended:
                run.at_least_one(node.prefix, most)  # raises: nothing was drawn at all
            return ""
        params = s.params.but(temperature=0.0, max_tokens=room)
        try:
            [[[generation]]] = await run.draw([Call([node.prefix], 1, params)])
        except PromptTooLong:
            if not node.steps:
                raise
            return "; there was no room to finish the best way"
        index = next(self._count)
        prefix = node.prefix.extended(generation)
        last = _Node(index, prefix, node, (*node.steps, generation), finished=generation.complete)
        read = most_tokens(run.backend, prefix) + 2
        if last.finished and run.allows(prompt=0, completion=0, judged=read, verifier=s.verifier):
            verdicts = await run.judge(s.verifier, [last.candidate()])
            last.score = verdicts.scores[0]
            last.step_scores = verdicts.steps[0] if verdicts.steps is not None else None
        self.ended.append(last)
        if generation.finish_reason != "error":
            self.beam = []  # the end of this way is what there is to show
        return "; the best way was written to its end greedily" if last.finished else ""


class TreeSearchSpec(StrategyFields, frozen=True, kw_only=True, tag="tree_search"):
    """A beam over steps; see TreeSearch for each setting."""

    width: int = 4
    branches: int = 4
    verifier: str = "best"
    step_end: str = "\n"
    step_tokens: int = 64
    max_steps: int = 32
    token_budget: int | None = None

    def build(self, parts: Parts) -> TreeSearch:
        """See StrategyFields."""
        return TreeSearch(
            width=self.width,
            branches=self.branches,
            verifier=parts.verifier(self.verifier, asked_by="tree search"),
            params=self.params(parts.seed),
            step_end=self.step_end,
            step_tokens=self.step_tokens,
            max_steps=self.max_steps,
            token_budget=self.token_budget,
        )
