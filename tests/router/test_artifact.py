import io
import shutil
import zipfile

import msgspec
import numpy as np
import pytest

from howhard.router.artifact import (
    MANIFEST,
    Manifest,
    _version_of,
    pack_arrays,
    read_artifact,
    unpack_arrays,
    write_artifact,
)
from howhard.router.predictor import ARRAYS, Predictor
from howhard.strategies.errors import ArtifactError


@pytest.fixture
def copy(router_dir, tmp_path):
    return shutil.copytree(router_dir, tmp_path / "router")


def edit(directory, change):
    """Change the manifest's JSON by a function of the parsed object."""
    raw = msgspec.json.decode((directory / MANIFEST).read_bytes())
    change(raw)
    (directory / MANIFEST).write_bytes(msgspec.json.encode(raw))


def test_what_was_written_is_read_back(trained, router_dir):
    manifest, files = read_artifact(router_dir)
    assert files == dict(trained.files)
    assert set(manifest.files) == set(files)
    assert msgspec.structs.replace(manifest, files={}, router_version="") == trained.manifest


def test_equal_content_has_an_equal_version_whenever_it_is_written(trained, tmp_path):
    later = msgspec.structs.replace(trained.manifest, created="2027-01-01T00:00:00Z")
    other = msgspec.structs.replace(trained.manifest, currency="EUR")
    versions = [
        write_artifact(tmp_path / str(i), m, trained.files).router_version
        for i, m in enumerate((trained.manifest, later, other))
    ]
    assert versions[0] == versions[1] != versions[2]


def test_a_manifest_says_nothing_of_where_prompts_are_sent(router_dir):
    text = (router_dir / MANIFEST).read_text().lower()
    for word in ("http", "url", "api_key"):
        assert word not in text


def test_nothing_is_left_behind_when_writing_fails(trained, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("howhard.router.artifact.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_artifact(tmp_path / "router", trained.manifest, trained.files)
    assert list(tmp_path.iterdir()) == []


def test_a_router_is_never_written_over_something(trained, router_dir, tmp_path):
    with pytest.raises(ArtifactError, match="not an empty directory"):
        write_artifact(router_dir, trained.manifest, trained.files)
    (tmp_path / "empty").mkdir()
    write_artifact(tmp_path / "empty", trained.manifest, trained.files)
    assert read_artifact(tmp_path / "empty")[1] == dict(trained.files)


@pytest.mark.parametrize("name", ["../evil.txt", "a/b.txt", "", MANIFEST, ".hidden", "UPPER.txt"])
def test_file_names_that_could_lead_elsewhere_are_refused(trained, tmp_path, name):
    with pytest.raises(ArtifactError, match="not a name for a file"):
        write_artifact(tmp_path / "router", trained.manifest, {name: b"x"})


def test_a_missing_directory_manifest_or_file_is_named(copy, tmp_path):
    with pytest.raises(ArtifactError, match=r"nowhere: it is not a directory.*howhard train"):
        read_artifact(tmp_path / "nowhere")
    (copy / "trees.txt").unlink()
    with pytest.raises(ArtifactError, match=r"trees\.txt is missing"):
        read_artifact(copy)
    (copy / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        read_artifact(copy)


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b" ", lambda b: bytes([b[0] ^ 1]) + b[1:]])
@pytest.mark.parametrize("name", ["trees.txt", ARRAYS])
def test_a_file_of_another_size_or_content_is_refused(copy, name, change):
    (copy / name).write_bytes(change((copy / name).read_bytes()))
    with pytest.raises(ArtifactError, match=f"{name} is damaged or was changed"):
        read_artifact(copy)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.update(fallback="small/single"), "changed after it was written"),
        (lambda m: m["backends"]["small"]["prices"].update(completion=0.5), "changed after it was written"),
        (lambda m: m["files"].pop("trees.txt"), "changed after it was written"),
        (lambda m: m["files"].update({"../x": {"sha256": "0", "bytes": 1}}), "changed after it was written"),
        (lambda m: m.update(schema_version=1), "schema_version 1, written by howhard 0.1.0; .* reads 2. Train it anew"),
        (lambda m: m.update(schema_version=3), "schema_version 3, .* Update howhard"),
        (lambda m: m.pop("schema_version"), "schema_version None"),
        (lambda m: m["training"].update(values=[9.0, 3.0]), r"training.values=\(9.0, 3.0\)"),
        (lambda m: m.update(surprise=1), "unknown field `surprise`"),
        (lambda m: m.pop("arms"), "missing required field `arms`"),
        (lambda m: m.update(arms="all"), "Expected `array`"),
        (lambda m: m.update(fallback="huge/single"), "fallback='huge/single' is not one of the arms"),
        (lambda m: m["backends"]["small"]["prices"].update(completion=-1.0), "impossible value: prices.completion=-1"),
        (lambda m: m["objective"].update(value=-3.0), "value=-3.0"),
        (lambda m: m["features"].update(version="fast/9"), "cannot be read by this howhard: features.version=.fast/9"),
        (lambda m: m["arms"].reverse(), "not in one order"),
        (lambda m: m["verifiers"].clear(), "wants verifier 'vote'"),
        (lambda m: m["backends"].pop("large"), "wants backend 'large'"),
        (lambda m: m.update(quantiles=[0.9, 0.5]), "ascend"),
    ],
)
def test_a_changed_or_foreign_manifest_is_refused_in_words(copy, change, message):
    edit(copy, change)
    with pytest.raises(ArtifactError, match=message):
        read_artifact(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema_version": 1}'])
def test_a_manifest_that_is_no_manifest_is_refused(copy, content):
    (copy / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json (is damaged|has schema_version)"):
        read_artifact(copy)


def test_a_manifest_that_claims_a_huge_file_is_not_believed(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("howhard.router.artifact.MAX_FILE_BYTES", 100)
    with pytest.raises(ArtifactError, match="at most 100"):
        write_artifact(tmp_path / "router", trained.manifest, trained.files)


def test_arrays_are_read_back_and_their_bytes_are_repeatable():
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.asfortranarray(np.eye(3)), "c": np.array([np.nan])}
    packed = pack_arrays(**arrays)
    assert packed == pack_arrays(**dict(reversed(arrays.items())))
    for name, array in unpack_arrays(packed, what="x").items():
        np.testing.assert_array_equal(array, arrays[name])


def npz(*, compression=zipfile.ZIP_STORED, **contents: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a zip",
        npz(a=b"not an array"),
        npz(a=npy(np.array([{"an": "object"}], dtype=object), allow_pickle=True)),
        npz(a=npy(np.zeros(3)).replace(b"(3,)", b"(9,)")),
        npz(compression=zipfile.ZIP_DEFLATED, a=npy(np.zeros(10_000))),
        npz(a=npy(np.zeros(3)))[:-30],
    ],
    ids=["empty", "text", "no array", "pickle", "wrong shape", "compressed", "cut"],
)
def test_an_array_file_that_holds_anything_else_is_refused(content):
    with pytest.raises(ArtifactError, match="not a file of plain arrays"):
        unpack_arrays(content, what="arms.npz")


def load(trained, **arrays) -> Predictor:
    """The trained predictor with some of its arrays changed."""
    old = unpack_arrays(trained.files[ARRAYS], what=ARRAYS)
    packed = pack_arrays(**{k: v for k, v in (old | arrays).items() if v is not None})
    return Predictor.from_artifact(trained.manifest, {**trained.files, ARRAYS: packed})


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"intercept": None}, "lacks intercept"),
        ({"slope": np.ones(2)}, "slope is float64"),
        ({"slope": np.array([1.0, 2.0, -3.0])}, "slope holds a value that is not finite, or below 0"),
        ({"inflation": np.full((3, 3), np.nan)}, "not finite"),
        ({"members": np.array(5.0)}, "trees.txt holds 4 models, not 5"),
        ({"weight_stars": np.ones(2)}, "no component 'stars'"),
        ({"weight_text": np.ones(2)}, "lacks text.npz"),
        ({"latency": None}, "lacks latency"),
        ({"latency": -np.ones((3, 2))}, "below 0"),
    ],
)
def test_arrays_that_do_not_fit_or_make_no_sense_are_refused(trained, arrays, message):
    with pytest.raises(ArtifactError, match=message):
        load(trained, **arrays)


def test_a_router_without_its_models_is_refused(trained):
    for name in ("trees.txt", "trees.npz", "amounts.npz", ARRAYS):
        files = {k: v for k, v in trained.files.items() if k != name}
        with pytest.raises(ArtifactError, match=f"lacks {name}.*train it anew"):
            Predictor.from_artifact(trained.manifest, files)


def test_defaults_are_not_shared_between_manifests(trained):
    assert isinstance(trained.manifest, Manifest)
    assert trained.manifest.files == {}


def test_a_manifest_without_settings_that_came_later_still_agrees_with_its_hash(copy):
    """As one that an older howhard wrote: its specs know fewer settings than today's."""

    def older(raw):
        for spec in raw["specs"]:
            del spec["strategy"]["top_p"]
        raw["router_version"] = _version_of(raw)

    edit(copy, older)
    manifest, _ = read_artifact(copy)
    assert {spec.strategy.top_p for spec in manifest.specs} == {1.0}
