"""Small problems with exact answers, for small instruct models that write little: kinds, levels, seeds.

A log of two real models on a CPU costs a second for every few dozen tokens, so an answer is one line ("Answer: 93"),
at most with a short line of working before it. Two worked examples per kind fix the form; they are the same for all
problems of a kind, so a server's prefix cache holds them. Five levels a kind take a problem from nearly always right
to nearly hopeless: what a plan needs to see is prompts that differ in how often a sample is right.

Everything is of our own making and follows from the seed: other seeds give other problems, of the same difficulty.

    python benchmarks/plans_qwen_problems.py --n 70 --seed 1 --out problems.jsonl    # or without --out: to look at
"""

import argparse
import calendar
import contextlib
import io
import json
import random
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

LEVELS = (1, 2, 3, 4, 5)
_DAYS = list(calendar.day_name)


def _split(words: str) -> list[str]:
    return words.split()


_WORDS = _split(
    "apple bridge candle dragon engine forest garden hammer island jacket kettle ladder marble needle orange pepper "
    "quarry ribbon silver temple umbrella velvet window yellow zipper anchor basket cherry desert eleven feather "
    "guitar helmet insect jungle kitten lemon mirror napkin oyster pencil rabbit saddle turtle violin walnut banana "
    "carpet dinner effort flower ginger harbor icicle jasmine kernel lantern monkey nature office parrot quartz "
    "rocket summer tomato useful valley winter xenon yogurt zebra cloud stone river plane chair table house mouse "
    "bread water light night green brown tiger eagle shark whale"
)
_LONG = _split(
    "mississippi assessment bookkeeper committee parallelogram responsibility accommodation characteristic "
    "independence embarrassment possession millennium questionnaire successfully unnecessary entrepreneur "
    "hippopotamus photosynthesis international rhododendron correspondence disappearance encyclopedia "
    "multiplication refrigerator trigonometry extraterrestrial misunderstanding tennessee beekeeper "
    "nevertheless whatsoever peppermint banister cooperation anniversary celebration extraordinary"
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: what the model reads, and the right answer. `kind` and `level` say how it was made.

    examples : worked ones, shown as earlier turns of the chat: small models keep to their form, which they don't to
        one that is only described, or shown within one message.
    """

    kind: str
    level: int
    examples: Sequence[tuple[str, str]]
    question: str
    reference: str

    def messages(self) -> list[dict[str, str]]:
        """The chat."""
        turns = [turn for question, answer in self.examples for turn in (("user", question), ("assistant", answer))]
        return [{"role": role, "content": content} for role, content in (*turns, ("user", self.question))]


# ── the kinds: a question and its answer from a level and a source of chance ─────────────────────────────────────────


def _arithmetic(level: int, rng: random.Random) -> tuple[str, str]:
    a, b, c = rng.randint(12, 98), rng.randint(12, 98), rng.randint(12, 98)
    few = rng.randint(3, 9)
    if level == 1:
        return f"{a} + {b} - {few}", str(a + b - few)
    if level == 2:
        return f"{a} * {few} + {c}", str(a * few + c)
    if level == 3:
        return f"({a} + {b}) * {few}", str((a + b) * few)
    if level == 4:
        return f"{100 + a} * {few} - {100 + c}", str((100 + a) * few - 100 - c)
    return f"{a} * {b} - {c}", str(a * b - c)


def _remainder(level: int, rng: random.Random) -> tuple[str, str]:
    low, high, moduli = {
        1: (11, 40, (2, 5, 10)),
        2: (20, 99, (3, 4, 5, 6)),
        3: (50, 199, (4, 6, 7, 8, 9)),
        4: (200, 999, (6, 7, 8, 9, 11)),
        5: (1000, 9999, (7, 12, 13, 17)),
    }[level]
    a, m = rng.randint(low, high), rng.choice(moduli)
    return f"What is the remainder when {a} is divided by {m}?", str(a % m)


def _counting(level: int, rng: random.Random) -> tuple[str, str]:
    if level in (1, 2):
        word = rng.choice(_WORDS if level == 1 else _LONG)
        letters = sorted(set(word))
        often = [letter for letter in letters if word.count(letter) > 1]
        letter = rng.choice(often if often and rng.random() < 0.7 else letters)
        return f'How many times does the letter "{letter}" occur in "{word}"?', str(word.count(letter))
    if level == 3:
        some = rng.sample(_WORDS, 3)
        words = [rng.choice(some) for _ in range(6)]
        word = rng.choice(some)
        return f'How many times does "{word}" stand in this list: {", ".join(words)}?', str(words.count(word))
    numbers = [rng.randint(10, 99) for _ in range(5 if level == 4 else 8)]
    listed = ", ".join(map(str, numbers))
    if level == 4:
        bound = rng.randint(25, 75)
        return f"How many of these numbers are larger than {bound}: {listed}?", str(sum(n > bound for n in numbers))
    return f"How many of these numbers are even: {listed}?", str(sum(n % 2 == 0 for n in numbers))


def _lists(level: int, rng: random.Random) -> tuple[str, str]:
    numbers = rng.sample(range(10, 100), {1: 4, 2: 5, 3: 4, 4: 4, 5: 6}[level])
    listed = ", ".join(map(str, numbers))
    if level == 1:
        which = rng.choice(("largest", "smallest"))
        return f"Which is the {which} of {listed}?", str(max(numbers) if which == "largest" else min(numbers))
    if level == 2:
        place = rng.randint(2, 4)
        return f"Which number is at position {place} of {listed}?", str(numbers[place - 1])
    if level == 3:
        which = rng.choice(("largest", "smallest"))
        ordered = sorted(numbers, reverse=which == "largest")
        return f"Which is the second {which} of {listed}?", str(ordered[1])
    if level == 4:
        return f"What is the sum of {numbers[0]} and {numbers[1]}?", str(numbers[0] + numbers[1])
    place = rng.randint(2, 5)
    return f"Which number is at position {place} when these are sorted upwards: {listed}?", str(
        sorted(numbers)[place - 1]
    )


def _time(minutes: int) -> str:
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


def _clock(level: int, rng: random.Random) -> tuple[str, str]:
    hour = rng.randint(1, 21)
    if level == 1:
        minute, more = 5 * rng.randint(1, 5), 5 * rng.randint(1, 6)
        return f"What time is it {more} minutes after {_time(60 * hour + minute)}?", _time(60 * hour + minute + more)
    if level == 2:
        day, n = rng.randrange(7), rng.randint(2, 12)
        return f"Which day of the week is {n} days after {_DAYS[day]}?", _DAYS[(day + n) % 7]
    if level == 3:
        start, more = 60 * hour + 5 * rng.randint(6, 11), 5 * rng.randint(7, 11)
        return f"What time is it {more} minutes after {_time(start)}?", _time(start + more)
    if level == 4:
        start, more = 60 * hour + 5 * rng.randint(0, 11), 5 * rng.randint(2, 15)
        return f"How many minutes is it from {_time(start)} to {_time(start + more)}?", str(more)
    start, more = 60 * hour + rng.randint(20, 58), rng.randint(41, 99)
    return f"What time is it {more} minutes after {_time(start)}?", _time(start + more)


def _letters(level: int, rng: random.Random) -> tuple[str, str]:
    word = rng.choice([word for word in _WORDS if len(word) < 7])
    if level == 1:
        which = rng.choice(("first", "last"))
        return f'What is the {which} letter of "{word}"?', word[0 if which == "first" else -1]
    if level in (2, 3):
        place = 2 if level == 2 else 3
        return f'What is letter number {place} of "{word}"?', word[place - 1]
    if level == 4:
        letters = "".join(rng.sample("abcdefghijklmnopqrstuvwxyz", 3))
        return f'What is "{letters}" backwards?', letters[::-1]
    return f'What is "{word}" backwards?', word[::-1]


def _python(level: int, rng: random.Random) -> tuple[str, str]:
    a, b, times = rng.randint(2, 9), rng.randint(2, 9), rng.randint(3, 5)
    numbers = [rng.randint(1, 20) for _ in range(4)]
    code = {
        1: f"print({rng.randint(11, 60)} + {rng.randint(3, 39)})",
        2: f"x = {numbers}\nprint(x[{rng.choice((0, 1, 2, -1, -2))}])",
        3: f"print(len({rng.choice(_WORDS)!r}) + {a})",
        4: f"x = {numbers}\nprint(x[{rng.choice((1, 2, -1, -2))}] + x[0])",
        5: f"t = {a}\nfor i in range({times}):\n    t = t + {b}\nprint(t)",
    }[level]
    return f"What does this Python program print?\n{code}", run(code)


def run(code: str) -> str:
    """What a program of ours prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    return out.getvalue().strip()


@dataclass(frozen=True, slots=True)
class _Kind:
    make: Callable[[int, random.Random], tuple[str, str]]
    examples: Sequence[tuple[str, str]]


KINDS = {
    "arithmetic": _Kind(
        _arithmetic,
        [
            ("14 * 3 + 20", "14 * 3 = 42, 42 + 20 = 62\nAnswer: 62"),
            ("(7 + 15) * 4", "7 + 15 = 22, 22 * 4 = 88\nAnswer: 88"),
        ],
    ),
    "remainder": _Kind(
        _remainder,
        [
            ("What is the remainder when 38 is divided by 5?", "Answer: 3"),
            ("What is the remainder when 156 is divided by 11?", "Answer: 2"),
        ],
    ),
    "counting": _Kind(
        _counting,
        [
            ('How many times does the letter "o" occur in "cartoon"?', "Answer: 2"),
            ("How many of these numbers are larger than 40: 12, 77, 45, 39, 81?", "Answer: 3"),
        ],
    ),
    "lists": _Kind(
        _lists,
        [
            ("Which is the second smallest of 52, 17, 80, 33?", "Answer: 33"),
            ("Which number is at position 3 of 61, 25, 94, 40?", "Answer: 94"),
        ],
    ),
    "clock": _Kind(
        _clock,
        [
            ("What time is it 25 minutes after 09:50?", "Answer: 10:15"),
            ("Which day of the week is 9 days after Monday?", "Answer: Wednesday"),
        ],
    ),
    "letters": _Kind(
        _letters,
        [
            ('What is letter number 3 of "cold"?', "Answer: l"),
            ('What is "fish" backwards?', "Answer: hsif"),
        ],
    ),
    "python": _Kind(
        _python,
        [
            ("What does this Python program print?\nprint(len('wolf') * 3)", "Answer: 12"),
            ("What does this Python program print?\nx = [4, 9, 2]\nprint(x[-1] + 1)", "Answer: 3"),
        ],
    ),
}


def make(per_kind: int, seed: int, avoid: Container[str] = ()) -> list[Problem]:
    """`per_kind` different problems of each kind, its levels in turn; `avoid`: questions not wanted again.

    Any beginning of the list is a fair share of kinds and levels, and more problems of a seed begin with the fewer.
    """
    by_kind = [_of_kind(kind, per_kind, seed, avoid) for kind in KINDS]
    return [problem for row in zip(*by_kind, strict=True) for problem in row]


def _of_kind(kind: str, n: int, seed: int, avoid: Container[str]) -> list[Problem]:
    spec = KINDS[kind]
    rng = random.Random(f"plans_qwen/{kind}/{seed}")
    found: dict[str, Problem] = {}
    while len(found) < n:
        level = LEVELS[len(found) % len(LEVELS)]
        question, reference = spec.make(level, rng)
        if question not in avoid:
            found.setdefault(question, Problem(kind, level, spec.examples, question, reference))
    return list(found.values())


def rows(problems: Sequence[Problem]) -> list[dict[str, object]]:
    """As lines of a prompt set (howhard.training.prompt_sets); the group is the kind. "35 minutes" counts as 35."""
    return [
        {
            "messages": p.messages(),
            "reference": p.reference,
            "grader": "numeric" if p.reference.isdecimal() else "exact",
            "group": p.kind,
        }
        for p in problems
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-kind", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a prompt set; without it, a problem of each kind and level is shown")
    options = parser.parse_args()
    problems = make(options.per_kind, options.seed)
    if options.out is not None:
        options.out.write_text("".join(json.dumps(row) + "\n" for row in rows(problems)))
        return
    for problem in problems[: len(KINDS) * len(LEVELS)]:
        print(f"[{problem.kind} {problem.level}] {problem.question} -> {problem.reference}")


if __name__ == "__main__":
    main()
