"""The main job in one go, on a machine without a GPU: record, train, evaluate, and three prompts decided live.

It joins what `howhard collect` and `howhard train` do, on fresh problems of the embedded families; nothing here is
done in another way than on a user's own server.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..router.estimates import Estimates
from ..router.router import RoutedResult, Router
from ..strategies.errors import InputError
from .commands import CollectReport, TrainReport, collect, held_out, load_source, train
from .config import embedded_config
from .matrix import OutcomeMatrix
from .problems.families import fresh_problems
from .progress import bars
from .prompt_sets import from_problems
from .tracking import ui_command

FEWEST = 60


@dataclass(frozen=True, slots=True)
class Example:
    """A held-out prompt, and what the router did with it."""

    title: str
    prompt: str
    routed: RoutedResult

    def text(self) -> str:
        """For people."""
        answer = self.routed.text.strip().replace("\n", " / ")
        return "\n".join([f"{self.title}: {self.prompt}", self.routed.decision.explain(), f"  answer: {answer}"])

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        decision = self.routed.decision.to_dict()
        return {"title": self.title, "prompt": self.prompt, "answer": self.routed.text, "decision": decision}


@dataclass(frozen=True, slots=True)
class QuickstartReport:
    """What was recorded and learned, the three examples, and where everything lies."""

    collected: CollectReport
    trained: TrainReport
    examples: tuple[Example, ...]

    def text(self) -> str:
        """For people."""
        uri, out = self.trained.tracking_uri, self.trained.out
        return "\n\n".join(
            [
                self.trained.report.text(),
                *(example.text() for example in self.examples),
                "\n".join(
                    [
                        f"log      {self.collected.log}",
                        f'router   {out}      howhard route "Use 3, 5 and 7 to make 36." --router {out}',
                        f"plot     {out.with_suffix('.png')}",
                        f"MLflow   {uri}      {ui_command(uri)}",
                    ]
                ),
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "collected": self.collected.to_dict(),
            "trained": self.trained.to_dict(),
            "examples": [example.to_dict() for example in self.examples],
        }


def quickstart(
    directory: Path,
    *,
    n_prompts: int = 480,
    n_samples: int = 16,
    holdout: float = 1 / 3,
    seed: int = 0,
    quiet: bool = False,
) -> QuickstartReport:
    """Record the embedded models on `n_prompts` fresh problems, train, evaluate on those held out, decide three.

    directory : log/, router/, router.png and mlflow.db go there; what is recorded already is not drawn again.
    holdout   : share of the prompts that the router is judged on and not trained on.
    """
    if n_prompts < FEWEST:
        raise InputError(f"prompts={n_prompts}: at least {FEWEST} are needed to learn anything and to check it")
    config = embedded_config()
    directory.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{directory / 'mlflow.db'}"
    prompts = from_problems(fresh_problems(n_prompts, seed))
    with bars(quiet=quiet) as progress:
        collected = collect(
            config, prompts, directory / "log", samples=n_samples, tracking_uri=uri, progress=progress, quiet=quiet
        )
    source = load_source(directory / "log").only(prompts["prompt_id"].tolist())
    trained = train(
        source,
        directory / "router",
        holdout=holdout,
        tracking_uri=uri,
        seed=seed,
        quiet=quiet,
    )
    held = source.matrix.rows(held_out(source.matrix.clusters, holdout))
    return QuickstartReport(collected, trained, _examples(trained.out, held))


def _examples(directory: Path, held: OutcomeMatrix) -> tuple[Example, ...]:
    """The held-out prompts that the router finds easiest, most worth its while, and most hopeless, run for real."""
    router = Router.load(directory)
    estimates = router.estimate(held.texts)
    picks = {
        "easy": int(np.argmin(estimates.difficulty)),
        "middling": int(np.argmax(_gain(router, estimates))),
        "hopeless": int(np.argmin(estimates.quality.max(axis=1))),
    }
    return tuple(Example(title, held.texts[i], router.run_sync(held.texts[i])) for title, i in picks.items())


def _gain(router: Router, estimates: Estimates) -> np.ndarray:
    """What the chosen arm is expected to add over the reference arm, float (n,)."""
    index = router.policy.choose(estimates, router.objective).index
    reference = estimates.quality[:, estimates.index(estimates.reference)]
    return estimates.quality[np.arange(len(index)), index] - reference
