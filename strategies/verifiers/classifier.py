"""A sequence classifier of Hugging Face's kind as a verifier, in this process.

Needs the extra `hf` (transformers and PyTorch), which is imported when the verifier is opened. A model on a server is
in reward_server.py, the embedded process reward model in reward_model.py.
"""

import asyncio
import importlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

from ..base import Candidate, Prices, Request, Usage, Verdicts
from ..errors import ConfigError, VerifierError, nearest
from ..spec import Parts, PricesSpec, VerifierFields, demand, prices_of, restated

Layout = Literal["auto", "chat", "text", "pair"]
_LAYOUTS = get_args(Layout)


class Classifier:
    """Score texts by an AutoModelForSequenceClassification.

    model    : a directory, or a name in the local cache of Hugging Face; with `download` also one on its hub.
    prices   : of the tokens that it reads; only `prompt` counts.
    good     : which class is the good one, by number or by its label; None where there is only one class.
    layout   : "chat": the dialogue with the text as the assistant's, through the tokenizer's chat template; "text":
               `template` filled; "pair": prompt and text as the tokenizer's two segments (cross-encoders); "auto":
               "chat" where the tokenizer has a template, else "text".
    template : of layout "text", with the slots {prompt} and {answer}.
    batch    : most texts that are read at once. device : a torch device.

        one class: sigmoid of its number.    several: softmax over them, the good one's share.

    A text that does not fit the model's context is not judged, nothing is cut off. Partial texts are scored as they
    stand. One thread runs the model. Remote code is never trusted. Raises ConfigError, ImportError.
    """

    sound = False

    def __init__(
        self,
        model: str | Path,
        *,
        prices: Prices,
        good: int | str | None = None,
        layout: Layout = "auto",
        template: str = "{prompt}\n{answer}",
        batch: int = 16,
        device: str = "cpu",
        download: bool = False,
        name: str = "classifier",
    ) -> None:
        check_settings(layout, template, batch)
        transformers: Any = importlib.import_module("transformers")  # a large extra, that type checks do without
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model, local_files_only=not download)
            loaded: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
                model, local_files_only=not download
            )
        except (OSError, ValueError) as exc:
            raise ConfigError(
                f"model={str(model)!r}: no sequence classifier could be loaded from there "
                f"({str(exc).splitlines()[0][:200]}); give a directory, or download=true to ask the hub"
            ) from exc
        self._model = loaded.to(device).eval()
        self.name, self.prices, self.template, self.batch = name, prices, template, batch
        self.layout = ("chat" if self._tokenizer.chat_template else "text") if layout == "auto" else layout
        if self.layout == "chat" and not self._tokenizer.chat_template:
            raise ConfigError(
                f"layout='chat': the tokenizer of {str(model)!r} has no chat template; use 'text' or 'pair'"
            )
        config = self._model.config
        self.good = _good(good, {int(i): str(label) for i, label in (config.id2label or {}).items()}, str(model))
        self._context = min(
            getattr(config, "max_position_embeddings", None) or self._tokenizer.model_max_length,
            self._tokenizer.model_max_length,
        )
        if config.pad_token_id is None or self._tokenizer.pad_token_id is None:
            self.batch = 1  # such a model cannot tell where a padded text ends
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="howhard-classifier")

    async def score(self, request: Request, candidates: Sequence[Candidate], *, partial: bool = False) -> Verdicts:
        """Read the texts and score them. Raises VerifierError where the model fails."""
        if not candidates:
            return Verdicts(())
        texts = list(dict.fromkeys(c.text for c in candidates))
        try:
            scores, read = await asyncio.get_running_loop().run_in_executor(self._thread, self._judge, request, texts)
        except (RuntimeError, ValueError, TypeError) as exc:
            raise VerifierError(f"classifier {self.name!r} failed: {exc}") from exc
        of = dict(zip(texts, scores, strict=True))
        usage = Usage(verifier_tokens=read, calls=int(read > 0), cost=self.prices.cost(prompt=read, completion=0))
        return Verdicts(tuple(of[c.text] for c in candidates), usage)

    def most_usage(self, request: Request, candidates: Sequence[Candidate]) -> Usage:
        """See running.BoundsUsage: what it will read, counted exactly."""
        texts = dict.fromkeys(c.text for c in candidates)
        lengths = [len(self._encode(request, text)["input_ids"]) for text in texts]
        read = sum(length for length in lengths if length <= self._context)
        return Usage(verifier_tokens=read, calls=1, cost=self.prices.cost(prompt=read, completion=0))

    def _judge(self, request: Request, texts: Sequence[str]) -> tuple[list[float | None], int]:
        import torch

        encoded = [self._encode(request, text) for text in texts]
        order = sorted(
            (i for i, e in enumerate(encoded) if len(e["input_ids"]) <= self._context),
            key=lambda i: len(encoded[i]["input_ids"]),
        )
        scores: list[float | None] = [None] * len(texts)
        for first in range(0, len(order), self.batch):
            places = order[first : first + self.batch]
            rows = [encoded[i] for i in places]
            inputs = self._tokenizer.pad(rows, return_tensors="pt") if self.batch > 1 else _alone(rows[0])
            with torch.inference_mode():
                logits = self._model(**{k: v.to(self._model.device) for k, v in inputs.items()}).logits.float()
            chances = torch.sigmoid(logits[:, 0]) if logits.shape[1] == 1 else torch.softmax(logits, 1)[:, self.good]
            for i, chance in zip(places, chances.tolist(), strict=True):
                scores[i] = chance
        return scores, sum(len(encoded[i]["input_ids"]) for i in order)

    def _encode(self, request: Request, text: str) -> dict[str, list[int]]:
        """The token ids of one text as the model reads it, without anything cut off."""
        if self.layout == "chat":
            dialogue = [{"role": m.role, "content": m.content} for m in request.messages]
            whole = self._tokenizer.apply_chat_template(
                [*dialogue, {"role": "assistant", "content": text}], tokenize=False
            )
            return dict(self._tokenizer(whole, add_special_tokens=False, verbose=False))
        if self.layout == "pair":
            return dict(self._tokenizer(request.text, text, verbose=False))
        head, _, tail = self.template.partition("{answer}")
        filled = head.replace("{prompt}", request.text) + text + tail.replace("{prompt}", request.text)
        return dict(self._tokenizer(filled, verbose=False))


def check_settings(layout: str, template: str, batch: int) -> None:
    """Raise ConfigError for a setting out of range."""
    if layout not in _LAYOUTS:
        raise ConfigError(f"layout={layout!r}{nearest(str(layout), _LAYOUTS)}")
    for slot in ("{prompt}", "{answer}"):
        if slot not in template:
            raise ConfigError(f"template has no slot {slot}")
    if batch < 1:
        raise ConfigError(f"batch={batch!r}: it must be at least 1")


def _good(good: int | str | None, labels: dict[int, str], model: str) -> int:
    words = ", ".join(f"{i} ({label})" for i, label in sorted(labels.items()))
    if good is None:
        if len(labels) != 1:
            raise ConfigError(f"model {model!r} has {len(labels)} classes, {words}: say with `good` which one is good")
        return 0
    number = good if isinstance(good, int) else next((i for i, label in labels.items() if label == good), -1)
    if number not in labels:
        raise ConfigError(f"good={good!r}: model {model!r} has the classes {words}")
    return number


def _alone(row: dict[str, list[int]]) -> "dict[str, Any]":
    import torch

    return {key: torch.tensor([values]) for key, values in row.items()}


class ClassifierSpec(VerifierFields, frozen=True, kw_only=True, tag="classifier"):
    """A Hugging Face sequence classifier in this process; the settings are those of Classifier.

    prices : of the tokens it reads (`prompt`); None = they count as much as tokens drawn.
    """

    model: str
    good: int | str | None = None
    layout: Layout = "auto"
    template: str = "{prompt}\n{answer}"
    batch: int = 16
    device: str = "cpu"
    download: bool = False
    prices: PricesSpec | None = None

    def __post_init__(self) -> None:
        demand(bool(self.model), "model is empty: give a directory, or a name of Hugging Face's")
        with restated():
            check_settings(self.layout, self.template, self.batch)

    def open(self, name: str, parts: Parts) -> Classifier:
        """See VerifierFields."""
        try:
            importlib.import_module("transformers")
        except ImportError as exc:
            raise ConfigError(
                f"verifier {name!r} needs transformers, which is not installed: pip install 'howhard[hf]'"
            ) from exc
        return Classifier(
            self.model,
            prices=prices_of(self.prices, Prices(prompt=1.0, completion=0.0)),
            good=self.good,
            layout=self.layout,
            template=self.template,
            batch=self.batch,
            device=self.device,
            download=self.download,
            name=name,
        )
