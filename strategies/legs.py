"""A run that is made of others: what they spend is booked in one place, and their events are told as one run's.

A cascade runs stages, a learned plan the legs that it decides on; both in this way. What is run, and when, is theirs.
"""

import asyncio
import hashlib
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .base import Backend, Budget, Candidate, Request, Strategy, StrategyResult, Trace, Usage
from .running import Run

if TYPE_CHECKING:
    from .search.tree import Tree


class Whole:
    """The run that the legs are part of.

    run : its books, budget and trace.   legs : in the order in which they were launched.
    """

    def __init__(self, request: Request, backend: Backend, budget: Budget | None, trace: Trace | None) -> None:
        self.legs: list[Leg] = []
        self.numbers = itertools.count()  # of the nodes of all legs
        self._told: list[dict[str, Any]] = []
        self._trace = trace
        self.run = Run(request, backend, budget, self._tell)

    def result(self, best: Candidate | None, stopped_because: str, *, tree: "Tree | None" = None) -> StrategyResult:
        """Close the run: the samples of all legs in the order of launch, waves numbered on; see `Run.result`."""
        waves = 0
        for leg in self.legs:
            for sample in leg.samples:
                sample["wave"] += waves
            waves = max((sample["wave"] + 1 for sample in leg.samples), default=waves)
            self._told += leg.samples
        return self.run.result([sample["candidate"] for sample in self._told], best, stopped_because, tree=tree)

    def _tell(self, event: str, fields: Mapping[str, Any]) -> None:
        """Pass an event on; a sample is told as its own leg told it."""
        if self._trace is None:
            return
        if event == "sample":
            held = self._told[fields["index"]]
            own = {name: fields[name] for name in ("index", "candidate", "chosen")}
            if held["verifier"] is None:
                own |= {name: fields[name] for name in fields if name.startswith("verifier")}
            fields = {**held, **own}
        self._trace(event, fields)


class Leg:
    """One of the runs, of a strategy on a backend: it is the trace of its own run, and keeps what that tells.

    samples : its "sample" events.   result : what it came to; None until it is known.
    """

    def __init__(self, whole: Whole, strategy: Strategy, backend: Backend) -> None:
        self.whole, self.place = whole, len(whole.legs)
        self.strategy, self.backend = strategy, backend
        self.runs: list[Run] = []
        self.samples: list[dict[str, Any]] = []
        self.result: StrategyResult | None = None
        self._numbers: dict[object, int] = {}
        self._stopping = False
        whole.legs.append(self)

    def start(self, budget: Budget | None) -> "asyncio.Task[StrategyResult]":
        """Begin; what it tells comes here."""
        work = self.strategy.run(self.whole.run.request, self.backend, budget=budget, trace=self)
        return asyncio.ensure_future(work)

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """See Trace. Samples wait for the end, when it is known which of them is chosen."""
        if event == "begin":
            self.runs.append(fields["run"])
            if self._stopping:
                asyncio.get_running_loop().call_soon(fields["run"].stop)
        elif event == "sample":
            self.samples.append({**fields, "stage": self.place})
        elif event == "node":
            node, parent = fields["node"], fields.get("parent")
            renumbered = {"node": self._number(node), "parent": None if parent is None else self._number(parent)}
            self.whole.run.trace("node", **{**fields, **renumbered, "stage": self.place})
        else:
            self.whole.run.trace(event, **{**fields, "stage": self.place})

    def stop(self, task: "asyncio.Task[StrategyResult]") -> None:
        """End it early, with what it has. One that has not begun is called off, but for the first: what that is about
        to draw is all that there would be to return.
        """
        for run in self.runs:
            run.stop()
        if not self.runs and self.place:
            task.cancel()
        self._stopping = True

    def _number(self, node: object) -> int:
        if node not in self._numbers:
            self._numbers[node] = next(self.whole.numbers)
        return self._numbers[node]

    @property
    def usage(self) -> Usage:
        """What it has spent. The first run to begin is the leg's own, whatever runs that one is made of."""
        if self.result is not None:
            return self.result.usage
        return self.runs[0].meter.usage if self.runs else Usage()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return self.runs[0].meter.seconds if self.runs else 0.0

    @property
    def out_of_time(self) -> bool:
        """Whether its time was over, or it was stopped, before it came to its end."""
        return any(run.out_of_time for run in self.runs)

    @property
    def chosen(self) -> Candidate | None:
        """What it returned."""
        return next((s["candidate"] for s in self.samples if s["chosen"]), None)

    def learn(self, candidate: Candidate) -> None:
        """Have the chosen candidate replaced by one of which more is known."""
        for sample in self.samples:
            if sample["chosen"]:
                sample["candidate"] = candidate


def further_seed(seed: int, place: int) -> int:
    """A seed for a leg, below 2^31, made of the whole's own, which the first leg has.

    Two legs on one backend must not draw the same samples again, nor those of a cascade within a cascade: such a one
    has a seed of its own even where it is the first leg.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{place}".encode()).digest()[:4], "big") // 2
