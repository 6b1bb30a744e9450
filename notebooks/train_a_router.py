# %% [markdown]
# # Does routing pay on these prompts?
#
# A router chooses, prompt by prompt, how much compute an answer gets. It has to earn its place: against the best fixed
# arm, against a mix of arms that costs as much, and against its own picks dealt out at random. This notebook trains one
# on outcomes that others published, reads the evaluation, puts the router into a registry, and ends with a table on
# which the honest answer is no.
#
# It needs `pip install 'howhard[train]'`, no network and no GPU, and takes less than a minute. Run it in Jupyter or VS
# Code (percent format), or as a script. It writes into `howhard-notebook/` in the current folder.

# %%
from importlib.resources import files
from pathlib import Path

from howhard.router import Objective, Router
from howhard.training import champions
from howhard.training.commands import diff, evaluate, load_source, promote, train
from howhard.training.curves import Interval
from howhard.training.data_report import data_report
from howhard.training.fit import FitSettings
from howhard.training.worth import worth_having

WORK = Path("howhard-notebook")
URI = f"sqlite:///{WORK / 'mlflow.db'}"
WORK.mkdir(exist_ok=True)


def shown(i: Interval) -> str:
    """A mean with its 95 % interval."""
    return f"{i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}]"


# %% [markdown]
# ## 1. The outcomes
#
# Questions of 27 tasks (a sample of BIG-Bench Hard), each answered by Codex in two ways: at once, or after a chain of
# thought that costs 2.6 times as much. A table like this is all that training needs: which arm served which prompt, how
# good the answer was, what it cost. `howhard import` reads other shapes; `--map quality=score` names other columns.

# %%
TABLE = Path(str(files("howhard.training").joinpath("data/bbh/outcomes.parquet")))
source = load_source(TABLE)
print(data_report(source.name, source.matrix, source.outcomes, notes=source.notes).text())

# %% [markdown]
# Look at the table before training on it: arms that never win can go, empty cells mean that comparisons rest on fewer
# prompts, and with few families nobody can say what happens on a kind of prompt that was never seen. Sibling tasks (of
# three, five and seven objects) count as one family: with siblings on both sides of a split, a router looks better than
# it is.

# %% [markdown]
# ## 2. Train
#
# A quarter of the prompts is held out. Everything that is chosen (weights of the components, calibration, the strength
# of the guard, the value of a correct answer) is chosen on predictions that did not see the prompt, never on those held
# out. What can't be told from the data falls back to the best fixed arm.

# %%
trained = train(source, WORK / "router", tracking_uri=URI, quiet=True)
held, left_out = trained.report.evaluations
print(f"learned from {trained.n_learned} prompts, judged on {held.n_prompts}; MLflow run {trained.run_id}")

# %% [markdown]
# The whole report is `print(trained.report.text())`, and `howhard train` prints it. Here we read it in the order in
# which it should be believed.
#
# ## 3. Is it worth having?
#
# At a price of compute lambda, the utility of an answer is its quality minus lambda times its cost, in units of the
# dearest arm's mean cost. The rival is the fixed arm that is best at that price on these very prompts.

# %%
for p in held.prices:
    print(f"lambda {p.price:g}: {worth_having(held, p).sentence}")

# %% [markdown]
# An interval that reaches below zero is a no, however good the mean looks. Next come the comparisons that a router can
# pass by luck or by cheating:
#
# - **the hull**: two fixed arms, mixed at random, reach any point on the line between them; a router must lie above it;
# - **the shuffled control**: its own picks dealt out over the prompts. It costs as much and knows nothing, so whatever
#   it gains is a cheaper mix, not skill;
# - **simpler routers**: prompt length alone, clusters, nearest neighbours, the mean of the task.

# %%
p = held.at(0.3)
print(f"at lambda 0.3, over the mix of equal cost: {shown(p.over_hull)}")
for s in p.standings:
    beside = "" if s.name == "router" else f", router ahead by {shown(s.ahead)}"
    print(f"  {s.kind:8} {s.name:24} gain {shown(s.gain)}{beside}")

# %% [markdown]
# ## 4. Can its numbers be believed?
#
# A router acts on predicted benefits, so these must be right on average: the calibration error beside that of a perfect
# forecaster on as many prompts (which is not zero), and the slope of what was gained on what was predicted. A slope of
# 1 is right; below 1 it promises too much.

# %%
for arm in held.forecasting.arms:
    chance = f"{arm.perfect.low:.3f} to {arm.perfect.high:.3f}"
    print(f"{arm.arm:20} calibration error {arm.error:.3f}, of a perfect forecaster {chance}")
slope = held.forecasting.benefit.slope
print(f"slope of realised on predicted benefit: {'no benefit is predicted' if slope is None else shown(slope)}")
print(f"share of the variance of the differences that is foretold: {shown(held.forecasting.benefit_skill)}")
for path in trained.report.plots(WORK / "router.png"):
    print("plot:", path)

# %% [markdown]
# ## 5. And on prompts like nothing it has seen?
#
# Routers that were trained on some tasks usually LOSE to the best fixed arm on others. So whole families are left out,
# too. What is wanted here is not a gain but no harm: unfamiliar prompts are recognised, and get the best fixed arm.

# %%
for p in left_out.prices:
    flagged = (
        "" if p.flagging is None else f"; {100 * p.flagging.share.mean:.0f} % of the prompts flagged as unfamiliar"
    )
    print(f"lambda {p.price:g}: {worth_having(left_out, p).sentence}{flagged}")

# %% [markdown]
# ## 6. Decide
#
# A decision says why. The guard holds the best fixed arm where another only looks better, and a prompt unlike those of
# training is known as unfamiliar.

# %%
router = Router.load(WORK / "router")


def example(group: str) -> str:
    """The first prompt of a task."""
    return source.matrix.texts[source.matrix.groups.index(group)]


for text in (example("multistep_arithmetic_two"), example("ruin_names"), "Write a poem about the sea."):
    decision = router.decide(text)
    print(f"{' '.join(text.split())[:100]!r}, {'familiar' if decision.familiar else 'unfamiliar'}")
    print(decision.explain(), "\n")

# %% [markdown]
# What a correct answer is worth is the caller's to say, per request if need be, in the currency of the costs; nothing
# is trained anew for it. A value at which the router was never checked gives a warning.

# %%
for value in (0.002, 0.01, 0.05):
    print(f"worth {value:g}: {router.decide(example('movie_recommendation'), Objective(value=value))}")

# %% [markdown]
# ## 7. The champion, and who wants its place
#
# `train` has registered the router in MLflow as a plain directory, with the versions of data and code that made it. The
# first one became champion, and the prompts held out from it became the fixed holdout: every later router is judged on
# these very prompts, may not have seen them, and must be surely better, not just better.

# %%
print(trained.proposed.text())

# %% [markdown]
# A challenger that reads nothing but the words, and what would change with it. Read the line of the prompts that
# neither was trained on: on its own training prompts every router looks better than it is.

# %%
words = train(source, WORK / "words", settings=FitSettings(components=("text",)), tracking_uri=URI, quiet=True)
print(words.proposed.text())

# %%
changes = diff(WORK / "router", WORK / "words", TABLE, tracking_uri=URI)
print(changes.text())

# %% [markdown]
# Somebody may know better than the interval. Force promotes all the same, and writes on the version who did it, when
# and why; `rollback` finds the way back. On the command line: `howhard promote --force`, `rollback` and `diff`.

# %%
forced = promote(WORK / "words", TABLE, force=True, why="to show it", tracking_uri=URI)
print(forced.text())
print(champions.rollback("it was to show it", tracking_uri=URI).text())
print("serving now:", Router.load("models:/howhard-router@champion", tracking_uri=URI))

# %% [markdown]
# ## 8. When the answer is no
#
# Game of 24: 100 puzzles, GPT-4, eight ways from one sample to tree search. Every puzzle is four numbers, and little
# about four numbers tells which puzzle is hard. An oracle would save a lot; a router learned on so few can't, and says
# so.

# %%
GAME = Path(str(files("howhard.training").joinpath("data/game24/outcomes.parquet")))
no = evaluate(GAME, split="prompt", quiet=True).reports[0].evaluations[0]
for p in no.prices:
    print(f"lambda {p.price:g}: {worth_having(no, p).sentence}")
    print(f"  the oracle that peeks at the outcome: {shown(p.standing('oracle (peeks)').gain)}")

# %% [markdown]
# A router that is not worth having costs nothing either: where nothing can be told, it serves the best fixed arm.

# %%
yes = worth_having(held, held.at(0.3))
print(f"Does routing pay at lambda 0.3? On BIG-Bench Hard: {yes.sentence}.")
print(f"On the Game of 24: {worth_having(no, no.at(0.3)).sentence}.")
