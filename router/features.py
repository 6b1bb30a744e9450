"""Numbers read off a prompt's text, without a model: what the fast predictor sees.

Defined once, here: training and serving call the same function, and an artifact's manifest holds its
FeatureSpec. About 0.1 ms for 500 characters. Every value is finite whatever the text holds, a row depends on
its own text alone, and nothing depends on the process (crc32, never `hash`).

Of a text longer than HEAD + TAIL characters only its first HEAD and last TAIL are looked at (its full length
is still counted), so that the time is bounded. Scripts without spaces between words get the same features;
there a whole stretch counts as one word, and the hashed n-grams say little.
"""

import itertools
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..strategies.spec import SpecError

VERSION = "fast/1"
HEAD = 6_000
TAIL = 2_000


@dataclass(frozen=True, slots=True, eq=False)
class SparseRows:
    """Sparse rows: of row i the columns `index[start[i]:start[i + 1]]` and their values, columns ascending.

    start : int64 (n + 1,). index : int32 (nnz,). value : float32 (nnz,). width : number of columns.
    """

    start: NDArray[np.int64]
    index: NDArray[np.int32]
    value: NDArray[np.float32]
    width: int

    def __len__(self) -> int:
        return len(self.start) - 1

    def __getitem__(self, rows: NDArray[Any]) -> "SparseRows":
        """Return some rows: an index array or a mask."""
        where = np.arange(len(self))[rows]
        size = np.diff(self.start)[where]
        start = np.concatenate([[0], np.cumsum(size)])
        at = np.repeat(self.start[where] - start[:-1], size) + np.arange(start[-1])
        return SparseRows(start, self.index[at], self.value[at], self.width)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What is known of n prompts from their texts alone.

    dense     : float32 (n, d), columns as in `FeatureSpec.names`.
    text      : hashed words, pairs of words and stretches of characters, for linear models; each row has length 1.
    embedding : float32 (n, e), of the encoder, each row of length 1; None without one.
    """

    dense: NDArray[np.float32]
    text: SparseRows
    embedding: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.dense)

    def __getitem__(self, rows: NDArray[Any]) -> "Features":
        """Return the features of some prompts: an index array or a mask."""
        embedding = None if self.embedding is None else self.embedding[rows]
        return Features(self.dense[rows], self.text[rows], embedding)


class FeatureSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which features: a version of the definitions below, and the room for hashed n-grams.

    n_hashed : even, >= 0; half of the dense columns count single words, half pairs of neighbours.
    n_text   : columns of the sparse text, a power of two.
    """

    version: str = VERSION
    n_hashed: int = 256
    n_text: int = 2**15

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise SpecError(
                f"features.version={self.version!r}: this howhard computes {VERSION!r}; train the router anew"
            )
        if not (0 <= self.n_hashed <= 65_536 and self.n_hashed % 2 == 0):
            raise SpecError(f"features.n_hashed={self.n_hashed!r}: it must be an even number in [0, 65536]")

    @property
    def names(self) -> tuple[str, ...]:
        """The dense columns of `featurize`, in order."""
        half = self.n_hashed // 2
        return (*_NAMES, *(f"word_{i}" for i in range(half)), *(f"pair_{i}" for i in range(half)))


def featurize(texts: Sequence[str], spec: FeatureSpec) -> Features:
    """Return the features of prompts given as text."""
    out = np.zeros((len(texts), len(_NAMES) + spec.n_hashed), dtype=np.float32)
    for row, text in zip(out, texts, strict=True):
        _fill(row, text, spec.n_hashed // 2)
    return Features(out, _sparse(texts, spec.n_text))


def _sparse(texts: Sequence[str], width: int) -> SparseRows:
    start, columns, values = [0], [], []
    for text in texts:
        low = text.lower()[: HEAD + TAIL]
        tokens = _TOKEN.findall(low)
        grams = [*tokens, *(f"{a} {b}" for a, b in itertools.pairwise(tokens))]
        hashed = np.array([zlib.crc32(g.encode("utf-8", "replace")) % width for g in grams], dtype=np.int64)
        column, count = np.unique(hashed, return_counts=True)
        value = (1 + np.log(count)).astype(np.float32)
        columns.append(column.astype(np.int32))
        values.append(value / max(float(np.sqrt((value**2).sum())), 1e-9))
        start.append(start[-1] + len(column))
    empty_i, empty_v = np.empty(0, np.int32), np.empty(0, np.float32)
    index, value = np.concatenate([empty_i, *columns]), np.concatenate([empty_v, *values]).astype(np.float32)
    return SparseRows(np.array(start), index, value, width)


# ── what is looked for ──────────────────────────────────────────────────────────────────────────────────────

_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
_OPTION = re.compile(r"(?:^|\s)\(?[A-Ha-h][).:]\s")

# Bytes of the UTF-8 text, by class.
_CLASSES: dict[str, str] = {
    "upper": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "lower": "abcdefghijklmnopqrstuvwxyz",
    "digit": "0123456789",
    "space": " \t\r\f\v",
    "newline": "\n",
    "comma": ",",
    "period": ".",
    "question": "?",
    "exclamation": "!",
    "colon": ":",
    "semicolon": ";",
    "quote": "\"'",
    "round": "()",
    "square": "[]",
    "curly": "{}",
    "backslash": "\\",
    "dollar": "$",
    "caret": "^",
    "equals": "=",
    "plus": "+",
    "dash": "-",
    "star": "*",
    "slash": "/",
    "percent": "%",
    "less_more": "<>",
    "underscore": "_",
    "hash": "#",
    "bar": "|",
    "backtick": "`",
}

# Words, of which any one sets the mark.
_WORDS: dict[str, str] = {
    "what": "what",
    "why": "why",
    "how": "how",
    "which": "which",
    "who_when_where": "who whom whose when where",
    "yes_no": "is are was were does do did can could should would will",
    "prove": "prove proof show theorem lemma derive",
    "compute": "compute calculate evaluate solve find sum product multiply divide add subtract",
    "count": "many count number total",
    "list": "list enumerate name give",
    "explain": "explain describe discuss elaborate",
    "write": "write draft compose essay story poem email",
    "code": "code function python java javascript sql program algorithm implement bug class return",
    "json": "json yaml xml csv schema",
    "compare": "compare versus vs difference better worse more less than largest smallest",
    "translate": "translate translation french german spanish chinese english",
    "summarise": "summarize summarise summary shorten tldr",
    "classify": "classify label category sentiment true false",
    "steps": "step steps carefully reasoning think",
    "negation": "not no never without except unless",
    "condition": "if then otherwise either suppose assume given let",
    "quantifier": "all every each any some most exactly only least",
    "optimise": "maximum minimum maximize minimize optimal best shortest longest fewest",
    "probability": "probability chance random expected likely dice coin",
    "geometry": "triangle circle angle area square rectangle perimeter radius",
    "algebra": "equation integer polynomial prime divisible remainder modulo matrix function",
    "time": "hour hours minute minutes day days week year years date",
    "money": "cost price pay paid dollars dollar cents profit discount",
    "sequence": "first next last before after finally order sort",
    "path": "path graph node nodes edge edges route from to",
    "answer_form": "answer only boxed format exactly",
}

# Pieces of text, of which any one sets the mark.
_PIECES: dict[str, tuple[str, ...]] = {
    "code_fence": ("```",),
    "latex": ("\\frac", "\\sqrt", "\\sum", "\\int", "\\begin", "\\(", "\\[", "$$"),
    "url": ("http://", "https://"),
    "bullet": ("\n- ", "\n* ", "\n1. "),
    "code_like": ("def ", "();", "->", "==", "import ", "#include", "select "),
}

_NAMES = (
    "log_characters",
    "log_words",
    "log_lines",
    "words",
    "sentences",
    "mean_word_length",
    "max_word_length",
    "long_word_share",
    "distinct_word_share",
    "log_longest_line",
    "numbers",
    "distinct_numbers",
    "digits_in_numbers",
    "max_digits",
    "decimals",
    "numbers_above_100",
    "log_min_number",
    "log_max_number",
    "log_mean_number",
    "log_first_number",
    "log_last_number",
    "max_over_sum",
    "byte_entropy",
    "non_ascii_share",
    "options",
    *(f"count_{name}" for name in _CLASSES),
    *(f"share_{name}" for name in ("upper", "lower", "digit", "space")),
    *(f"has_{name}" for name in _PIECES),
    *(f"asks_{name}" for name in _WORDS),
)


def _table() -> NDArray[np.float64]:
    """(256, classes + 1): which bytes belong to which class; last: those that begin a non-ASCII one."""
    table = np.zeros((256, len(_CLASSES) + 1))
    for column, characters in enumerate(_CLASSES.values()):
        table[list(characters.encode()), column] = 1
    table[0xC0:, -1] = 1
    return table


_BYTES = _table()
_ALL_WORDS: dict[str, list[int]] = {}
for _column, _words in enumerate(_WORDS.values()):
    for _word in _words.split():
        _ALL_WORDS.setdefault(_word, []).append(_column)
_MARKED = frozenset(_ALL_WORDS)
_SHARES = len(_NAMES) - len(_WORDS) - len(_PIECES) - 4
_LOG_CAP = 1e30  # a number of 400 digits is infinite as a float


def _fill(row: NDArray[np.float32], text: str, half: int) -> None:
    n_characters = len(text)
    if n_characters > HEAD + TAIL:
        text = f"{text[:HEAD]}\n{text[-TAIL:]}"
    low = text.lower()
    tokens = _TOKEN.findall(low)
    words = [t for t in tokens if not t[0].isdigit()]
    numbers = [min(float(x.replace(",", "")), _LOG_CAP) for x in _NUMBER.findall(text)]
    raw = text.encode("utf-8", "replace")
    counts = np.bincount(np.frombuffer(raw, dtype=np.uint8), minlength=256)
    classes = counts @ _BYTES
    seen = max(len(text), 1)
    lines = text.split("\n")
    distinct = set(tokens)

    lengths = [len(w) for w in words]
    n_words = max(len(words), 1)
    texts = [x for x in tokens if x[0].isdigit()]
    total = sum(numbers)
    present = counts[counts > 0] / max(len(raw), 1)
    head = [
        math.log1p(n_characters),
        math.log1p(len(words)),
        math.log(len(lines)),
        len(words),
        text.count(". ") + text.count("? ") + text.count("! ") + 1,
        sum(lengths) / n_words,
        max(lengths, default=0),
        sum(n >= 7 for n in lengths) / n_words,
        len(distinct) / max(len(tokens), 1),
        math.log1p(max(map(len, lines))),
        len(numbers),
        len(set(numbers)),
        sum(map(len, texts)),
        max(map(len, texts), default=0),
        sum("." in x for x in texts),
        sum(x > 100 for x in numbers),
        math.log1p(min(numbers, default=0.0)),
        math.log1p(max(numbers, default=0.0)),
        math.log1p(total / max(len(numbers), 1)),
        math.log1p(numbers[0]) if numbers else 0.0,
        math.log1p(numbers[-1]) if numbers else 0.0,
        max(numbers) / total if total > 0 else 0.0,
        -float(present @ np.log2(present)),
        classes[-1] / seen,
        len(_OPTION.findall(text)),
    ]
    row[: len(head)] = head
    row[len(head) : _SHARES] = classes[:-1]
    row[_SHARES : _SHARES + 4] = classes[:4] / seen
    at = _SHARES + 4
    for i, pieces in enumerate(_PIECES.values()):
        if any(p in low for p in pieces):
            row[at + i] = 1
    at += len(_PIECES)
    for word in distinct & _MARKED:
        for column in _ALL_WORDS[word]:
            row[at + column] = 1

    if half and tokens:
        crc = zlib.crc32
        # Numbers all look alike here, so that the n-grams describe the phrasing. b" " keeps "a bc" and "ab c"
        # apart.
        bytes_ = [b" <n>" if t[0].isdigit() else b" " + t.encode("utf-8", "replace") for t in tokens]
        one = [crc(b) for b in bytes_]
        two = [crc(b, h) for b, h in zip(bytes_[1:], one, strict=False)]
        at = len(_NAMES)
        row[at : at + half] = np.bincount(np.array(one) % half, minlength=half)
        if two:
            row[at + half :] = np.bincount(np.array(two) % half, minlength=half)
