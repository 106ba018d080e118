"""TFDS: prepared sets are read, raw files are prepared once, and nothing waits for a network."""

import gzip
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from zoogen.config import DataConfig
from zoogen.data import load
from zoogen.errors import ConfigError, DataUnavailableError, StorageError

tfds = pytest.importorskip("tensorflow_datasets", reason="needs pip install 'zoogen[tfds]'")
Image = pytest.importorskip("PIL.Image", reason="needs pip install 'zoogen[tfds]'")

FASHION = Path("/usr/share/datasets/fashion-mnist")
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def tfds_dir(tmp_path, monkeypatch):
    """A TFDS directory of this test alone."""
    directory = tmp_path / "tfds"
    monkeypatch.setenv("TFDS_DATA_DIR", str(directory))
    return directory


def write_idx(directory, train=20, test=8, side=28, classes=10, prefix=""):
    """MNIST-like files; returns what they hold, training and test."""
    directory.mkdir(parents=True, exist_ok=True)
    splits = []
    for name, count in (("train", train), ("t10k", test)):
        images = RNG.integers(0, 256, (count, side, side), np.uint8)
        images[:, -3:] = 0  # trailing zero bytes, as real images have
        labels = (np.arange(count) % classes).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            content = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
            path = directory / f"{prefix}{name}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(content, 1))
        splits.append((images[:, None], labels))
    return splits


def write_cifar(directory, label_bytes=1, per_batch=4):
    """CIFAR files in the binary form; returns what they hold, training and test."""
    directory.mkdir(parents=True, exist_ok=True)
    train = [f"data_batch_{i}.bin" for i in range(1, 6)] if label_bytes == 1 else ["train.bin"]
    test = ["test_batch.bin"] if label_bytes == 1 else ["test.bin"]
    splits = []
    for names in (train, test):
        records = RNG.integers(0, 256, (len(names), per_batch, label_bytes + 3072), np.uint8)
        records[..., :label_bytes] %= 10
        for name, content in zip(names, records, strict=True):
            (directory / name).write_bytes(content.tobytes())
        flat = records.reshape(-1, label_bytes + 3072)
        splits.append((flat[:, label_bytes:].reshape(-1, 3, 32, 32), flat[:, label_bytes - 1]))
    return splits


def write_cifar_sheets(directory, word="lables"):
    """The same as image sheets: one image a row, labels in JSON."""
    splits = write_cifar(directory)
    for file in directory.glob("*.bin"):
        file.unlink()
    (train, train_labels), (test, test_labels) = splits
    sheets = {f"data_batch_{i + 1}": train[4 * i : 4 * i + 4] for i in range(5)}
    for name, images in (sheets | {"test_batch": test}).items():
        rows = images.transpose(0, 2, 3, 1).reshape(-1, 1024, 3)
        Image.fromarray(np.ascontiguousarray(rows)).save(directory / f"{name}.png")
    for split, labels in (("train", train_labels), ("test", test_labels)):
        (directory / f"{split}_{word}.json").write_text(json.dumps(labels.tolist()))
    return splits


def assert_same(split, expected):
    """A split holds exactly the expected examples, in any order."""
    images, labels = expected
    left = np.column_stack([split.images.reshape(len(split), -1), split.labels])
    right = np.column_stack([images.reshape(len(images), -1), labels])
    np.testing.assert_array_equal(left[np.lexsort(left.T)], right[np.lexsort(right.T)])


@pytest.mark.parametrize(
    ("name", "write", "shape"),
    [
        ("mnist", write_idx, (1, 28, 28)),
        ("kmnist", write_idx, (1, 28, 28)),
        ("emnist/digits", lambda at: write_idx(at, prefix="emnist-digits-"), (1, 28, 28)),
        ("cifar10", write_cifar, (3, 32, 32)),
        ("cifar10", write_cifar_sheets, (3, 32, 32)),
        ("cifar10", lambda at: write_cifar_sheets(at, "labels"), (3, 32, 32)),
        ("cifar100", lambda at: write_cifar(at, label_bytes=2, per_batch=9), (3, 32, 32)),
    ],
)
def test_raw_files_are_prepared_once_and_read_again(tmp_path, tfds_dir, name, write, shape, capsys):
    raw = tmp_path / "raw"
    train, test = write(raw)
    config = DataConfig(source=f"tfds:{name}", path=str(raw))
    first = load(config)
    assert first.image_shape == shape
    assert_same(first.train, train)
    assert_same(first.test, test)
    assert first.citation != "unknown"
    written = {path: path.stat().st_mtime_ns for path in tfds_dir.rglob("*.array_record*")}
    assert len(written) == 2
    for file in raw.iterdir():
        file.unlink()
    again = load(DataConfig(source=f"tfds:{name}"))
    assert again.sha256 == first.sha256
    assert {p: p.stat().st_mtime_ns for p in tfds_dir.rglob("*.array_record*")} == written
    assert capsys.readouterr().out == ""
    assert "tensorflow" not in sys.modules


def test_the_manual_directory_of_tfds_is_searched(tfds_dir):
    train, _ = write_idx(tfds_dir / "downloads" / "manual" / "mnist")
    assert_same(load(DataConfig(source="tfds:mnist")).train, train)


def test_others_can_use_the_builder_through_tfds_itself(tmp_path):
    from zoogen.data.tfds_builder import ZoogenImages

    train, _ = write_idx(tmp_path / "raw")
    builder = ZoogenImages(config="mnist", data_dir=tmp_path / "here", file_format="array_record")
    manual = tfds.download.DownloadConfig(manual_dir=str(tmp_path / "raw"))
    builder.download_and_prepare(download_config=manual)
    source = builder.as_data_source(split="train")
    images = np.stack([example["image"] for example in source]).transpose(0, 3, 1, 2)
    found = type("Examples", (), {"images": images, "__len__": lambda self: len(images)})()
    found.labels = np.array([example["label"] for example in source])
    assert_same(found, train)


def test_other_raw_files_under_the_same_name_are_refused(tmp_path):
    for place in ("one", "two"):
        write_idx(tmp_path / place)
    load(DataConfig(source="tfds:mnist", path=str(tmp_path / "one")))
    with pytest.raises(DataUnavailableError, match=r"mnist/1\.0\.0: was prepared from other files"):
        load(DataConfig(source="tfds:mnist", path=str(tmp_path / "two")))


def test_checksums_hold_for_raw_and_for_prepared_files(tmp_path):
    write_idx(tmp_path / "raw")
    name = "train-labels-idx1-ubyte.gz"
    wrong = {"source": "tfds:mnist", "sha256": {name: "ab" * 32}}
    for _ in ("before it is prepared", "after"):
        with pytest.raises(DataUnavailableError, match=rf"{name}: expected sha256 abab"):
            load(DataConfig(path=str(tmp_path / "raw"), **wrong))
        load(DataConfig(source="tfds:mnist", path=str(tmp_path / "raw")))
    with pytest.raises(DataUnavailableError, match=rf"{name}: expected sha256 abab"):
        load(DataConfig(**wrong))
    with pytest.raises(ConfigError, match="'typo' is no file of this data set"):
        load(DataConfig(source="tfds:mnist", sha256={"typo": "00"}))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tfds:fashion_mnst", r"did you mean 'tfds:fashion_mnist'\?"),
        ("tfds:emnist", r"did you mean 'tfds:emnist/balanced'\?"),
        ("tfds:svhn_cropped", r"(?s)no prepared set under .*svhn_cropped\n.*download_and_prepare"),
        (
            "tfds:kmnist",
            r"(?s)neither a prepared set nor raw files in .*manual/kmnist or .*1\. get",
        ),
        ("tfds:cifar10", r"(?s)1\. get the files data_batch_1\.bin .*2\. put them into .*3\. run"),
    ],
)
def test_a_set_that_is_not_there_is_told_at_once(source, message):
    start = time.monotonic()
    with pytest.raises(DataUnavailableError, match=message):
        load(DataConfig(source=source))
    assert time.monotonic() - start < 5


def test_fashion_mnist_names_its_debian_package(monkeypatch):
    from zoogen.data.catalogue import RawSet

    monkeypatch.setattr(RawSet, "places", lambda _: [Path("/nowhere")])
    with pytest.raises(DataUnavailableError, match="apt install dataset-fashion-mnist"):
        load(DataConfig(source="tfds:fashion_mnist"))


def test_an_incomplete_directory_names_what_is_missing(tmp_path):
    write_cifar(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(DataUnavailableError, match=r"found no data_batch_4\.bin"):
        load(DataConfig(source="tfds:cifar10", path=str(tmp_path)))


def damage(directory, fault):
    """Spoil one CIFAR or IDX file."""
    if fault == "size":
        write_idx(directory, side=20)
    elif fault == "classes":
        write_idx(directory, classes=12)
    elif fault == "binary":
        write_cifar(directory)
        (directory / "test_batch.bin").write_bytes(b"\0" * 3000)
    else:
        write_cifar_sheets(directory)
        sheet, labels = directory / "data_batch_2.png", directory / "train_lables.json"
        if fault == "png":
            sheet.write_bytes(sheet.read_bytes()[:2000])
        elif fault == "shape":
            Image.new("RGB", (100, 4)).save(sheet)
        elif fault == "json":
            labels.write_text("[1, 2")
        elif fault == "labels":
            labels.write_text('["a", "b"]')
        elif fault == "huge labels":
            labels.write_text(json.dumps([2**32 + 3] * 20))
        elif fault == "count":
            labels.write_text("[1, 2]")


@pytest.mark.parametrize(
    ("source", "fault", "message"),
    [
        ("mnist", "size", r"expected mnist with images of 1x28x28 .*found 20 images of 1x20x20"),
        ("mnist", "classes", r"labels up to 9, found 20 images .* labels up to 11"),
        ("cifar10", "binary", r"test_batch\.bin: expected records of 3073 bytes, found 3000"),
        ("cifar10", "png", r"data_batch_2\.png: expected an intact PNG image, found"),
        ("cifar10", "shape", r"data_batch_2\.png: expected rows of 1024 RGB pixels, found"),
        ("cifar10", "json", r"train_lables\.json: expected a JSON list of labels, found"),
        ("cifar10", "labels", r"train_lables\.json: expected a flat list of integers, found"),
        ("cifar10", "huge labels", r"lables\.json: expected classes .*found 0 to 4294967299"),
        ("cifar10", "count", r"train_lables\.json: expected 20 labels .*, found 2"),
    ],
)
def test_malformed_raw_files_give_one_line_and_leave_nothing(
    tmp_path, tfds_dir, source, fault, message
):
    damage(tmp_path / "raw", fault)
    with pytest.raises(DataUnavailableError, match=message) as caught:
        load(DataConfig(source=f"tfds:{source}", path=str(tmp_path / "raw")))
    assert "\n" not in str(caught.value)
    assert not tfds_dir.exists()


def test_an_unwritable_directory_is_named(tmp_path, monkeypatch):
    write_idx(tmp_path / "raw")
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file" / "tfds"))
    with pytest.raises(StorageError, match=r"can't write the prepared set \(Not a directory\)"):
        load(DataConfig(source="tfds:mnist", path=str(tmp_path / "raw")))


# --- sets that TFDS prepared by other means --------------------------------------------------


class StockImages(tfds.core.GeneratorBasedBuilder):
    """A set as TFDS's own builders make them: PNG images, a validation split, other names."""

    VERSION = tfds.core.Version("2.0.0")
    shapes = ((6, 7),)

    def _info(self):
        shape = (*self.shapes[0], 3) if len(self.shapes) == 1 else (None, None, 3)
        features = {
            "id": tfds.features.Text(),
            "picture": tfds.features.Image(shape=shape),
            "kind": tfds.features.ClassLabel(num_classes=4),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("picture", "kind"),
            citation="Somebody, 2020",
        )

    def _split_generators(self, _):
        return {"train": self._generate_examples(9), "validation": self._generate_examples(5)}

    def _generate_examples(self, count):
        for key in range(count):
            height, width = self.shapes[key % len(self.shapes)]
            file = io.BytesIO()
            pixels = np.full((height, width, 3), 10 * count + key, np.uint8)
            Image.fromarray(pixels).save(file, "PNG")
            file.seek(0)
            yield key, {"id": str(key), "picture": file, "kind": key % 4}


class MixedImages(StockImages):
    """The same with images of two sizes."""

    VERSION = tfds.core.Version("2.0.0")
    shapes = ((6, 7), (5, 5))


@pytest.fixture
def stock(tmp_path):
    builder = StockImages(data_dir=tmp_path / "stock", file_format="array_record")
    builder.download_and_prepare()
    return tmp_path / "stock"


@pytest.mark.parametrize("below", ["", "stock_images/2.0.0"])
def test_stock_sets_are_read(stock, below):
    data = load(DataConfig(source="tfds:stock_images", path=str(stock / below)))
    train = np.broadcast_to(np.arange(90, 99)[:, None, None, None], (9, 3, 6, 7))
    test = np.broadcast_to(np.arange(50, 55)[:, None, None, None], (5, 3, 6, 7))
    assert_same(data.train, (train, np.arange(9) % 4))
    assert_same(data.test, (test, np.arange(5) % 4))
    assert (data.classes, data.citation) == (4, "Somebody, 2020")


def test_images_of_several_sizes_are_refused(tmp_path):
    MixedImages(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    with pytest.raises(DataUnavailableError, match="expected images of one size, found several"):
        load(DataConfig(source="tfds:mixed_images", path=str(tmp_path)))


def spoil(directory, fault):
    """Damage a prepared set."""
    info, data = directory / "dataset_info.json", next(directory.glob("*-train.array_record*"))
    if fault == "format":
        info.write_text(info.read_text().replace("array_record", "tfrecord"))
    elif fault == "info":
        info.write_text("{")
    elif fault == "truncated":
        data.write_bytes(data.read_bytes()[:-100])
    elif fault == "flipped":
        content = bytearray(data.read_bytes())
        for place in range(0, len(content), 997):
            content[place] ^= 4
        data.write_bytes(content)
    elif fault == "gone":
        data.unlink()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("format", r"expected file format array_record, found tfrecord; prepare it again"),
        ("info", r"is no readable TFDS set \(.*\); prepare it again"),
        ("truncated", r"split 'train' of tfds:stock_images can't be read \("),
        ("flipped", r"split 'train' of tfds:stock_images can't be read \("),
        ("gone", r"split 'train' of tfds:stock_images can't be read \(.*No such file"),
    ],
)
def test_damaged_prepared_sets_give_one_line(stock, fault, message):
    spoil(stock / "stock_images" / "2.0.0", fault)
    with pytest.raises(DataUnavailableError, match=message) as caught:
        load(DataConfig(source="tfds:stock_images", path=str(stock)))
    assert "\n" not in str(caught.value)


def test_without_tfds_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataUnavailableError, match=r"'tensorflow_datasets'.*zoogen\[tfds\]"):
        load(DataConfig(source="tfds:mnist"))


# --- several processes, and sudden ends ------------------------------------------------------

LOAD = """
import sys
from zoogen.config import DataConfig
from zoogen.data import load
print(load(DataConfig(source="tfds:mnist", path=sys.argv[1])).sha256)
"""


def loading(raw):
    command = [sys.executable, "-c", LOAD, str(raw)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_prepare_once(tmp_path, tfds_dir):
    write_idx(tmp_path / "raw", train=3000)
    with loading(tmp_path / "raw") as one, loading(tmp_path / "raw") as two:
        hashes = {process.communicate(timeout=120)[0] for process in (one, two)}
    assert one.returncode == two.returncode == 0
    assert len(hashes) == 1
    assert len(list(tfds_dir.rglob("*.array_record*"))) == 2


@pytest.mark.slow
def test_a_killed_preparation_leaves_nothing_visible(tmp_path, tfds_dir):
    train, _ = write_idx(tmp_path / "raw", train=3000)
    cache = tfds_dir / "zoogen_images" / "mnist"  # beside it TFDS keeps a description of its own
    with loading(tmp_path / "raw") as process:
        while not list(cache.glob("incomplete.*")):
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert not list(tfds_dir.rglob("1.0.0"))
    data = load(DataConfig(source="tfds:mnist", path=str(tmp_path / "raw")))
    assert_same(data.train, train)
    assert not list(cache.glob("incomplete.*"))


# --- the real thing --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_fashion_mnist_for_real():
    data = load(DataConfig(source="tfds:fashion_mnist"))
    assert (data.train.images.shape, data.test.images.shape) == (
        (60000, 1, 28, 28),
        (10000, 1, 28, 28),
    )
    # Published statistics of the training pixels, scaled to 0 … 1.
    np.testing.assert_allclose(data.mean / 255, 0.2860, atol=5e-5)
    np.testing.assert_allclose(data.std / 255, 0.3530, atol=5e-5)
    assert (np.bincount(data.train.labels) == 6000).all()
    assert (np.bincount(data.test.labels) == 1000).all()
    raw = load(DataConfig(source="idx", path=str(FASHION)))
    order, raw_order = (
        np.lexsort(split.images.reshape(len(split), -1)[:, ::7].T)
        for split in (data.test, raw.test)
    )
    np.testing.assert_array_equal(data.test.labels[order], raw.test.labels[raw_order])
