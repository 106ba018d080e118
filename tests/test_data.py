"""Data: seeded order, nested fractions and noise, probes, transforms, local files."""

import gzip
import hashlib
import zipfile
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.config import DataConfig
from zoogen.data import Split, augment, load, noisy_labels, normalise
from zoogen.errors import ConfigError, DataUnavailableError

SEEDS = [0, 1, 2]


@pytest.fixture(scope="module")
def digits():
    return load(DataConfig())


def test_digits_are_the_raw_pixels_of_scikit_learn_in_another_order(digits):
    from sklearn.datasets import load_digits

    images = np.concatenate([digits.train.images, digits.test.images])
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    bunch = load_digits()
    expected = np.column_stack([bunch.data, bunch.target])
    found = np.column_stack([images.reshape(len(images), -1), labels])
    assert not np.array_equal(found, expected)
    np.testing.assert_array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert images.max() == 16


def test_same_config_gives_the_same_bytes(digits):
    again = load(DataConfig())
    assert again.sha256 == digits.sha256
    np.testing.assert_array_equal(again.train.images, digits.train.images)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"train_examples": 100}, {"test_examples": 5}, {"test_fraction": 0.3}]
)
def test_hash_follows_content(digits, change):
    assert load(DataConfig(**change)).sha256 != digits.sha256


def test_limits_take_the_first_of_the_same_order(digits):
    limited = load(DataConfig(train_examples=100, test_examples=7))
    np.testing.assert_array_equal(limited.train.images, digits.train.images[:100])
    np.testing.assert_array_equal(limited.test.labels, digits.test.labels[:7])
    assert len(load(DataConfig(train_examples=10**6)).train) == len(digits.train)


def test_statistics_are_those_of_the_raw_training_pixels(digits):
    pixels = digits.train.images.astype(np.float64)
    np.testing.assert_allclose(digits.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(digits.std, pixels.std(axis=(0, 2, 3)), rtol=1e-6)
    scaled = np.asarray(normalise(jnp.asarray(digits.train.images), digits.mean, digits.std))
    assert scaled.dtype == np.float32
    assert abs(scaled.mean()) < 1e-4
    assert abs(scaled.std() - 1) < 1e-4


@pytest.mark.parametrize(
    ("fraction", "count", "size"),
    [(1.0, 1348, 1348), (0.5, 1348, 674), (0.29, 100, 29), (0.001, 1348, 1), (0.999, 100, 99)],
)
def test_training_size_is_the_floor_of_the_share(fraction, count, size):
    assert load(DataConfig(train_examples=count)).training_size(fraction) == size


def test_a_share_without_images_is_refused(digits):
    with pytest.raises(ConfigError, match=r"fraction.*0\.0001 of 1348 training images is 0"):
        digits.training_size(0.0001)


def test_probes_are_the_first_seen_images(digits):
    config = DataConfig(probe_examples=600, fraction=0.1)
    training, test = digits.probes(config)
    assert len(training) == digits.training_size(0.1)
    assert len(test) == 449
    wider, _ = digits.probes(config, fraction=1.0)
    assert len(wider) == 600
    np.testing.assert_array_equal(wider.images[: len(training)], training.images)


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_replaces_its_share_by_uniform_classes(seed):
    count, classes, rate = 20_000, 10, 0.4
    labels = jnp.full(count, 3, jnp.int32)
    noisy = np.asarray(noisy_labels(labels, rate, classes, seed))
    frequency = np.bincount(noisy, minlength=classes) / count
    expected = np.full(classes, rate / classes) + (1 - rate) * (np.arange(classes) == 3)
    deviation = np.sqrt(expected * (1 - expected) / count)
    assert np.all(np.abs(frequency - expected) < 5 * deviation)
    assert not np.array_equal(noisy, noisy_labels(labels, rate, classes, seed + 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_is_nested_in_the_rate_and_in_the_length(seed):
    labels = jnp.full(500, -1, jnp.int32)  # no class: every replacement shows
    rates = jnp.array([0.0, 0.1, 0.5, 1.0])
    noisy = np.asarray(jax.vmap(lambda rate: noisy_labels(labels, rate, 10, seed))(rates))
    for lower, higher in pairwise(noisy):
        replaced = lower >= 0
        np.testing.assert_array_equal(higher[replaced], lower[replaced])
        assert (higher >= 0).sum() > replaced.sum()
    assert (noisy[0] == -1).all()
    assert (noisy[-1] >= 0).all()
    np.testing.assert_array_equal(noisy_labels(labels[:50], 0.5, 10, seed), noisy[2, :50])


@pytest.fixture(scope="module")
def batch():
    return jnp.asarray(np.random.default_rng(0).integers(1, 255, (200, 2, 6, 7), np.uint8))


def places(image, crop, flip):
    """All images that augmentation may make of one."""
    padded = np.pad(image, ((0, 0), (crop, crop), (crop, crop)))
    starts = range(2 * crop + 1)
    crops = [padded[:, y : y + 6, x : x + 7] for y in starts for x in starts]
    return crops + [each[..., ::-1] for each in crops] if flip else crops


@pytest.mark.parametrize(("crop", "flip"), [(0, False), (0, True), (2, False), (1, True)])
def test_augmentation_draws_evenly_from_all_places(batch, crop, flip):
    result = np.asarray(augment(jax.random.key(0), batch, crop, flip))
    assert result.dtype == np.uint8
    drawn = []
    for image, original in zip(result, np.asarray(batch), strict=True):
        matches = [np.array_equal(image, place) for place in places(original, crop, flip)]
        assert sum(matches) == 1
        drawn.append(matches.index(True))
    choices = len(places(np.asarray(batch[0]), crop, flip))
    count = np.bincount(drawn, minlength=choices)
    expected = len(drawn) / choices
    assert np.all(np.abs(count - expected) < 5 * np.sqrt(expected) + 1e-9)


def test_augmentation_is_the_same_under_vmap_map_and_scan(batch):
    batch, keys = batch[:6], jax.random.split(jax.random.key(1), 3)
    single = [np.asarray(augment(key, batch, 2, True)) for key in keys]

    def step(carry, key):
        return carry, augment(key, batch, 2, True)

    for mapped in (
        jax.vmap(lambda key: augment(key, batch, 2, True))(keys),
        jax.lax.map(lambda key: augment(key, batch, 2, True), keys),
        jax.lax.scan(step, 0, keys)[1],
    ):
        np.testing.assert_array_equal(mapped, single)
    assert not np.array_equal(single[0], single[1])


# --- local files -----------------------------------------------------------------------------


def idx_bytes(array, kind=0x08):
    shape = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, kind, array.ndim]) + shape + array.tobytes()


RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (12, 5, 4), np.uint8), np.arange(12, dtype=np.uint8) % 3
TEST = RNG.integers(0, 256, (6, 5, 4), np.uint8), np.arange(6, dtype=np.uint8) % 3
IDX_NAMES = ("{0}-images-idx3-ubyte", "{0}-labels-idx1-ubyte")


def write_idx(directory, names=IDX_NAMES, test="t10k", packed=False):
    directory.mkdir(parents=True, exist_ok=True)
    for split, arrays in (("train", TRAIN), (test, TEST)):
        for name, array in zip(names, arrays, strict=True):
            content = idx_bytes(array)
            path = directory / (name.format(split) + (".gz" if packed else ""))
            path.write_bytes(gzip.compress(content) if packed else content)
    return directory


def same_examples(split, images, labels):
    """Whether a split holds the images [n h w] with their labels, in any order."""
    expected = np.column_stack([images.reshape(len(images), -1), labels])
    found = np.column_stack([split.images.reshape(len(split.images), -1), split.labels])
    return np.array_equal(expected[np.lexsort(expected.T)], found[np.lexsort(found.T)])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("names", "test"),
    [
        (IDX_NAMES, "t10k"),
        (IDX_NAMES, "test"),
        (("{0}-images.idx3-ubyte", "{0}-labels.idx1-ubyte"), "t10k"),
        (("emnist-x-{0}-images-idx3-ubyte", "emnist-x-{0}-labels-idx1-ubyte"), "test"),
    ],
)
def test_idx_directories_are_read_under_all_usual_names(tmp_path, names, test, packed):
    directory = write_idx(tmp_path / "shapes", names, test, packed)
    data = load(DataConfig(source="idx", path=str(directory)))
    assert data.name == "shapes"
    assert data.image_shape == (1, 5, 4)
    assert data.classes == 3
    assert same_examples(data.train, *TRAIN)
    assert same_examples(data.test, *TEST)


def break_idx(directory, fault):
    """Damage one file of a packed IDX directory."""
    images, labels = (
        directory / f"train-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")
    )
    content = images.read_bytes()
    damaged = {
        "truncated": (images, content[:-20]),
        "flipped": (images, content[:40] + bytes([content[40] ^ 1]) + content[41:]),
        "magic": (images, b"PK\3\4 no idx at all"),
        "empty": (images, b""),
        "short": (images, idx_bytes(TRAIN[0])[:-1]),
        "rank": (images, idx_bytes(TRAIN[1])),
        "floats": (labels, idx_bytes(TRAIN[1].astype(">f4"), 0x0D)),
        "count": (labels, idx_bytes(TRAIN[1][:-1])),
    }
    if fault == "missing":
        labels.unlink()
    elif fault == "two sets":
        (directory / "other-train-images-idx3-ubyte").touch()
    else:
        path, new = damaged[fault]
        path.write_bytes(new)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("truncated", r"train-images-idx3-ubyte\.gz: expected an intact gzip file, found .*ended"),
        ("flipped", r"train-images-idx3-ubyte\.gz: expected an intact gzip file, found "),
        ("magic", r"train-images.*expected an IDX file .*, found 504b0304"),
        ("empty", r"train-images.*expected an IDX file .*, found none"),
        ("short", r"train-images.*expected 256 bytes for shape \[12, 5, 4\], found 255"),
        ("rank", r"train-images.*expected 3 axes, found 1"),
        ("floats", r"train-labels.*expected unsigned bytes .*, found type 0x0d"),
        ("count", r"train-labels.*expected 12 labels as train-images.* has images, found 11"),
        ("missing", r"no IDX file of the train labels; expected train-images-idx3-ubyte\.gz, "),
        ("two sets", r"expected the files of one data set, found those of \['', 'other-'\]"),
    ],
)
def test_malformed_idx_files_give_one_line(tmp_path, fault, message):
    directory = write_idx(tmp_path, packed=True)
    break_idx(directory, fault)
    with pytest.raises(DataUnavailableError, match=message) as caught:
        load(DataConfig(source="idx", path=str(directory)))
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)


def test_checksums_are_compared(tmp_path):
    directory = write_idx(tmp_path)
    name = "train-images-idx3-ubyte"
    right = hashlib.sha256((directory / name).read_bytes()).hexdigest()

    def config(checksums):
        return DataConfig(source="idx", path=str(directory), sha256=checksums)

    assert len(load(config({name: right.upper()})).train) == 12
    with pytest.raises(DataUnavailableError, match=rf"{name}: expected sha256 00ff, found {right}"):
        load(config({name: "00ff"}))
    with pytest.raises(ConfigError, match=r"'train-imags' is no file .*t10k-images-idx3-ubyte"):
        load(config({"train-imags": right}))
    with pytest.raises(ConfigError, match="'x' is no file of this data set"):
        load(DataConfig(sha256={"x": right}))


def test_missing_paths_are_named(tmp_path):
    missing = str(tmp_path / "nowhere")
    with pytest.raises(DataUnavailableError, match=r"nowhere: expected a directory"):
        load(DataConfig(source="idx", path=missing))
    with pytest.raises(DataUnavailableError, match=r"nowhere: can't be read"):
        load(DataConfig(source="npz", path=missing))


def npz_path(tmp_path, **arrays):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    return path


COLOUR = RNG.integers(0, 256, (10, 6, 5, 3), np.uint8)
LABELS = np.arange(10) % 4


@pytest.mark.parametrize(
    ("images", "labels", "dtype"),
    [
        (COLOUR, LABELS, np.uint8),
        (COLOUR.transpose(0, 3, 1, 2), LABELS[:, None], np.uint8),
        (COLOUR[..., 0], LABELS.astype(np.uint8), np.uint8),
        (COLOUR.astype(np.int64), LABELS, np.uint8),
        (COLOUR / 255, LABELS, np.float32),
    ],
)
def test_npz_layouts(tmp_path, images, labels, dtype):
    path = npz_path(tmp_path, images=images, labels=labels)
    data = load(DataConfig(source="npz", path=str(path), test_fraction=0.3))
    assert data.image_shape == ((3, 6, 5) if images.ndim == 4 else (1, 6, 5))
    assert (len(data.train), len(data.test), data.classes) == (7, 3, 4)
    assert data.train.images.dtype == dtype
    flat = images.astype(dtype)
    flat = flat.transpose(0, 3, 1, 2) if images.ndim == 4 and images.shape[3] == 3 else flat
    together = Split(
        np.concatenate([data.train.images, data.test.images]),
        np.concatenate([data.train.labels, data.test.labels]),
    )
    assert same_examples(together, flat, LABELS)


def test_npz_with_its_own_test_split(tmp_path):
    path = npz_path(tmp_path, x_train=TRAIN[0], y_train=TRAIN[1], x_test=TEST[0], y_test=TEST[1])
    data = load(DataConfig(source="npz", path=str(path)))
    assert same_examples(data.train, *TRAIN)
    assert same_examples(data.test, *TEST)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": COLOUR}, r"expected the arrays x_train, .*; found images; rename"),
        (
            {"images": COLOUR, "labels": LABELS * 0.5},
            r"'labels': expected integer labels .*float64",
        ),
        ({"images": COLOUR, "labels": LABELS[:9]}, r"as many labels as images, found 9 and 10"),
        ({"images": COLOUR[0, 0], "labels": LABELS}, r"'images': expected images of shape \[n, h"),
        ({"images": COLOUR + 300.0 * np.inf, "labels": LABELS}, r"'images': .*finite floats"),
        ({"images": COLOUR.astype(int) + 1, "labels": LABELS}, r"'images': .*from 0 to 255"),
        ({"images": COLOUR + 1e300, "labels": LABELS}, r"'images': .*floats of 32 bits"),
        ({"images": COLOUR, "labels": LABELS - 1}, r"'labels': expected classes .* found -1 to 2"),
        ({"images": COLOUR, "labels": LABELS + 2**32}, r"'labels': .*, found 0 to 4294967299"),
        ({"images": COLOUR, "labels": LABELS + 7}, r"label 10 among 10 training images"),
        ({"images": np.array([{}]), "labels": LABELS}, r"intact NPZ file of plain arrays"),
    ],
)
def test_malformed_npz_files_give_one_line(tmp_path, arrays, message):
    if "images" in arrays and arrays["images"].dtype == int:
        arrays["images"][0, 0, 0, 0] = 256
    path = npz_path(tmp_path, **arrays)
    with pytest.raises(DataUnavailableError, match=message) as caught:
        load(DataConfig(source="npz", path=str(path)))
    assert "\n" not in str(caught.value)


LARGER = np.zeros((6, 6, 4), np.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (LARGER, r"'set', test images: expected 1x5x4 uint8 as in training, found 1x6x4 uint8"),
        (TEST[0] / 255, r"test images: expected 1x5x4 uint8 as in training, found 1x5x4 float32"),
        (np.stack([TEST[0]] * 3, -1), r"expected 1x5x4 uint8 as in training, found 3x5x4 uint8"),
    ],
)
def test_test_images_unlike_the_training_images_are_refused(tmp_path, images, message):
    path = npz_path(tmp_path, x_train=TRAIN[0], y_train=TRAIN[1], x_test=images, y_test=TEST[1])
    with pytest.raises(DataUnavailableError, match=message):
        load(DataConfig(source="npz", path=str(path)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (LARGER, r"test images: expected 1x5x4 uint8 as in training, found 1x6x4 uint8"),
        (np.zeros((6, 0, 4), np.uint8), r"the test split has no images \(shape \[6, 1, 0, 4\]\)"),
        (np.zeros((0, 5, 4), np.uint8), r"t10k-labels.*expected 0 labels .*, found 6"),
    ],
)
def test_idx_images_of_another_shape_are_refused(tmp_path, images, message):
    directory = write_idx(tmp_path)
    (directory / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(images))
    with pytest.raises(DataUnavailableError, match=message):
        load(DataConfig(source="idx", path=str(directory)))


def test_idx_labels_beyond_the_number_of_images_are_refused(tmp_path):
    directory = write_idx(tmp_path)
    (directory / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(TEST[1] + 200))
    with pytest.raises(DataUnavailableError, match=r"found label 202 among 12 training images"):
        load(DataConfig(source="idx", path=str(directory)))


@pytest.mark.parametrize("member", ["images", "images.npy"])
def test_a_zip_of_other_things_is_no_npz(tmp_path, member):
    path = npz_path(tmp_path, labels=LABELS)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(member, b"no array")
    with pytest.raises(DataUnavailableError, match=r"set\.npz: .*its member 'images' is no \.npy"):
        load(DataConfig(source="npz", path=str(path)))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\3\4 broken"])
def test_a_file_that_is_no_npz_gives_one_line(tmp_path, content):
    path = tmp_path / "set.npz"
    path.write_bytes(content)
    with pytest.raises(DataUnavailableError, match=r"set\.npz: expected an intact NPZ file"):
        load(DataConfig(source="npz", path=str(path)))
