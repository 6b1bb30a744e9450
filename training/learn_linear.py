"""Fit the linear components of a prediction (howhard.router.linear): logistic models of quality, ridges of amounts.

Every arm has weights of its own that lean on weights shared by all, both held towards 0 by normal priors:

    weights of arm a = sum_c mix[c, a] * u_c,      u_c ~ N(0, 1)

so that an arm with few outcomes borrows from the others, and with none is what they share. All members, each blind to
one fold, and all settings that are tried are solved at once as columns of one system, by Newton steps with conjugate
gradients: one pass over the sparse text serves them all. How wide the priors are is chosen on the folds left out, by
the error of the differences between arms, which the router acts on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sparse
from scipy.linalg import solve_triangular

from ..router.familiarity import CLIP
from ..router.features import Features, FeatureSpec
from ..router.linear import MAX_LOG_RATIO, Amounts, LinearComponent, LinearMap, standardised
from ..strategies.errors import TableError
from .learners import Learned, Lesson
from .matrix import OutcomeMatrix

NAMED = len(FeatureSpec(n_hashed=0).names)
"""Dense columns that have a meaning each."""
WIDTHS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Prior variances of a weight that are tried, of log-odds per prompt vector of length 1."""
AMOUNT_WIDTHS = (0.25, 1.0, 4.0, 16.0, 64.0)
"""The same for logarithms of amounts, each divided by its spread."""
SHARED = (0.0, 0.5, 0.8)
"""Shares of that variance which all arms have in common that are tried."""
DENSE_LENGTH = 0.4
"""Mean squared length of a prompt's dense columns beside that of its text, which is 1. On BIG-Bench Hard .15 to 1.2 do
alike."""
SEARCH_PROMPTS = 2_000
"""Priors are chosen on at most so many prompts: their best width does not depend on how many there are."""
JITTER = 1e-6
"""Added to the diagonal of the prompts' products with each other, of about 1, so that it has a Cholesky factor."""


@dataclass(frozen=True, slots=True)
class TextLearner:
    """Logistic model of the hashed text and the dense columns, on soft targets.

    columns : how many of the leading dense columns are read; the hashed ones, which are last, only repeat the text.
    """

    columns: int = NAMED

    @property
    def name(self) -> str:
        """That of the component."""
        return "text"

    def fit(self, lesson: Lesson) -> Learned:
        """Fit the K members."""
        return _fit_quality(self.name, _Design.of(lesson.x, text=True, columns=self.columns), lesson)


@dataclass(frozen=True, slots=True)
class EncoderLearner:
    """Logistic model of the encoder's embedding, on soft targets. Raises TableError for prompts without one."""

    @property
    def name(self) -> str:
        """That of the component."""
        return "encoder"

    def fit(self, lesson: Lesson) -> Learned:
        """Fit the K members."""
        if lesson.x.embedding is None:
            raise TableError("the encoder's component needs embeddings, and the features have none: name an encoder")
        return _fit_quality(self.name, _Design.of(lesson.x, embedding=True, columns=0), lesson)


@dataclass(frozen=True, slots=True)
class TwoParameterLearner:
    """Item-response model with features: log-odds = discrimination of the arm * ease of the prompt + the arm's base.

    The ease is linear in text and dense columns, so that every outcome of any arm speaks of it; an arm takes one number
    to learn, its discrimination, which leans on 1. For few outcomes per prompt, and for arms with few outcomes.
    Ease and discrimination are fitted in turns. Source: Birnbaum 1968, with the item's parameter regressed on features
    as in De Boeck & Wilson 2004, "Explanatory item response models".

    columns : how many of the leading dense columns are read; the hashed ones, which are last, only repeat the text.
    spread  : standard deviation of the discriminations' prior.
    turns   : of the alternation.
    """

    columns: int = NAMED
    spread: float = 0.5
    turns: int = 3

    @property
    def name(self) -> str:
        """That of the component."""
        return "two_parameter"

    def fit(self, lesson: Lesson) -> Learned:
        """Fit the K members."""
        design = _Design.of(lesson.x, text=True, columns=self.columns)
        task, small = _Task.of_quality(lesson), _Small.of(design)
        solved = small.design if small.whole else design
        a, members = len(lesson.matrix.arms), lesson.members
        # Two arms of equal discrimination do not differ by the prompt, so here the outcomes themselves are what counts.
        width = _best(replace(task, differences=False), small, lambda v: _mix(v, 1.0, a)[:1], WIDTHS)
        discrimination, start = np.ones((members, a)), None
        every = np.arange(members)
        for turn in range(self.turns):
            mix = np.sqrt(width) * discrimination[:, None, :]
            start, z = _solve(solved, task.weight(every), task, every, mix, start=start)
            if turn + 1 < self.turns:
                ease = (z / discrimination.astype(np.float32)[None]).mean(axis=2)
                discrimination = self._discriminations(ease, task, every)
        assert start is not None
        if small.whole:
            start = small.back(start)
        scores = design.map_of(np.sqrt(width) * start.transpose(0, 2, 1).reshape(len(start), members))
        loading = np.ascontiguousarray(discrimination.T)[None]
        return _learned(LinearComponent(name=self.name, scores=scores, members=members, loading=loading), lesson)

    def _discriminations(self, ease: np.ndarray, task: "_Task", members: np.ndarray) -> np.ndarray:
        """Of each member and arm (K, a), given the ease (n, K) of the prompts: logistic regressions of one number."""
        weight = task.weight(members)
        slope = np.ones(weight.shape[1:])
        precision = 1 / self.spread**2
        for _ in range(8):
            p = _sigmoid(task.base[members] + slope * ease[:, :, None])
            gradient = (weight * ease[:, :, None] * (task.target[:, None, :] - p)).sum(axis=0)
            curve = (weight * ease[:, :, None] ** 2 * p * (1 - p)).sum(axis=0)
            slope = slope + (gradient - precision * (slope - 1)) / (curve + precision)
            slope = np.clip(slope, 0.0, 4.0)
        slope = np.maximum(slope, 1e-2)
        # Only their ratios are kept: how far the ease goes is the width's business.
        return slope / slope.mean(axis=1, keepdims=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LearnedAmounts:
    """Fitted amounts, and what members that had not seen a training prompt say of it.

    cost, tokens : (n, a) out of fold, as `Amounts.ratios` gives them.
    """

    amounts: Amounts
    cost: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True, slots=True)
class AmountsLearner:
    """Ridge of the logarithms of cost and tokens over the arm's means, on the hashed text and the dense columns.

    columns : how many of the leading dense columns are read; the hashed ones, which are last, only repeat the text.
    """

    columns: int = NAMED

    def fit(self, lesson: Lesson) -> LearnedAmounts:
        """Fit on all prompts, and K times without a fold for the ratios out of fold."""
        design = _Design.of(lesson.x, text=True, columns=self.columns)
        small = _Small.of(design)
        parts = [_fit_logs(design, small, values, lesson) for values in (lesson.matrix.cost, lesson.matrix.tokens)]
        logs = design.map_of(
            np.concatenate([weights for weights, _, _ in parts], axis=1),
            offset=np.concatenate([smear for _, smear, _ in parts]),
        )
        cost, tokens = (np.exp(np.clip(log, -MAX_LOG_RATIO, MAX_LOG_RATIO)) for _, _, log in parts)
        return LearnedAmounts(amounts=Amounts(logs=logs), cost=cost, tokens=tokens)


# ── quality ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _fit_quality(name: str, design: "_Design", lesson: Lesson) -> Learned:
    task, small = _Task.of_quality(lesson), _Small.of(design)
    a, members = len(lesson.matrix.arms), lesson.members
    width = _best(task, small, lambda v: _mix(v, 0.5, a), WIDTHS)
    shared = _best(task, small, lambda s: _mix(width, s, a), SHARED)
    mix = np.repeat(_mix(width, shared, a)[None], members, axis=0)
    every = np.arange(members)
    u, _ = _solve(small.design if small.whole else design, task.weight(every), task, every, mix)
    if small.whole:
        u = small.back(u)
    # (p, K, c) by (c, a) -> (p, a * K): the arms' columns with the members beside each other.
    weights = np.einsum("pkc,ca->pak", u, mix[0].astype(np.float32), optimize=True).reshape(len(u), a * members)
    return _learned(LinearComponent(name=name, scores=design.map_of(weights), members=members), lesson)


def _learned(component: LinearComponent, lesson: Lesson) -> Learned:
    added = component.added(lesson.x)
    return Learned(component=component, out_of_fold=added[np.arange(len(added)), :, lesson.fold])


def _mix(width: float, shared: float, a: int) -> np.ndarray:
    """(1 + a, a): the shared weights, then each arm's own, for a prior variance and the share in common."""
    return np.concatenate([np.full((1, a), np.sqrt(width * shared)), np.sqrt(width * (1 - shared)) * np.eye(a)])


# ── amounts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _fit_logs(
    design: "_Design", small: "_Small", values: np.ndarray, lesson: Lesson
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (p, a) of all prompts' model, smearing offsets (a,), and smeared logarithms out of fold (n, a)."""
    n, a = values.shape
    logged = ~np.isnan(values).all(axis=0)
    mean = np.ones(a)
    mean[logged] = np.maximum(np.nanmean(values[:, logged], axis=0), 1e-12)
    # A thousandth of the mean stands for a free answer, whose logarithm has no end.
    log = np.log(np.maximum(values / mean, 1e-3))
    members = lesson.members + 1
    inside = (lesson.fold[:, None] != np.arange(members))[:, :, None] & ~np.isnan(log)[:, None, :]
    counted = np.maximum(inside.sum(axis=0), 1)
    base = np.where(inside, np.nan_to_num(log)[:, None, :], 0.0).sum(axis=0) / counted
    residual = np.where(inside, np.nan_to_num(log)[:, None, :] - base, 0.0)
    spread = np.sqrt((residual**2).sum(axis=(0, 1)) / np.maximum(inside.sum(axis=(0, 1)), 1))
    spread = np.where(spread > 1e-9, spread, 1.0)
    task = _Task(
        target=np.nan_to_num(log / spread).astype(np.float32),
        known=~np.isnan(log),
        trust=np.ones((n, a), dtype=np.float32),
        fold=lesson.fold,
        base=base / spread,
        logistic=False,
        differences=False,
    )
    width = _best(task, small, lambda v: _mix(v, 0.5, a), AMOUNT_WIDTHS)
    mix = np.repeat(_mix(width, 0.5, a)[None], members, axis=0)
    every = np.arange(members)
    u, z = _solve(small.design if small.whole else design, task.weight(every), task, every, mix)
    u = u[:, -1:]
    if small.whole:
        u = small.back(u)
    weights = (u[:, 0] @ mix[-1].astype(np.float32)) * spread.astype(np.float32)
    at = (np.arange(n), lesson.fold)
    out = np.clip((base[lesson.fold] + spread * z[at]), -MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = np.where(np.isnan(log), np.nan, np.exp(out))
    paid = np.where(np.isnan(log), np.nan, values / mean)
    smear = np.zeros(a)
    smear[logged] = np.log(np.maximum(np.nanmean(paid[:, logged], axis=0), 1e-3) / np.nanmean(ratio[:, logged], axis=0))
    offset = np.where(logged, base[-1] + smear, 0.0)
    return np.where(logged, weights, 0.0), offset, np.where(logged, out + smear, 0.0)


# ── the system ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Design:
    """The features as a matrix of n rows and p columns, centred, in blocks.

    text : csr (n, width), rows of length 1 after the idf. dense : (n, d). embedding : (n, e). Each or None.
    idf, mean, scale : as in LinearMap. dense_factor : what brings the dense rows to DENSE_LENGTH.
    """

    text: Any
    dense: np.ndarray | None
    embedding: np.ndarray | None
    idf: np.ndarray | None
    mean: np.ndarray
    scale: np.ndarray
    dense_factor: float
    centre: np.ndarray

    @classmethod
    def of(cls, x: Features, *, text: bool = False, embedding: bool = False, columns: int) -> "_Design":
        n = len(x)
        csr = idf = dense = None
        if text:
            seen = np.bincount(x.text.index, minlength=x.text.width)
            idf = (np.log((1 + n) / (1 + seen)) + 1).astype(np.float32)
            value = x.text.value * idf[x.text.index]
            row = np.repeat(np.arange(n), np.diff(x.text.start))
            length = np.sqrt(np.bincount(row, value.astype(np.float64) ** 2, minlength=n))
            value = (value / np.where(length > 0, length, 1.0)[row]).astype(np.float32)
            csr = sparse.csr_matrix((value, x.text.index, x.text.start), shape=(n, x.text.width))
        d = min(columns, x.dense.shape[1])
        mean, scale, factor = np.zeros(d), np.zeros(d), 1.0
        if d:
            root = np.sign(x.dense[:, :d]) * np.sqrt(np.abs(x.dense[:, :d].astype(np.float64)))
            mean, spread = root.mean(axis=0), root.std(axis=0)
            scale = np.where(spread > 1e-6, 1 / (CLIP * np.where(spread > 1e-6, spread, 1.0)), 0.0)
            dense = standardised(x.dense, mean, scale).astype(np.float32)
            length = float((dense**2).sum(axis=1).mean())
            factor = float(np.sqrt(DENSE_LENGTH / length)) if length > 0 else 0.0
            dense *= np.float32(factor)
        design = cls(
            text=csr,
            dense=dense,
            embedding=np.ascontiguousarray(x.embedding, dtype=np.float32) if embedding else None,
            idf=idf,
            mean=mean,
            scale=scale,
            dense_factor=factor,
            centre=np.empty(0, dtype=np.float32),
        )
        means = [np.asarray(b.mean(axis=0), dtype=np.float32).ravel() for b in design._blocks]
        return replace(design, centre=np.concatenate(means))

    @property
    def _blocks(self) -> list[Any]:
        return [b for b in (self.text, self.dense, self.embedding) if b is not None]

    def __len__(self) -> int:
        return self._blocks[0].shape[0]

    def products(self) -> np.ndarray:
        """Products (n, n) of the prompts' centred rows with each other, float64."""
        total, at_centre, start = np.zeros((len(self), len(self))), np.zeros(len(self)), 0
        for block in self._blocks:
            end = start + block.shape[1]
            exact = block.astype(np.float64)
            own = exact @ exact.T
            total += own.toarray() if sparse.issparse(own) else own
            at_centre += exact @ self.centre[start:end].astype(np.float64)
            start = end
        square = float((self.centre.astype(np.float64) ** 2).sum())
        return total - at_centre[:, None] - at_centre[None, :] + square

    def rows(self, index: np.ndarray) -> "_Design":
        """The design of some prompts, centred as the whole is."""
        parts = {
            name: None if getattr(self, name) is None else getattr(self, name)[index]
            for name in ("text", "dense", "embedding")
        }
        return replace(self, **parts)

    def times(self, weights: np.ndarray) -> np.ndarray:
        """(n, m) from weights (p, m)."""
        total, start = -(self.centre @ weights), 0
        for block in self._blocks:
            end = start + block.shape[1]
            total = total + block @ weights[start:end]
            start = end
        return total

    def transposed_times(self, values: np.ndarray) -> np.ndarray:
        """(p, m) from values (n, m)."""
        parts = [block.T @ values for block in self._blocks]
        return np.concatenate(parts) - self.centre[:, None] * values.sum(axis=0)

    def map_of(self, weights: np.ndarray, *, offset: np.ndarray | None = None) -> LinearMap:
        """The router's map with these weights (p, m), which float16 rounds; the centre goes into the offset."""
        parts, start = {}, 0
        for name, factor in (("text", 1.0), ("dense", self.dense_factor), ("embedding", 1.0)):
            block = getattr(self, name)
            if block is None:
                continue
            end = start + block.shape[1]
            rounded = (weights[start:end] * np.float32(factor)).astype(np.float16).astype(np.float32)
            parts[name] = np.ascontiguousarray(rounded), self.centre[start:end].astype(np.float64) / (factor or 1.0)
            start = end
        at_centre = sum(centre @ rounded.astype(np.float64) for rounded, centre in parts.values())
        m = weights.shape[1]
        none = np.zeros((0, m), dtype=np.float32), None
        return LinearMap(
            offset=(np.zeros(m) if offset is None else offset) - at_centre,
            idf=self.idf,
            text_weights=parts["text"][0] if "text" in parts else None,
            mean=self.mean,
            scale=self.scale,
            dense_weights=parts.get("dense", none)[0],
            embedding_weights=parts["embedding"][0] if "embedding" in parts else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Small:
    """Some prompts' rows of a design, turned so that there are no more columns than prompts.

    Priors N(0, 1) on all columns do not change when these are turned, so a model of the turned rows L, L L' = X X',
    says the same of every prompt as one of X; its weights are u = X' L'^-1 v. With a few hundred prompts of 32,768
    columns that is a hundred times less work.

    index : of the prompts; whole : they are all of them. design : the turned rows. factor : L, float64.
    """

    index: np.ndarray
    whole: bool
    design: _Design
    factor: np.ndarray
    origin: _Design

    @classmethod
    def of(cls, design: _Design) -> "_Small":
        """Turn all prompts, or a sample of SEARCH_PROMPTS."""
        n = len(design)
        whole = n <= SEARCH_PROMPTS
        index = np.arange(n) if whole else np.sort(np.random.default_rng(0).choice(n, SEARCH_PROMPTS, replace=False))
        origin = design if whole else design.rows(index)
        factor = np.linalg.cholesky(origin.products() + JITTER * np.eye(len(index)))
        turned = replace(
            origin,
            text=None,
            dense=None,
            embedding=factor.astype(np.float32),
            centre=np.zeros(len(index), dtype=np.float32),
        )
        return cls(index=index, whole=whole, design=turned, factor=factor, origin=origin)

    def back(self, v: np.ndarray) -> np.ndarray:
        """Weights (p, J, c) of the design's own columns, from those of the turned ones (n, J, c)."""
        n, j, c = v.shape
        alpha = solve_triangular(self.factor, v.reshape(n, j * c), lower=True, trans=1)
        return self.origin.transposed_times(alpha).astype(np.float32).reshape(-1, j, c)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Task:
    """What is to be predicted, and by which members.

    target : float32 (n, a), 0 where not known. known : (n, a). trust : float32 (n, a), weight of an outcome.
    fold   : (n,); member k sees all other folds than k (so one numbered K sees them all).
    base   : (K, a), what a member says where the features say nothing.
    logistic : targets in [0, 1] by log-odds; else any number, by least squares.
    differences : errors are judged of the differences between arms, where most prompts have outcomes of two or more.
    """

    target: np.ndarray
    known: np.ndarray
    trust: np.ndarray
    fold: np.ndarray
    base: np.ndarray
    logistic: bool
    differences: bool

    @classmethod
    def of_quality(cls, lesson: Lesson) -> "_Task":
        quality = lesson.matrix.quality
        return cls(
            target=np.nan_to_num(quality).astype(np.float32),
            known=~np.isnan(quality),
            trust=trust(lesson.matrix),
            fold=lesson.fold,
            base=lesson.base,
            logistic=True,
            differences=True,
        )

    def rows(self, index: np.ndarray) -> "_Task":
        parts = {name: getattr(self, name)[index] for name in ("target", "known", "trust", "fold")}
        return replace(self, **parts)

    def weight(self, members: np.ndarray) -> np.ndarray:
        """Of every outcome for every member, float32 (n, len(members), a); 0 where unknown or not to be seen."""
        seen = (self.fold[:, None] != members)[:, :, None] & self.known[:, None, :]
        return seen * self.trust[:, None, :]

    def error(self, z: np.ndarray, member: int) -> tuple[float, float]:
        """Sum of squared errors where z (n, a) is added, on the fold that the member has not seen, and their number."""
        out = self.fold == member
        known, z = self.known[out], z[out] + self.base[member]
        residual = np.where(known, self.target[out] - (_sigmoid(z) if self.logistic else z), 0.0)
        several = self.known.sum(axis=1) > 1
        if self.differences and several.mean() > 0.5:
            known = known & several[out][:, None]
            residual = residual - residual.sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
        return float((residual**2)[known].sum()), float(known.sum())


def trust(matrix: OutcomeMatrix) -> np.ndarray:
    """Weight of every outcome, float32 (n, a): 1 for one draw, more for the mean of several, but bounded.

        1 / (r + (1 - r) / draws)

    r is the share of an outcome's variance that more draws of the same prompt would not remove, estimated by moments
    over all outcomes of two draws or more, and at least .1: a thousand draws of one prompt are still one prompt.
    Source: the overdispersion of binomial proportions, Williams 1982, "Extra-binomial variation in logistic models".
    """
    draws = np.where(np.isnan(matrix.quality), 1.0, np.maximum(np.nan_to_num(matrix.draws, nan=1.0), 1.0))
    several = ~np.isnan(matrix.quality) & (draws > 1)
    if not several.any():
        return np.ones(draws.shape, dtype=np.float32)
    mean = np.clip(matrix.arm_quality, 0.02, 0.98)
    spread = np.broadcast_to(mean * (1 - mean), draws.shape)[several]
    relative = float((((matrix.quality - mean) ** 2)[several] / spread).mean())
    by_chance = float((1 / draws[several]).mean())
    r = float(np.clip((relative - by_chance) / (1 - by_chance), 0.1, 1.0))
    return (1 / (r + (1 - r) / draws)).astype(np.float32)


def _best(task: _Task, small: "_Small", mix_of: Callable[[float], np.ndarray], tried: Sequence[float]) -> float:
    """The value whose mix (c, a) predicts the folds left out best, on a sample of the prompts."""
    if not small.whole:
        task = task.rows(small.index)
    folds = np.unique(task.fold)
    members = np.tile(folds, len(tried))
    mix = np.repeat(np.stack([mix_of(v) for v in tried]), len(folds), axis=0)
    _, z = _solve(small.design, task.weight(members), task, members, mix)
    sums = np.zeros((len(tried), 2))
    for j, member in enumerate(members.tolist()):
        sums[j // len(folds)] += task.error(z[:, j], member)
    if not sums[:, 1].all():
        return tried[0]
    return tried[int(np.argmin(sums[:, 0] / sums[:, 1]))]


def _solve(
    design: _Design,
    weight: np.ndarray,
    task: _Task,
    members: np.ndarray,
    mix: np.ndarray,
    *,
    start: np.ndarray | None = None,
    steps: int = 4,
    rounds: int = 20,
) -> tuple[np.ndarray, np.ndarray]:
    """Maximise every system's posterior: return u (p, J, c) and what it adds to the prompts, (n, J, a).

    Systems j of J are columns of one: member members[j], outcomes weighted by weight (n, J, a), mix[j] (c, a) from its
    u to the arms' weights. `start` is a first u of the same systems. Newton's method, each step by conjugate gradients
    to a tenth of its residual, and halved where the posterior would fall.
    """
    (n, count, a), c, p = weight.shape, mix.shape[1], len(design.centre)
    mix = mix.astype(np.float32)
    target, base = task.target[:, None, :], task.base[members].astype(np.float32)

    def forward(u: np.ndarray) -> np.ndarray:
        weights = np.einsum("pjc,jca->pja", u, mix, optimize=True)
        return design.times(np.ascontiguousarray(weights).reshape(p, count * a)).reshape(n, count, a)

    def backward(values: np.ndarray) -> np.ndarray:
        sums = design.transposed_times(values.reshape(n, count * a)).reshape(p, count, a)
        return np.ascontiguousarray(np.einsum("pja,jca->pjc", sums, mix, optimize=True))

    def dot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.einsum("pjc,pjc->j", x, y)

    def loss(u: np.ndarray, z: np.ndarray) -> np.ndarray:
        at = base + z
        each = np.logaddexp(0, at) - target * at if task.logistic else 0.5 * (target - at) ** 2
        return np.einsum("nja,nja->j", weight, each) + 0.5 * dot(u, u)

    u = np.zeros((p, count, c), dtype=np.float32) if start is None else start
    z = np.zeros((n, count, a), dtype=np.float32) if start is None else forward(u)
    first = None
    going = np.ones(count, dtype=bool)
    for _ in range(steps if task.logistic else 1):
        if task.logistic:
            chance = _sigmoid(base + z)
            gradient = backward(weight * (target - chance)) - u
            curve = weight * np.maximum(chance * (1 - chance), 1e-3)
        else:
            gradient, curve = backward(weight * (target - base - z)) - u, weight
        size = dot(gradient, gradient)
        first = size if first is None else first
        # A system that has arrived stays where it is, so that no system's answer depends on which others are solved.
        going &= size > 4e-4 * np.maximum(first, 1e-20)
        if not going.any():
            break
        step, dz = _conjugate(forward, backward, dot, curve, gradient, 0.1 if task.logistic else 0.01, rounds)
        share = going.astype(np.float32)
        if task.logistic:
            was = loss(u, z)
            for _ in range(4):
                worse = loss(u + share[:, None] * step, z + share[:, None] * dz) > was * (1 + 1e-6)
                if not (worse & (share > 0)).any():
                    break
                share = np.where(worse, share / 2, share).astype(np.float32)
        u, z = u + share[:, None] * step, z + share[:, None] * dz
    return u, z


def _conjugate(
    forward: Callable[[np.ndarray], np.ndarray],
    backward: Callable[[np.ndarray], np.ndarray],
    dot: Callable[[np.ndarray, np.ndarray], np.ndarray],
    curve: np.ndarray,
    gradient: np.ndarray,
    tolerance: float,
    rounds: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Solve (backward curve forward + 1) step = gradient for all systems at once; return step and forward(step)."""
    step, dz = np.zeros_like(gradient), np.zeros_like(curve)
    residual, direction = gradient, gradient
    size = dot(residual, residual)
    enough = tolerance**2 * size
    going = size > 0
    for _ in range(rounds):
        ahead = forward(direction)
        bent = backward(curve * ahead) + direction
        length = (going * size / np.maximum(dot(direction, bent), 1e-30)).astype(np.float32)[:, None]
        step, dz, residual = step + length * direction, dz + length * ahead, residual - length * bent
        smaller = dot(residual, residual)
        going &= smaller > enough
        if not going.any():
            break
        direction = residual + (smaller / np.maximum(size, 1e-30)).astype(np.float32)[:, None] * direction
        size = smaller
    return step, dz


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))
