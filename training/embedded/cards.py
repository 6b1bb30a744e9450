"""Write the model cards from measured figures: no number in a card is typed by hand.

The figures come from howhard.training.embedded.curves by way of `figures.json`, which stands beside each card.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

FRONT = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: {task}
tags: [howhard, synthetic, tiny]
---

# {name}

{what}

**For showing and testing howhard's router. Not an assistant**: outside the four kinds of problems below it writes
nonsense, and inside them it is wrong as often as the tables say; that is what it is for.

| | |
| --- | --- |
| parameters | {parameters:,} |
| architecture | Llama, width {width}, {layers} layers, {heads} heads of 32, context 512, tied embeddings |
| tokens | one per word, whole number 0 to 199, mark and line break; input is the prompt and a newline |
| training | {training} |
| storage | bf16 (computed in fp32) |
| licence | Apache-2.0; made from generated problems alone, no third party's data or weights |
| made by | `python -m howhard.training.embedded --out models --seed 0` |

"""

FAMILIES_TEXT = """## The problems

| family | dial | how a solution is judged |
| --- | --- | --- |
| `chain` | 2 to 14 operations modulo 97, a line each | answer; a wrong step is easy to see and can't be repaired |
| `countdown` | 2 to 6 numbers to join into a target | exact check; a partial solution is hard to judge |
| `path` | 4 to 14 towns joined by roads | exact check |
| `remainder` | a product modulo 11, factors up to 9 ... 199, no steps | answer; nothing to check it against |

"""


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of one cell: its name, quality in [0, 1], generated tokens and the reward model's new tokens."""

    name: str
    quality: float
    generated: float
    judged: float

    @property
    def tokens(self) -> float:
        """Tokens in all, the reward model's priced like generated ones; prompt and earlier steps read once."""
        return self.generated + self.judged


def by_n(curve: Mapping, n: int) -> float:
    """Read a curve that JSON may have given string keys."""
    return curve[str(n)] if str(n) in curve else curve[n]


def arms_of(cell: Mapping, family: str) -> dict[str, Arm]:
    """List the arms of a cell by name: single, sound best-of-8, votes, best-of-N with the reward model, search."""
    arms: list[Arm] = []
    for model, short in (("tiny-small", "small"), ("tiny-large", "large")):
        own, prompt = cell[model], cell["prompt_tokens"]
        arms.append(Arm(f"{short} single", own["pass"], own["tokens"], 0))
        if family in ("countdown", "path"):
            arms.append(Arm(f"{short} best-of-8, exact check", by_n(own["coverage"], 8), 8 * own["tokens"], 0))
        if "votes" in own:
            arms.append(Arm(f"{short} votes of 8", by_n(own["votes"], 8), 8 * own["tokens"], 0))
        arms += [
            Arm(
                f"{short} best-of-{n}, tiny-prm",
                by_n(own["best_of_prm"], n),
                n * own["tokens"],
                prompt + n * own["tokens"],
            )
            for n in (4, 8, 16)
        ]
    for size, found in cell["search"].items():
        arms.append(Arm(f"small search {size}, tiny-prm", found["quality"], found["generated"], found["prm_read"]))
    return {arm.name: arm for arm in arms}


def best_of_at(cell: Mapping, tokens: float) -> float:
    """Quality of best-of-N with the reward model (small model) at so many tokens in all, between Ns linearly."""
    own, prompt = cell["tiny-small"], cell["prompt_tokens"]
    points = [(prompt + 2 * n * own["tokens"], by_n(own["best_of_prm"], n)) for n in (1, 2, 4, 8, 16)]
    if tokens <= points[0][0]:
        return points[0][1]
    for (low, a), (high, b) in pairwise(points):
        if tokens <= high:
            return a + (b - a) * (tokens - low) / (high - low)
    return points[-1][1]


def regime_rules() -> dict[str, tuple[str, Callable[[Mapping, dict[str, Arm]], float | None]]]:
    """Regime -> (what it means, margin of a cell: how clearly it belongs there, None where it doesn't)."""

    def easy(cell: Mapping, arms: dict[str, Arm]) -> float | None:
        quality = arms["small single"].quality
        return quality - 0.9 if quality >= 0.9 else None

    def covering(cell: Mapping, arms: dict[str, Arm]) -> float | None:
        sound = arms.get("small best-of-8, exact check")
        gain = sound.quality - arms["small single"].quality if sound else 0.0
        return gain if sound and gain >= 0.15 else None

    def accumulating(cell: Mapping, arms: dict[str, Arm]) -> float | None:
        gains = [arm.quality - best_of_at(cell, arm.tokens) for name, arm in arms.items() if "search" in name]
        return max(gains) if max(gains) >= 0.05 else None

    def weak(cell: Mapping, arms: dict[str, Arm]) -> float | None:
        single, judged = arms["small single"].quality, arms["small best-of-8, tiny-prm"].quality
        voted = arms.get("small votes of 8")
        if voted is not None and voted.quality - max(judged, single) >= 0.02:
            return voted.quality - judged
        there = by_n(cell["tiny-small"]["coverage"], 8) - single
        return there - (judged - single) if there >= 0.15 and judged - single < there / 3 else None

    def hopeless(cell: Mapping, arms: dict[str, Arm]) -> float | None:
        best = max(arm.quality for arm in arms.values())
        return 0.3 - best if best < 0.3 else None

    return {
        "easy": ("one pass of the small model is enough (>= .90)", easy),
        "coverage": ("best-of-8 with the exact check gains .15 or more on a single pass", covering),
        "accumulating errors": (
            "step search beats best-of-N with the same judge at equal tokens by .05 or more",
            accumulating,
        ),
        "weak verifier": (
            "votes of eight beat best-of-8 by tiny-prm, or it finds under a third of what eight samples hold (small N)",
            weak,
        ),
        "hopeless": ("no arm of either model reaches .30", hopeless),
    }


def regimes(cells: Mapping[str, Mapping]) -> dict[str, list[tuple[str, float]]]:
    """Regime -> cells that belong there with their margins, clearest first."""
    found: dict[str, list[tuple[str, float]]] = {}
    for name, (_, margin) in regime_rules().items():
        own = [
            (key, value)
            for key, cell in cells.items()
            if (value := margin(cell, arms_of(cell, key.split("-")[0]))) is not None
        ]
        found[name] = sorted(own, key=lambda pair: -pair[1])
    return found


def _f(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value < 1 else f"{value:.2f}"


def curves_table(cells: Mapping[str, Mapping], model: str) -> str:
    """One row per cell: single pass, the other model's, coverage at 8, votes of 8, best-of-N by the reward model."""
    other = "tiny-small" if model == "tiny-large" else "tiny-large"
    rows = [
        f"| family-level | single pass (± s.e.) | {other} | one of 8 right | votes of 8 | tiny-prm best of 4, 8, 16 | "
        "tokens |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, cell in cells.items():
        own = cell[model]
        voted = _f(by_n(own["votes"], 8)) if "votes" in own else "(exact check)"
        judged = " / ".join(_f(by_n(own["best_of_prm"], n)) for n in (4, 8, 16))
        rows.append(
            f"| {key} | {_f(own['pass'])} ± {_f(own['pass_se'])} | {_f(cell[other]['pass'])} | "
            f"{_f(by_n(own['coverage'], 8))} | {voted} | {judged} | {own['tokens']:.0f} |"
        )
    return "\n".join(rows)


def search_table(cells: Mapping[str, Mapping]) -> str:
    """One row per cell: each step search against best-of-N at the same number of tokens."""
    sizes = list(next(iter(cells.values()))["search"])
    heads = " | ".join(f"search {size}: quality (tokens), best-of-N there" for size in sizes)
    rows = [f"| family-level | single pass | {heads} |", "| --- | --- |" + " --- |" * len(sizes)]
    for key, cell in cells.items():
        arms = arms_of(cell, key.split("-")[0])
        parts = []
        for size in sizes:
            arm = arms[f"small search {size}, tiny-prm"]
            parts.append(f"{_f(arm.quality)} ({arm.tokens:.0f}), {_f(best_of_at(cell, arm.tokens))}")
        rows.append(f"| {key} | {_f(cell['tiny-small']['pass'])} | " + " | ".join(parts) + " |")
    return "\n".join(rows)


def regime_text(cells: Mapping[str, Mapping]) -> str:
    """Say for each regime which cells have it, with every arm of the clearest one; or that it was not reached."""
    parts = [
        "## The regimes\n\nTokens are generated ones plus those that tiny-prm read, both at the price of one, prompt "
        "and earlier steps\nread once (a prefix cache); a token of the large model is dearer than one of the small.\n"
    ]
    outvoted = [
        key
        for key, cell in cells.items()
        if "votes" in cell["tiny-small"]
        and by_n(cell["tiny-small"]["votes"], 8) - by_n(cell["tiny-small"]["best_of_prm"], 8) >= 0.02
    ]
    parts.append(f"Cells in which votes of eight beat best-of-8 by tiny-prm: {', '.join(outvoted) or 'none'}.\n")
    found = regimes(cells)
    for name, (meaning, _) in regime_rules().items():
        own = found[name]
        if not own:
            parts.append(f"**{name}** ({meaning}): **not reached** by any cell.\n")
            continue
        key = own[0][0]
        arms = arms_of(cells[key], key.split("-")[0])
        listed = ", ".join(cell for cell, _ in own)
        rows = "\n".join(f"| {arm.name} | {_f(arm.quality)} | {arm.tokens:.0f} |" for arm in arms.values())
        parts.append(
            f"**{name}** ({meaning}): {listed}. The clearest, `{key}`:\n\n| arm | quality | tokens |\n"
            f"| --- | --- | --- |\n{rows}\n"
        )
    return "\n".join(parts)


def write_card(
    directory: Path,
    *,
    name: str,
    what: str,
    task: str,
    training: str,
    config: Mapping,
    parameters: int,
    cells: Mapping[str, Mapping],
    seed: int,
) -> None:
    """Write README.md of one model from the measured cells."""
    some = next(iter(cells.values()))
    head = FRONT.format(
        name=name,
        what=what,
        task=task,
        training=training,
        parameters=parameters,
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
    )
    measured = (
        f"Measured with {some['prompts']} fresh prompts per cell (seed {10_000 + seed}) and 16 samples each at "
        "temperature 1; curves\nin `figures.json`. The easiest cells hold so few different prompts that training has "
        "met most of them.\n\n"
    )
    if name == "tiny-prm":
        body = (
            "## Best of N by this model, solutions of tiny-small\n\n"
            + measured
            + curves_table(cells, "tiny-small")
            + "\n\n## Best of N by this model, solutions of tiny-large\n\n"
            + curves_table(cells, "tiny-large")
            + "\n\n## Step search (tiny-small writes, this model judges) against best-of-N at equal tokens\n\n"
            + search_table(cells)
            + "\n\n"
            + regime_text(cells)
        )
    else:
        body = "## What compute buys\n\n" + measured + curves_table(cells, name) + "\n\n" + regime_text(cells)
    (directory / "README.md").write_text(head + FAMILIES_TEXT + body)
