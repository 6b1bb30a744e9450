"""What does a plan do with the prompts that it gets? A picture of one plan at one value of a right answer.

The plan is learned on two thirds of the prompts of a samples log, and what is drawn is its replay on the others: the
stages from left to right, and the share of prompts that stop in each. Beside it, in figures, stands the best fixed plan
at that value on the same prompts, the intervals paired by prompt (bootstrap).

    python benchmarks/plan_picture.py --log LOG --out benchmarks/plan.png | tail -1 | jq '{ahead, stages}'
"""

import argparse
import json
from pathlib import Path

import numpy as np

from howhard.router.objective import Objective
from howhard.router.plan import START, Draw, Menu, Search, words_of
from howhard.training.commands import load_source
from howhard.training.curves import PairedMeans, resampling_weights
from howhard.training.folds import fold_of
from howhard.training.plans.contest import PlanData, fold_on
from howhard.training.plans.menus import PlanOptions, menu_of
from howhard.training.plans.picture import draw_plan, flows_of
from howhard.training.plans.replay import ByFixedPlan, ByPlan, Replayed, replay

STAGES = {"small": (1, 2, 4, 8, 16, 32), "large": (1, 2, 4, 8)}


def main() -> None:
    """Learn, replay and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True, help="a samples log of the embedded models")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("plan.png"))
    parser.add_argument("--value", type=float, default=100.0, help="of a right answer, in samples of the first model")
    parser.add_argument("--verifier", default="best", help='of the log; "none" = votes alone')
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    source = load_source(args.log)
    assert source.log is not None
    samples, outcomes, prompts = source.log.samples(), source.outcomes, source.log.prompts()
    options = PlanOptions(stages=STAGES, searches=(), verifier=args.verifier, give_up=True)
    menu = menu_of(samples, outcomes, list(source.specs.values()), source.verifiers, options)
    data = PlanData.of(samples, outcomes, prompts, menu, name=args.log.name, verifiers=source.verifiers, seed=args.seed)
    clusters = data.matrix.clusters
    judged = fold_of(data.matrix.families, split="prompt", folds=3, seed=args.seed, clusters=clusters) == 0
    fold = fold_on(data, np.flatnonzero(~judged), np.flatnonzero(judged), seed=args.seed)
    fitted = fold.plan
    unit = fitted.plan.facts.unit
    objective = Objective(value=args.value * unit)
    best = fitted.plan.best_fixed(objective)
    plan = replay(fold.runs, ByPlan(fitted.plan, objective, fitted.policy, fold.runs.prompt))
    fixed = replay(fold.runs, ByFixedPlan(best))
    draw_plan(plan, fitted.plan.facts, objective, args.out, rival=(best, fixed))

    paired = PairedMeans(resampling_weights(np.array(clusters)[judged], draws=2000, seed=args.seed))
    quality = plan.by_prompt("quality") - fixed.by_prompt("quality")
    cost = (plan.by_prompt("cost") - fixed.by_prompt("cost")) / unit
    told = {
        "value": args.value,
        "prompts": {"learned": int((~judged).sum()), "judged": int(judged.sum())},
        "plan": figures(plan, unit),
        "best_fixed": {"plan": best.words(menu), **figures(fixed, unit)},
        "ahead": {
            "quality": str(paired.interval(quality)),
            "cost": str(paired.interval(cost)),
            "utility": str(paired.interval(quality - cost / args.value)),
        },
        "stages": stages(plan, menu, unit),
        "picture": str(args.out),
    }
    print(json.dumps(told))


def figures(replayed: Replayed, unit: float) -> dict[str, float]:
    """Mean quality, and mean cost in samples of the first model."""
    return {"quality": round(float(replayed.quality.mean()), 4), "cost": round(float(replayed.cost.mean() / unit), 3)}


def stages(replayed: Replayed, menu: Menu, unit: float) -> list[dict[str, object]]:
    """The figures of the picture, from left to right."""
    told = []
    for stage in flows_of(replayed, menu).stages:
        node = stage.node
        way = Search(node.search) if node.search >= 0 else Draw(node.leg, node.drawn)
        answered = {"quality": round(stage.quality, 4), "cost": round(stage.cost / unit, 3)} if stage.stops else {}
        shares = {"here": stage.here, "stops": stage.stops, "gave_up": stage.gave_up}
        name = "start" if node == START else words_of(menu, way)
        told.append({"stage": name, **{k: round(v, 4) for k, v in shares.items()}, **answered})
    return told


if __name__ == "__main__":
    main()
