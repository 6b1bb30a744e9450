"""Plans made by hand: trees of two leaves, and actions that come to what a test says."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from howhard.router.estimates import ArmMeans
from howhard.router.joint_trees import JointForest
from howhard.router.plan import (
    QUANTILES,
    Action,
    Draw,
    FixedPlan,
    Leg,
    Menu,
    Node,
    NodeModel,
    Plan,
    PlanFacts,
    Search,
    actions_at,
    feature_names,
    nodes_of,
)
from howhard.strategies.answers import EXTRACTOR

ARMS = ("small/single", "small/vote_of_4", "large/single")
MENU = Menu(
    legs=(Leg(backend="small", stages=(1, 2, 4, 8)), Leg(backend="large", stages=(1, 2))),
    searches=("small/vote_of_4",),
)
FIXED = (
    FixedPlan(legs=((0, (4,)),), settled=2.0),
    FixedPlan(legs=((0, (1, 2, 4, 8)), (1, (1,))), settled=0.9),
    FixedPlan(legs=((1, (1,)),), settled=2.0),
    FixedPlan(search=0),
)
MEMBERS = 2

Outcome = tuple[float, float, float]
"""Quality at the end, cost and seconds to go."""


def text_of(n_features: int, splits: list[tuple[int, float]]) -> str:
    """A LightGBM text model of a tree of two leaves per split; the leaves are numbered over all trees."""
    head = f"tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nmax_feature_idx={n_features - 1}\nobjective=none"
    trees = [
        f"Tree={t}\nnum_leaves=2\nnum_cat=0\nsplit_feature={feature}\nthreshold={threshold!r}\ndecision_type=8\n"
        f"left_child=-1\nright_child=-2\nleaf_value={2 * t} {2 * t + 1}\n"
        for t, (feature, threshold) in enumerate(splits)
    ]
    return f"{head}\n\n" + "\n".join(trees) + "\nend of trees\n\n"


def made_plan(
    outcomes: Mapping[Any, Outcome] | None = None,
    *,
    menu: Menu = MENU,
    fixed: tuple[FixedPlan, ...] = FIXED,
    best: int = 0,
    error: float = 0.0,
    random: int | None = None,
    arms: tuple[str, ...] = ARMS,
    **facts: object,
) -> Plan:
    """A plan whose actions come to `outcomes`, by node and action; those not named give .5 for 10 more, in a second.

    best : place of the fixed plan that is the best at every objective.   error : of all differences of qualities.
    random : a seed: the outcomes depend on the features, by trees drawn at random.
    """
    width = len(feature_names(menu, arms))
    rng = np.random.default_rng(random)
    nodes = {}
    for node in nodes_of(menu):
        actions = actions_at(menu, node)
        a, trees = len(actions), 1 if random is None else 12
        base = np.array([(outcomes or {}).get((node, action), (0.5, 10.0, 1.0)) for action in actions]).T.ravel()
        splits = [(int(rng.integers(width)), float(rng.normal())) for _ in range(trees)]
        tables = [
            (rng.normal(0, 0.0 if random is None else 0.1, (2 * trees, 3 * a))).astype(np.float32)
            for _ in range(MEMBERS)
        ]
        nodes[node] = NodeModel(
            forest=JointForest.of("made", [text_of(width, splits)] * MEMBERS, tables),
            base=np.tile(base, (MEMBERS, 1)),
            error=error * (1 - np.eye(a)),
            tails=np.tile([1.0, 1.5, 2.0, 3.0], (a, 1)),
        )
    f = len(fixed)
    settings: dict[str, object] = {
        "menu": menu,
        "fixed": fixed,
        "unit": 10.0,
        "seconds": ((0.1, 0.01, 0.0),) * len(menu.legs),
        "search_seconds": (1.0,) * len(menu.searches),
        "extractor": EXTRACTOR,
        "n_prompts": 100,
        "n_samples": 8,
    }
    means = ArmMeans(
        quality=np.where(np.arange(f) == best, 0.9, 0.1),
        cost=np.full(f, 40.0),
        seconds=np.full(f, 1.0),
        quality_se=np.zeros((f, f)),
    )
    return Plan(facts=PlanFacts(**{**settings, **facts}), arms=arms, nodes=nodes, fixed_means=means)  # type: ignore[arg-type]


def every_action(menu: Menu, wanted: Callable[[Action], bool], outcome: Outcome) -> dict[tuple[Node, Action], Outcome]:
    """The same outcome for every action of a kind, wherever it is open."""
    return {(n, a): outcome for n in nodes_of(menu) for a in actions_at(menu, n) if wanted(a)}


def goes_on(action: Action) -> bool:
    """Whether an action draws or searches."""
    return isinstance(action, Draw | Search)


__all__ = ["ARMS", "FIXED", "MEMBERS", "MENU", "QUANTILES", "every_action", "goes_on", "made_plan", "text_of"]
