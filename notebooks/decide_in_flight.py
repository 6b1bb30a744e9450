# %% [markdown]
# # How much compute does this request need, now that it has begun?
#
# A router that looks at the prompt alone has to guess. The first samples know more: two that agree, or one that a
# verifier accepts, say "stop"; four different answers say "go on", or "ask the larger model", or "leave it". A plan
# learns from logged samples what each of these is worth, and decides in the middle of a request.
#
# This notebook logs samples of two small models that come with howhard, learns a plan, and follows single requests step
# by step. It needs `pip install 'howhard[all]'`, no network and no GPU, and takes about a minute. Run it in Jupyter or
# VS Code (percent format), or as a script. It writes into `howhard-flight/` in the current folder.

# %%
from pathlib import Path

import msgspec

from howhard.router import Objective, Router
from howhard.router.plan import Draw
from howhard.router.plan_run import Deciding, Flight
from howhard.router.router import RoutedResult
from howhard.training.commands import collect, held_out, load_source, train
from howhard.training.config import embedded_config
from howhard.training.plans.menus import PlanOptions
from howhard.training.problems.families import fresh_problems
from howhard.training.prompt_sets import from_problems

WORK = Path("howhard-flight")
URI = f"sqlite:///{WORK / 'mlflow.db'}"
WORK.mkdir(exist_ok=True)

# %% [markdown]
# ## 1. Log samples, once
#
# 200 fresh problems of two kinds, eight samples of the small and of the large model for each, with a verdict on every
# sample: whether a calculation or a path is right can be checked exactly. All that follows comes from this log: how
# often samples agree, how good they are, what one costs.

# %%
config = embedded_config()
config = msgspec.structs.replace(config, arms=[arm for arm in config.arms if "beam" not in arm.name])
prompts = from_problems(fresh_problems(200, seed=7, families=("countdown", "path")))
collected = collect(config, prompts, WORK / "log", samples=8, tracking_uri=URI, quiet=True)
print(collected.text())

# %% [markdown]
# ## 2. Learn a plan
#
# The menu: one, two, four or eight samples of the small model; then one, two or four of the large one, whose tokens
# cost 6.3 times as much; at any time stop with the best answer so far; or give up before anything is drawn. What each
# of these will come to is learned backwards, from the last stage to the first, on two thirds of the prompts. The value
# of a right answer is left open: a plan is learned for all values at once.
#
# On the command line: `howhard train LOG --plan`.

# %%
source = load_source(WORK / "log")
menu = PlanOptions(stages={"small": (1, 2, 4, 8), "large": (1, 2, 4)}, give_up=True)
how = {"value": 1500, "holdout": 1 / 3, "register": False, "tracking_uri": URI, "quiet": True}
trained = train(source, WORK / "router", plan=menu, **how)
assert trained.plans is not None
print(trained.plans.text())

# %% [markdown]
# The table is about prompts that taught the plan nothing. So few of them leave wide intervals; `benchmarks/plans.md`
# has the figures on thousands.
#
# ## 3. One request after another
#
# The router loads the plan with everything else. `run` starts with the step that the prompt alone suggests, then looks
# at what has come back, and decides again. Here are held-out problems, live, on fresh samples. A right answer is worth
# 1,500 credits, as `train` was told; below, costs are in samples of the small model.

# %%
router = Router.load(WORK / "router")
plan = router.plan
assert plan is not None
unit = plan.facts.unit
print(f"a right answer is worth {router.objective.value / unit:.0f} samples of the small model")
held = source.matrix.rows(held_out(source.matrix.clusters, 1 / 3))
runs = {text: router.run_sync(text) for text in held.texts[:48]}
costs = [routed.result.usage.cost / unit for routed in runs.values()]
larger = sum(any(step.action.startswith("large") for step in routed.steps) for routed in runs.values())
none = sum(routed.steps[-1].action == "give up" for routed in runs.values())
print(f"{len(runs)} requests: {larger} went on to the large model, {none} were given up")


def tell(text: str, routed: RoutedResult) -> None:
    """One request: what was seen at each step, and what was done next."""
    print(" ".join(text.split()))
    for step in routed.steps:
        print(f"  {step}\n    {step.sentence} Spent so far: {step.spent / unit:.1f}.")
    print(f"  answer: {' / '.join((routed.answer or 'none').splitlines())}\n")


# %% [markdown]
# The easiest: an answer is proven right, and the request stops at once.

# %%
answered = [text for text, routed in runs.items() if routed.steps[-1].action != "give up"]
easy = min(answered, key=lambda text: (runs[text].steps[-1].reason != "proven", runs[text].result.usage.cost))
tell(easy, runs[easy])

# %% [markdown]
# One that looks so hopeless that nothing is drawn for it, if there is one among these:

# %%
for text in [text for text in runs if text not in answered][:1]:
    tell(text, runs[text])

# %% [markdown]
# And the one on which the plan had most to decide: what the samples show makes it go on, until what is in hand is good
# enough, or more of it is no longer worth its price.


# %%
def decided(text: str) -> tuple[int, int]:
    """How many steps the plan weighed up itself, and how many there were."""
    steps = runs[text].steps
    return sum(step.reason == "best_utility" for step in steps), len(steps)


hard = max(runs, key=decided)
tell(hard, runs[hard])

# %% [markdown]
# Each step holds what was predicted of everything that could be done there, so that it can be questioned. `quality` is
# that of the answer at the end, if the plan goes on from there; `cost` (in credits) and `latency` are those of the
# whole request. `benefit` is over the best fixed plan's way, which the step keeps to where nothing is surely better.

# %%
print(runs[hard].steps[len(runs[hard].steps) // 2].explain())

# %% [markdown]
# ## 4. The same samples, the same decisions
#
# Nothing but the samples decides: no clock, no order in which they happen to end. So a request can be decided again
# afterwards, on the samples that it drew, and comes to the same steps. This is what lets a plan be judged on a log
# before it serves anybody.


# %%
def again(text: str, routed: RoutedResult) -> list[str]:
    """The decisions on a request's recorded samples."""
    assert plan is not None
    flight = Flight(Deciding(plan, router.objective, router.plan_policy), plan.start(router.estimate([text])))
    action = flight.next()
    while isinstance(action, Draw):
        before = sum(map(len, flight.samples[: action.leg]))  # those of the small model come first
        samples = routed.result.candidates[before : before + action.total]
        flight.drew(action, samples, spent=routed.steps[len(flight.steps)].spent)
        action = flight.next()
    return [step.action for step in flight.steps]


same = [again(text, r) == [step.action for step in r.steps] for text, r in runs.items()]
print(f"{sum(same)} of {len(same)} requests decided again: the same steps")

# %% [markdown]
# ## 5. Another price, the same plan
#
# What a right answer is worth, and what a second of waiting costs, is said per request; nothing is learned anew. Where
# an answer is worth little, prompts that look hopeless are given up before anything is drawn:

# %%
for worth in (3, 30, 150):
    first = router.decide_many(held.texts, Objective(value=worth * unit))
    print(f"worth {worth} samples: {sum(d.arm == 'give up' for d in first)} of {len(first)} given up unseen")

# %% [markdown]
# The hard problem once more, on fresh samples: the more an answer is worth, the longer it is looked for, up to the
# large model; and where waiting is dear, what could be drawn one after another is drawn at once, or not at all.

# %%
for worth, second in ((3, 0), (30, 0), (150, 0), (150, 1000)):
    routed = router.run_sync(hard, Objective(value=worth * unit, price_of_second=second * unit))
    way = ", ".join(step.action for step in routed.steps)
    print(f"worth {worth} samples, a second {second}: {way}. Cost: {routed.result.usage.cost / unit:.1f}")

# %% [markdown]
# ## 6. The plan in one picture
#
# The held-out prompts once more, replayed on their logged samples: what share of them stops where, and how many of the
# answers there are right. `train` has drawn it beside the router.

# %%
print("picture:", trained.plans.picture)
print(f"How much compute did they need? Between {min(costs):.1f} and {max(costs):.1f} samples of the small model.")
