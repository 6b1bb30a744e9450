"""Where the saving of plans comes from: plans that were learned without some of what they see, or may do.

Each is learned anew on the same training prompts and replayed on the same test prompts in the same order. It is the
forests that are kept from seeing: a proven answer still ends a request, the answer in hand is the same, and so is the
best fixed plan that a step falls back to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...router.flight import OF_SAMPLES
from .contest import Fold
from .outcome import Outcome
from .rivals import Learned

AGREEMENT = ("answered", "distinct", "votes", "runner_up", "share", "entropy", "stays_ahead", "agrees")
VERIFIER = ("score_best", "score_lead", "score_mean", "score_spread")
COUNTS = ("drawn", *AGREEMENT)


@dataclass(frozen=True, slots=True)
class Ablation:
    """A plan that lacks something, as a rival of plans.

    hidden : kinds of features that its forests are not shown (PlanSettings).   alone : it has the first leg only, and
    no searches.
    """

    name: str
    hidden: tuple[str, ...] = ()
    alone: bool = False
    kind: str = "ablation"
    quick: bool = False

    def play(self, fold: Fold, values: Sequence[float]) -> list[Outcome]:
        """What it comes to on the test prompts, at each value."""
        if self.alone:
            log = fold.data.log.first_leg()
            data = replace(fold.data, log=log, seconds=fold.data.seconds[:1])
            fold = replace(fold, data=data, runs=fold.runs.first_leg(), _played={}, _ladders={})
        settings = replace(fold.settings, hidden=self.hidden)
        return Learned(fit=lambda fold: fold.fit_plan(settings)).play(fold, values)


ABLATIONS = (
    Ablation("without the prompt", hidden=("prompt",)),
    Ablation("without agreement", hidden=AGREEMENT),
    Ablation("without the verifier's scores", hidden=VERIFIER),
    Ablation("without escalation", alone=True),
    Ablation("counts alone", hidden=("prompt", *(name for name in OF_SAMPLES if name not in COUNTS))),
)
