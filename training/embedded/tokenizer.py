"""The tokenizer of the embedded models: one token per word, whole number 0 to 199, mark, and line break.

decode(encode(text)) == text for every text that the families make, in one go and token by token.
"""

from __future__ import annotations

import random
import re
import string

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from ..problems.families import FAMILIES
from ..problems.problem import LARGEST

PAD, UNKNOWN, END = "<pad>", "<unk>", "</s>"
MARKS = (*"\n.,;:?!+-*/=()\\{}#",)
PIECES = r"\n|\d+|[A-Za-z]+|[^\sA-Za-z0-9]"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.last and message['role'] == 'assistant' %}{{ '\\n' }}{% endif %}"
    "{{ message['content'] }}{% endfor %}{% if messages[-1]['role'] != 'assistant' %}{{ '\\n' }}{% endif %}"
)


def vocabulary() -> dict[str, int]:
    """Word -> id: special tokens, marks, numbers, capital letters, then every word of the families' phrasings."""
    rng = random.Random(0)
    words = {"the", "answer", "is", "boxed", "Answer"}
    for family in FAMILIES.values():
        for level in family.levels:
            for _ in range(200):
                problem = family.generate(level, rng)
                words.update(re.findall(r"[A-Za-z]+", problem.prompt + "\n" + problem.solution))
    words -= set(string.ascii_uppercase)
    numbers = [str(n) for n in range(LARGEST + 1)]
    listed = [PAD, UNKNOWN, END, *MARKS, *numbers, *string.ascii_uppercase, *sorted(words)]
    return {word: index for index, word in enumerate(listed)}


def build() -> Tokenizer:
    """Make the tokenizer; no training, the same every time."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "removed", invert=True)
    tokenizer.add_special_tokens([PAD, UNKNOWN, END])
    glue = [decoders.Replace(f" {mark}", mark) for mark in (*".,;:?", "\n")]
    tokenizer.decoder = decoders.Sequence(
        [decoders.WordPiece(prefix="##", cleanup=False), decoders.Fuse(), *glue, decoders.Replace("\n ", "\n")]
    )
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Give the id of a token that the vocabulary must have; raises KeyError where it lacks it."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise KeyError(f"the tokenizer has no token {token!r}")
    return found
