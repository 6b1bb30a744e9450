"""Numbers read off a prompt's text, without a model: what the fast predictor sees.

Defined once, here: training and serving call the same function, and an artifact's manifest holds its FeatureSpec. All
work is done by numpy over the UTF-8 bytes of a chunk of texts; about 60 us for 500 characters alone (100 with many
numbers), 10 us in a batch. Every value is finite whatever the text holds, a row depends on its own text alone (to the
last bit), and nothing depends on the process.

Of a text longer than HEAD + TAIL characters only its first HEAD and last TAIL are looked at (its full length is still
counted), so that the time is bounded.

How words are hashed. Byte i of a chunk has the value code[byte] * BASE^i (mod 2^64); with the running sums C of these,
the stretch from s to e hashes to (C[e] - C[s]) * BASE^-s: a polynomial of its bytes alone, wherever it stands (BASE is
odd, hence has an inverse; Karp and Rabin 1987). Arithmetic mod 2^64 is exact, so no order of summation shows.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..strategies.spec import SpecError
from .encoder import Encoder, EncoderSpec, check_same, open_encoder

VERSION = "fast/2"
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
    """Which features: a version of the definitions below, and the room for hashed words.

    n_hashed : even, >= 0; half of the dense columns count single words, half pairs of neighbours.
    n_text   : columns of the sparse text, a power of two in [256, 2**18].
    encoder  : of the embeddings; None: without.
    """

    version: str = VERSION
    n_hashed: int = 256
    n_text: int = 2**15
    encoder: EncoderSpec | None = None

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise SpecError(
                f"features.version={self.version!r}: this howhard computes {VERSION!r}; train the router anew on the "
                "same log (`howhard train`), or install the howhard that wrote it"
            )
        if not (0 <= self.n_hashed <= 65_536 and self.n_hashed % 2 == 0):
            raise SpecError(f"features.n_hashed={self.n_hashed!r}: it must be an even number in [0, 65536]")
        if not (2**8 <= self.n_text <= 2**18 and self.n_text.bit_count() == 1):
            raise SpecError(f"features.n_text={self.n_text!r}: it must be a power of two in [256, 262144]")

    @property
    def names(self) -> tuple[str, ...]:
        """The dense columns of `featurize`, in order."""
        half = self.n_hashed // 2
        return (*_NAMES, *(f"word_{i}" for i in range(half)), *(f"pair_{i}" for i in range(half)))


def identified(spec: FeatureSpec) -> FeatureSpec:
    """Return the spec with its encoder's fingerprint and dimension, as an artifact must hold them."""
    if spec.encoder is None:
        return spec
    return msgspec.structs.replace(spec, encoder=open_encoder(spec.encoder).spec)


def featurize(texts: Sequence[str], spec: FeatureSpec, encoder: Encoder | None = None) -> Features:
    """Return the features of prompts given as text.

    encoder : gives the embeddings where the spec has some, for instance from a cache; None opens the spec's own.
    Raises ArtifactError where an encoder is not the one of the spec; ConfigError where it can't be opened.
    """
    embedding = None if spec.encoder is None else _embed(texts, spec.encoder, encoder)
    dense = np.zeros((len(texts), len(_NAMES) + spec.n_hashed), dtype=np.float32)
    start = np.zeros(len(texts) + 1, dtype=np.int64)
    index, value = [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    for chunk in _chunks(texts):
        rows = slice(chunk.first, chunk.first + chunk.n)
        tokens = _tokens(chunk)
        _measure(dense[rows], chunk, tokens)
        if spec.n_hashed:
            _hash_dense(dense[rows, len(_NAMES) :], tokens)
        bounds, columns, values = _hash_text(chunk, tokens, spec.n_text)
        dense[rows, _DISTINCT_AT] = (bounds[1:] - bounds[:-1]) / (2 * tokens.count)
        start[chunk.first + 1 : chunk.first + chunk.n + 1] = start[chunk.first] + bounds[1:]
        index.append(columns)
        value.append(values)
    text = SparseRows(start, np.concatenate(index), np.concatenate(value), spec.n_text)
    return Features(dense, text, embedding)


def _embed(texts: Sequence[str], spec: EncoderSpec, encoder: Encoder | None) -> NDArray[np.float32]:
    encoder = open_encoder(spec) if encoder is None else encoder
    check_same(encoder.spec, spec)
    return encoder.encode(texts)


# ── what is looked for ──────────────────────────────────────────────────────────────────────────────────────────

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
    "code": "code function python java javascript sql program algorithm implement bug class return def import include",
    "json": "json yaml xml csv schema",
    "link": "http https www",
    "latex": "frac sqrt cdot mathbb begin leq geq",
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

_LONGEST = 7  # words and numbers of this length and longer are counted together

_MEASURED = (
    "log_characters",
    "log_words",
    "log_lines",
    "mean_word_length",
    "share_upper",
    "share_lower",
    "share_digit",
    "share_space",
    "share_non_ascii",
)
_COUNTED = (
    *(f"count_{name}" for name in _CLASSES),
    *(f"words_of_{i}" for i in range(1, _LONGEST + 1)),
    *(f"digits_of_{i}" for i in range(1, _LONGEST + 1)),
    *(f"symbols_of_{i}" for i in range(1, _LONGEST + 1)),
)
_OF_NUMBERS = (
    "log_min_number",
    "log_max_number",
    "log_mean_number",
    "log_first_number",
    "log_last_number",
    "numbers",
    "max_over_sum",
)
_NAMES = (
    *_MEASURED,
    *_COUNTED,
    *_OF_NUMBERS,
    "numbers_above_100",
    "decimals",
    "options",
    "distinct_share",
    *(f"asks_{name}" for name in _WORDS),
)

# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────

_CHUNK = 2**14  # bytes of text after which a chunk is full: its arrays stay in the cache
_LIMIT = 2**15  # bytes that are read of one text

# Kinds of bytes; a token is a run of one kind other than GAP. An END stands between texts; these bytes are in no UTF-8.
_GAP, _LETTER, _DIGIT, _SYMBOL, _END = range(5)
_BETWEEN = b"\xfe\xff\xfe"  # a gap, an END, a gap
_LEAD, _FILL, _SEPARATOR = 0xC0, 0xFE, 0xFF  # non-ASCII characters begin with bytes from LEAD to below FILL
_GRAM = 6

# Where things stand in the counts of a text: first the classes of bytes, then the tokens by kind and length.
_CLASS_ROOM, _LENGTH_ROOM = 32, _LONGEST + 1
_N_COUNTS = _CLASS_ROOM + 5 * _LENGTH_ROOM
_NON_ASCII, _OTHER = len(_CLASSES), len(_CLASSES) + 1


def _kinds() -> NDArray[np.uint8]:
    kind = np.zeros(256, dtype=np.uint8)
    kind[0x80:] = _LETTER
    for byte in range(0x21, 0x7F):
        kind[byte] = _LETTER if chr(byte).isalpha() else _DIGIT if chr(byte).isdigit() else _SYMBOL
    kind[_FILL], kind[_SEPARATOR] = _GAP, _END
    return kind


def _class_of_byte() -> NDArray[np.intp]:
    table = np.full(256, _OTHER, dtype=np.intp)
    for column, characters in enumerate(_CLASSES.values()):
        table[list(characters.encode())] = column
    table[_LEAD:_FILL] = _NON_ASCII
    return table


def _shape(kind: int, length: int) -> int:
    return _CLASS_ROOM + kind * _LENGTH_ROOM + length


def _sums() -> NDArray[np.int64]:
    """From counts to: words, line breaks, letters, and the numerators of the shares."""
    names = list(_CLASSES)
    table = np.zeros((_N_COUNTS, 8), dtype=np.int64)
    table[_shape(_LETTER, 0) : _shape(_LETTER, _LONGEST) + 1, 0] = 1
    table[names.index("newline"), 1] = 1
    table[[names.index("upper"), names.index("lower"), _NON_ASCII], 2] = 1
    shares = [*(names.index(n) for n in ("upper", "lower", "digit", "space")), _NON_ASCII]
    table[shares, range(3, 8)] = 1
    return table


def _powers(base: int, n: int) -> NDArray[np.uint64]:
    powers = np.full(n, base, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _codes(seed: int) -> NDArray[np.uint64]:
    """Odd numbers for the 256 bytes (splitmix64, Steele et al. 2014); capitals have those of the small letters."""
    codes, state = [], seed
    for _ in range(256):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        codes.append((z ^ (z >> 31)) | 1)
    codes[ord("A") : ord("Z") + 1] = codes[ord("a") : ord("z") + 1]
    return np.array(codes, dtype=np.uint64)


def _marks() -> tuple[NDArray[np.int16], NDArray[np.uint64], NDArray[np.intp]]:
    """Tables of the marked words: first bits of a hash -> word; hash of the word; its (at most two) columns."""
    columns: dict[str, list[int]] = {}
    for column, words in enumerate(_WORDS.values(), start=_NAMES.index("asks_what")):
        for word in words.split():
            columns.setdefault(word, []).append(column)
    slot, hashes, at = np.zeros(2**_SLOT_BITS, dtype=np.int16), [0], [(0, 0)]
    for word, where in columns.items():
        hashed = sum(int(_CODE[b]) * pow(_BASE, i, 2**64) for i, b in enumerate(word.encode())) % 2**64
        slot[hashed >> (64 - _SLOT_BITS)] = len(hashes)
        hashes.append(hashed)
        at.append((where[0], where[-1]))
    if np.count_nonzero(slot) != len(columns):
        raise AssertionError("two marked words share a slot: choose another _SEED")
    return slot, np.array(hashes, dtype=np.uint64), np.array(at, dtype=np.intp)


_KIND, _CLASS, _SUMS = _kinds(), _class_of_byte(), _sums()
_SHAPE_OF_KIND = np.array([_shape(kind, 0) for kind in range(5)], dtype=np.intp)
_COUNT_COLUMNS = np.array(
    [*range(len(_CLASSES)), *(_shape(k, i) for k in (_LETTER, _DIGIT, _SYMBOL) for i in range(1, _LONGEST + 1))]
)

_SEED = 2
_SLOT_BITS = 15
_BASE = 0x9E3779B97F4A7C15
_POWER = _powers(_BASE, _CHUNK + _LIMIT + 8)
_INVERSE = _powers(pow(_BASE, -1, 2**64), len(_POWER))
_CODE = _codes(_SEED)
_SLOT, _MARKED, _MARK_COLUMNS = _marks()
_SLOT_SHIFT = np.uint64(64 - _SLOT_BITS)
# Factors that keep apart what would else hash alike: a pair and a long word, a stretch and a word.
_PAIR_FACTOR, _GRAM_FACTOR = np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0xA0761D6478BD642F)
_ANY_NUMBER = np.uint64(0x165667B19E3779F9)
_32, _64 = np.uint64(32), np.uint64(64)

_TF = np.array([0.0, *(1 + math.log(count) for count in range(1, 2**13))])
_TF_SQUARED = np.round(_TF**2 * 2**20).astype(np.int64)  # fixed point: sums are exact in any order
_TEN = np.array([float(f"1e{i - 1}") for i in range(31)])  # at i: ten to the power i - 1
_OPTION = np.isin(np.arange(256), list(b"ABCDEFGHabcdefgh"))
_CLOSING = np.isin(np.arange(256), list(b").:"))

_MEASURED_AT = slice(0, len(_MEASURED))
_COUNTED_AT = slice(_MEASURED_AT.stop, _MEASURED_AT.stop + len(_COUNTED))
_OF_NUMBERS_AT = slice(_COUNTED_AT.stop, _COUNTED_AT.stop + len(_OF_NUMBERS))
_ABOVE_AT, _DECIMALS_AT, _OPTIONS_AT, _DISTINCT_AT = range(_OF_NUMBERS_AT.stop, _OF_NUMBERS_AT.stop + 4)


# ── from texts to tokens ────────────────────────────────────────────────────────────────────────────────────────


class _Chunk(NamedTuple):
    """Texts first .. first + n as bytes, with _BETWEEN before, between and after them.

    characters : length of each text, before it was cut. sizes : bytes of each text with the _BETWEEN after it.
    """

    first: int
    characters: list[int]
    sizes: list[int]
    raw: NDArray[np.uint8]
    ascii: bool

    @property
    def n(self) -> int:
        return len(self.sizes)


class _Tokens(NamedTuple):
    """Runs of bytes of one kind in order, of every text also the END after it.

    start, end, kind, row : places in the chunk, kind, and which text.
    hash, alike, pair     : of the token; the same with all numbers alike; of the token and the one before it (before
                            the first: an END), numbers alike.
    count                 : tokens of each text. bytes : kind of every byte. sums : C of the module's docstring.
    """

    start: NDArray[np.intp]
    end: NDArray[np.intp]
    kind: NDArray[np.uint8]
    row: NDArray[np.intp]
    hash: NDArray[np.uint64]
    alike: NDArray[np.uint64]
    pair: NDArray[np.uint64]
    count: NDArray[np.intp]
    bytes: NDArray[np.uint8]
    sums: NDArray[np.uint64]


def _chunks(texts: Sequence[str]) -> Iterator[_Chunk]:
    first, parts, characters, sizes, total, ascii_ = 0, [b""], [], [], 0, True
    for i, text in enumerate(texts):
        characters.append(len(text))
        if len(text) > HEAD + TAIL:
            text = f"{text[:HEAD]}\n{text[-TAIL:]}"
        if not text.isascii():
            text, ascii_ = _lower(text), False
        raw = text.encode("utf-8", "replace")[:_LIMIT]
        parts.append(raw)
        sizes.append(len(raw) + len(_BETWEEN))
        total += len(raw) + len(_BETWEEN)
        if total >= _CHUNK or i == len(texts) - 1:
            parts.append(b"")
            yield _Chunk(first, characters, sizes, np.frombuffer(_BETWEEN.join(parts), dtype=np.uint8), ascii_)
            first, parts, characters, sizes, total, ascii_ = i + 1, [b""], [], [], 0, True


def _lower(text: str) -> str:
    """Lower-case all but ASCII, whose capitals are counted."""
    return "".join([c if c < "\x80" else c.lower() for c in text])


def _tokens(chunk: _Chunk) -> _Tokens:
    raw = chunk.raw
    of_byte = _KIND.take(raw)
    sums = np.empty(len(raw) + 1, dtype=np.uint64)
    sums[0] = 0
    np.multiply(_CODE.take(raw), _POWER[: len(raw)], out=sums[1:])
    np.cumsum(sums, out=sums)
    edge = (of_byte[1:] != of_byte[:-1]).nonzero()[0]
    edge += 1
    kind = of_byte.take(edge)
    real = kind.nonzero()[0]
    # The last byte is a gap, so that every token ends at an edge.
    start, kind = edge.take(real), kind.take(real)
    real += 1
    end = edge.take(real)
    hashes = (sums.take(end) - sums.take(start)) * _INVERSE.take(start)
    alike = np.where(kind == _DIGIT, _ANY_NUMBER, hashes)
    pair = alike[:-1] * _PAIR_FACTOR
    pair += alike[1:]
    last = (kind == _END).nonzero()[0]
    count = last[1:] - last[:-1]
    row = np.arange(len(count)).repeat(count)
    return _Tokens(start[1:], end[1:], kind[1:], row, hashes[1:], alike[1:], pair, count, of_byte, sums)


# ── from tokens to columns ──────────────────────────────────────────────────────────────────────────────────────


def _measure(dense: NDArray[np.float32], chunk: _Chunk, tokens: _Tokens) -> None:
    """Fill the named columns; dense is (n, columns) and zero."""
    n, row, kind = chunk.n, tokens.row, tokens.kind
    sizes = np.array(chunk.sizes)
    # Of each text: the classes of its bytes, and its tokens by kind and capped length.
    length = tokens.end - tokens.start
    shape = np.minimum(length, _LONGEST)
    shape += _SHAPE_OF_KIND.take(kind)
    of_byte = _CLASS.take(chunk.raw[len(_BETWEEN) :])
    if n > 1:
        shape += row * _N_COUNTS
        of_byte += (np.arange(n) * _N_COUNTS).repeat(sizes)
    counts = np.bincount(np.concatenate([of_byte, shape]), minlength=n * _N_COUNTS).reshape(n, _N_COUNTS)
    sums = counts.dot(_SUMS)  # integers: exact

    measured = np.empty((n, len(_MEASURED)))
    measured[:, 0] = chunk.characters
    measured[:, 1:3] = sums[:, :2]
    np.log1p(measured[:, :3], out=measured[:, :3])
    np.divide(sums[:, 2], np.maximum(sums[:, 0], 1), out=measured[:, 3])
    np.divide(sums[:, 3:], np.maximum(sizes - len(_BETWEEN), 1)[:, None], out=measured[:, 4:])
    dense[:, _MEASURED_AT] = measured
    dense[:, _COUNTED_AT] = counts.take(_COUNT_COLUMNS, axis=1)

    option = _OPTION.take(chunk.raw.take(tokens.start))
    option &= _CLOSING.take(chunk.raw.take(tokens.end))
    option &= length == 1
    if option.any():
        dense[:, _OPTIONS_AT] = np.bincount(row[option], minlength=n)
    slot = _SLOT.take((tokens.hash >> _SLOT_SHIFT).view(np.int64))
    marked = (_MARKED.take(slot) == tokens.hash).nonzero()[0]
    if len(marked):
        dense[row.take(marked)[:, None], _MARK_COLUMNS.take(slot.take(marked), axis=0)] = 1
    numbers = (kind == _DIGIT).nonzero()[0]
    if len(numbers):
        _measure_numbers(dense, chunk.raw, tokens, numbers)


def _measure_numbers(dense: NDArray[np.float32], raw: NDArray[np.uint8], tokens: _Tokens, at: NDArray[np.intp]) -> None:
    """Fill the columns of numbers; `at` are the tokens made of digits."""
    n = len(dense)
    start, end, row = tokens.start.take(at), tokens.end.take(at), tokens.row.take(at)
    length = end - start
    into = length.cumsum()
    into -= length
    place = (tokens.bytes == _DIGIT).nonzero()[0]
    digits = raw.take(place) - np.float64(ord("0"))
    digits *= _TEN.take(end.repeat(length) - place, mode="clip")
    value = np.add.reduceat(digits, into)
    joined = start[1:] - end[:-1] == 1
    if joined.any():
        value, row = _join(dense, value, row, length, raw.take(end[:-1]) * joined)
    bounds = row.searchsorted(np.arange(n + 1))
    count = bounds[1:] - bounds[:-1]
    where = count.nonzero()[0]
    first, count = bounds.take(where), count.take(where)
    total = np.add.reduceat(value, first)
    measured = np.empty((len(_OF_NUMBERS), len(where)))
    np.minimum.reduceat(value, first, out=measured[0])
    np.maximum.reduceat(value, first, out=measured[1])
    np.divide(measured[1], np.maximum(total, 1), out=measured[6])
    np.divide(total, count, out=measured[2])
    value.take(first, out=measured[3], mode="clip")
    value.take(first + count - 1, out=measured[4], mode="clip")
    np.log1p(measured[:5], out=measured[:5])
    measured[5] = count
    dense[where, _OF_NUMBERS_AT] = measured.T
    above = value > 100
    if above.any():
        dense[:, _ABOVE_AT] = np.bincount(row[above], minlength=n)


def _join(
    dense: NDArray[np.float32],
    value: NDArray[np.float64],
    row: NDArray[np.intp],
    length: NDArray[np.intp],
    mark: NDArray[np.uint8],
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Join 1,250 and 7.5 to one number each: values and rows of the numbers from those of the runs of digits.

    mark : the byte between each run and the next where it is alone there, else 0.
    """
    dot = mark == ord(".")
    dot[1:] &= ~dot[:-1]  # 1.2.3 is no number: 1.2 and 3
    linked = mark == ord(",")
    linked &= (length[1:] == 3) & (length[:-1] <= 3)
    thousands = np.concatenate([[0], linked.cumsum()])
    linked |= dot
    begin = np.concatenate([[True], ~linked]).nonzero()[0]
    size = np.concatenate([begin[1:], [len(value)]]) - begin
    after = thousands.take(begin + size - 1).repeat(size) - thousands
    value = value * _TEN.take(3 * after + 1, mode="clip")
    fraction = dot.nonzero()[0] + 1
    value[fraction] /= _TEN.take(length.take(fraction) + 1, mode="clip")
    dense[:, _DECIMALS_AT] = np.bincount(row.take(fraction), minlength=len(dense))
    return np.add.reduceat(value, begin), row.take(begin)


def _hash_dense(dense: NDArray[np.float32], tokens: _Tokens) -> None:
    """Count words and pairs by hash; numbers look alike here, so that the columns describe the phrasing."""
    n, half = len(dense), dense.shape[1] // 2
    at = np.concatenate([tokens.alike, tokens.pair])
    at >>= _32
    at *= np.uint64(half)
    at >>= _32
    at = at.view(np.int64)
    at[len(tokens.row) :] += half
    if n > 1:
        at += np.concatenate([tokens.row, tokens.row]) * (2 * half)
    dense += np.bincount(at, minlength=n * 2 * half).reshape(n, 2 * half)


def _hash_text(
    chunk: _Chunk, tokens: _Tokens, width: int
) -> tuple[NDArray[np.intp], NDArray[np.int32], NDArray[np.float32]]:
    """Bounds (n + 1), columns and values of the sparse rows of a chunk."""
    bits = np.uint64(width.bit_length() - 1)
    hashes, rows = [tokens.hash, tokens.pair], [tokens.row, tokens.row]
    if not chunk.ascii and (grams := _grams(chunk.raw, tokens)) is not None:
        hashes.append(grams[0])
        rows.append(grams[1])
    key = np.concatenate(hashes)
    key >>= _64 - bits
    if chunk.n > 1:
        key |= np.concatenate(rows).view(np.uint64) << bits
    key = key.astype(np.uint32)
    key.sort()
    new = np.empty(len(key) + 1, dtype=bool)
    new[0] = new[-1] = True
    np.not_equal(key[1:], key[:-1], out=new[1:-1])
    edge = new.nonzero()[0]
    key, count = key.take(edge[:-1]), edge[1:] - edge[:-1]
    bounds = np.empty(chunk.n + 1, dtype=np.intp)
    bounds[:-1] = key.searchsorted(np.arange(chunk.n, dtype=np.uint32) << np.uint32(bits))
    bounds[-1] = len(key)
    # No text is without a column: its END is one.
    norm = np.sqrt(np.add.reduceat(_TF_SQUARED.take(count, mode="clip"), bounds[:-1]) * 2.0**-20)
    value = _TF.take(count, mode="clip")
    value /= norm.repeat(bounds[1:] - bounds[:-1])
    key &= np.uint32(width - 1)
    return bounds, key.view(np.int32), value.astype(np.float32)


def _grams(raw: NDArray[np.uint8], tokens: _Tokens) -> tuple[NDArray[np.uint64], NDArray[np.intp]] | None:
    """Hashes and rows of the stretches of _GRAM bytes that begin a non-ASCII character and lie in one word.

    They are two characters of Chinese, Japanese or Thai, which have no spaces between words, three of Arabic,
    Greek or Cyrillic. In English text (BIG-Bench Hard, ridge) such stretches added nothing to words and pairs.
    """
    start = ((raw >= _LEAD) & (raw < _FILL)).nonzero()[0]
    word = tokens.start.searchsorted(start, side="right") - 1
    inside = (start + _GRAM <= tokens.end.take(word)).nonzero()[0]
    if not len(inside):
        return None
    start, word = start.take(inside), word.take(inside)
    hashes = (tokens.sums.take(start + _GRAM) - tokens.sums.take(start)) * _INVERSE.take(start)
    hashes *= _GRAM_FACTOR
    return hashes, tokens.row.take(word)
