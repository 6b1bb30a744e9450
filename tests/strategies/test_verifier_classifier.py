"""A Hugging Face sequence classifier as a verifier, against the model's own forward pass."""

import asyncio
import sys

import pytest

from howhard.strategies import Candidate, Classifier, ClassifierSpec, Prices, Request, Usage
from howhard.strategies.errors import ConfigError, VerifierError
from howhard.strategies.spec import Parts, SpecError

from .tiny_classifier import make_classifier

PROMPT = Request.of("1 + 2?")
PRICES = Prices(prompt=0.5, completion=0.0)
TEXTS = ("3", "a long answer\nAnswer: 3", "4", "3")


@pytest.fixture(scope="module")
def one_class(tmp_path_factory):
    return make_classifier(tmp_path_factory.mktemp("classifiers") / "one", labels=1)


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory):
    return make_classifier(tmp_path_factory.mktemp("classifiers") / "two", labels=2, seed=2)


def score(verifier, *texts, **kwargs):
    return asyncio.run(verifier.score(PROMPT, [Candidate.of(t) for t in texts], **kwargs))


def forward(directory, text):
    """The class probabilities of one text, and how many tokens it has, by one plain pass."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(directory)(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    logits = AutoModelForSequenceClassification.from_pretrained(directory).eval()(ids).logits[0]
    chances = torch.sigmoid(logits) if len(logits) == 1 else torch.softmax(logits, 0)
    return chances.tolist(), ids.shape[1]


def test_one_class_gives_the_sigmoid_of_the_dialogue_and_every_token_is_booked(one_class):
    verdicts = score(Classifier(one_class, prices=PRICES), *TEXTS)
    passes = [forward(one_class, f"user: 1 + 2?\nassistant: {text}\n") for text in TEXTS]
    assert verdicts.scores == pytest.approx([chances[0] for chances, _ in passes], abs=1e-5)
    read = sum(length for _, length in passes[:3])  # the fourth text is the first one
    assert verdicts.usage == Usage(verifier_tokens=read, calls=1, cost=read * 0.5)


def test_of_several_classes_the_good_one_is_named_by_number_or_label(two_classes):
    for good, place in ((1, 1), ("LABEL_0", 0)):
        [got] = score(Classifier(two_classes, prices=PRICES, good=good, layout="text"), "3").scores
        assert got == pytest.approx(forward(two_classes, "1 + 2?\n3")[0][place], abs=1e-5)
    with pytest.raises(ConfigError, match=r"has 2 classes, 0 \(LABEL_0\), 1 \(LABEL_1\): say with `good`"):
        Classifier(two_classes, prices=PRICES)
    with pytest.raises(ConfigError, match=r"good='fine': model .* has the classes 0"):
        Classifier(two_classes, prices=PRICES, good="fine")


def test_texts_are_read_alone_where_the_model_cannot_tell_padding(tmp_path):
    directory = make_classifier(tmp_path / "model", pad=False, chat=False)
    verifier = Classifier(directory, prices=PRICES)
    assert (verifier.batch, verifier.layout) == (1, "text")
    expected = [forward(directory, f"1 + 2?\n{text}")[0][0] for text in TEXTS]
    assert score(verifier, *TEXTS).scores == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ConfigError, match="has no chat template; use 'text' or 'pair'"):
        Classifier(directory, prices=PRICES, layout="chat")


def test_a_text_beyond_the_context_is_not_judged_and_nothing_is_cut_off(one_class):
    verdicts = score(Classifier(one_class, prices=PRICES), "x" * 300, "3")
    assert verdicts.scores[0] is None
    assert verdicts.scores[1] is not None
    assert score(Classifier(one_class, prices=PRICES), "x" * 300).usage == Usage()


def test_prompt_and_text_may_be_two_segments(one_class):
    [got] = score(Classifier(one_class, prices=PRICES, layout="pair"), "3").scores
    assert got == pytest.approx(forward(one_class, "1 + 2?3")[0][0], abs=1e-5)


def test_a_model_that_breaks_is_a_verifier_error(one_class, monkeypatch):
    verifier = Classifier(one_class, prices=PRICES, name="mine")

    def broken(**inputs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(verifier, "_model", broken)
    broken.device = "cpu"
    with pytest.raises(VerifierError, match="classifier 'mine' failed: out of memory"):
        score(verifier, "3")


def test_a_model_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed: it comes with the extra `hf`")
    with pytest.raises(ConfigError, match="no sequence classifier could be loaded from there"):
        Classifier(tmp_path / "nothing", prices=PRICES)


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'howhard\[hf\]'"):
        ClassifierSpec(model="x").open("c", Parts())


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"layout": "text", "template": "{answer}"}, "template has no slot {prompt}"),
        ({"batch": 0}, "batch=0: it must be at least 1"),
        ({"model": ""}, "model is empty"),
    ],
)
def test_settings_out_of_range_are_refused(bad, words):
    with pytest.raises(SpecError, match=words):
        ClassifierSpec(**({"model": "x"} | bad))
