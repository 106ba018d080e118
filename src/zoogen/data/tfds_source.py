"""TFDS sets without TensorFlow and without the network: read what is prepared, or prepare it."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from zoogen.config import DataConfig
from zoogen.data.catalogue import CATALOGUE, RawSet, default_data_dir, raw_directory
from zoogen.data.dataset import Source, Split
from zoogen.data.raw import (
    FileReader,
    class_numbers,
    compare_checksum,
    missing_extra,
    refuse_unused_checksums,
)
from zoogen.errors import DataUnavailableError, StorageError

_INFO_FILE = "dataset_info.json"
_READ_AT_ONCE = 4096
_log = logging.getLogger(__name__)


def read_tfds(config: DataConfig) -> Source:
    """An image-classification set of TFDS.

    Looked for in this order, under ``config.path`` or else in the TFDS directory: a prepared set
    of that name; one that zoogen prepared before; raw files, which are then prepared.

    Raises:
        DataUnavailableError: with the steps that place the files; never tries the network.
    """
    tfds = _import_tfds()
    name = config.source.removeprefix("tfds:")
    directory = _locate(name, config)
    builder = _open(tfds, name, directory)
    _check_hashes(builder, directory, config.sha256)
    return _read(tfds, name, builder)


def _import_tfds() -> ModuleType:
    try:
        import array_record.python.array_record_data_source  # noqa: F401
        import PIL  # noqa: F401
        import tensorflow_datasets
    except ImportError as error:
        raise missing_extra(error.name or "tensorflow-datasets") from error
    return tensorflow_datasets


# --- finding ---------------------------------------------------------------------------------


def _locate(name: str, config: DataConfig) -> Path:
    root = Path(config.path).expanduser() if config.path else default_data_dir()
    prepared = root if (root / _INFO_FILE).is_file() else _latest(root / name)
    if prepared:
        return prepared
    entry = CATALOGUE.get(name)
    if entry is None:
        raise DataUnavailableError(_unprepared(name, root))
    raw = raw_directory(entry, config.path)
    if raw:
        return _prepare(entry, raw, config.sha256)
    cached = _latest(_cache(entry, root))
    if cached is None:
        raise DataUnavailableError(_unplaced(entry, config.path))
    return cached


def _latest(directory: Path) -> Path | None:
    """The newest version below ``NAME/VERSION`` or, with one builder config, ``NAME/CONFIG``."""
    versions = [path.parent for path in directory.glob(f"[0-9]*.*/{_INFO_FILE}")]
    if not versions:
        versions = [path.parent for path in directory.glob(f"*/[0-9]*.*/{_INFO_FILE}")]
        configs = sorted({path.parent.name for path in versions})
        if len(configs) > 1:
            raise DataUnavailableError(
                f"{directory}: holds the builder configs {', '.join(configs)}; name one, as in "
                f"'tfds:{directory.name}/{configs[0]}'"
            )
    return max(versions, key=_version_number, default=None)


def _version_number(directory: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in directory.name.split(".") if part.isdigit())


def _cache(entry: RawSet, root: Path) -> Path:
    return root / "zoogen_images" / entry.name.replace("/", "_")


def _unprepared(name: str, root: Path) -> str:
    parts = [known for known in CATALOGUE if known.startswith(f"{name}/")]
    near = parts or difflib.get_close_matches(name, CATALOGUE, n=1)
    guess = f"; did you mean 'tfds:{near[0]}'?" if near else ""
    return (
        f"tfds:{name}: no prepared set under {root / name}{guess}\n"
        f"zoogen itself prepares {', '.join(CATALOGUE)}. Any other set is prepared once, on a "
        "machine with TensorFlow and network:\n"
        f'  1. python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}, '
        "file_format='array_record').download_and_prepare()\";\n"
        f"  2. copy ~/tensorflow_datasets/{name} to {root / name}, or set data.path to the "
        "directory that holds it."
    )


def _unplaced(entry: RawSet, path: str | None) -> str:
    looked = [path] if path else [str(place) for place in entry.places()]
    reason = ""
    if path:
        try:
            entry.find(Path(path).expanduser())
        except DataUnavailableError as error:
            reason = f"\n{error}"
    return (
        f"tfds:{entry.name}: neither a prepared set nor raw files in "
        f"{' or '.join(looked)}{reason}\nTo place it:\n{entry.steps()}"
    )


# --- preparing -------------------------------------------------------------------------------


def _prepare(entry: RawSet, raw: Path, sha256: Mapping[str, str]) -> Path:
    """Prepare raw files once, in the TFDS directory of the user, and return where."""
    cache = _cache(entry, default_data_dir())
    reader = FileReader(sha256)
    if prepared := _latest(cache):
        entry.hash(raw, reader)
    else:
        entry.read(raw, reader)  # malformed files end here, before anything is written
    reader.finish()
    prepared = prepared or _build_alone(entry, raw, cache)
    _check_origin(prepared, raw, reader.found)
    return prepared


def _build_alone(entry: RawSet, raw: Path, cache: Path) -> Path:
    try:
        with _locked(cache):
            return _latest(cache) or _build(entry, raw)
    except OSError as error:
        raise StorageError(
            f"{cache}: can't write the prepared set ({error.strerror or error}); free space or set "
            "TFDS_DATA_DIR to a writable directory"
        ) from error


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Let one process prepare; others wait. The lock goes with its process, however that ends."""
    import fcntl  # not on Windows, where array_record is not to be had either

    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(entry: RawSet, raw: Path) -> Path:
    import tensorflow_datasets as tfds

    from zoogen.data.tfds_builder import ZoogenImages, config_name

    root = default_data_dir()
    for leftover in _cache(entry, root).glob("incomplete.*"):
        shutil.rmtree(leftover)  # of a killed process: we hold the lock
    _log.info("preparing %s from %s (once, about 10 s)", entry.name, raw)
    builder = ZoogenImages(
        config=config_name(entry), data_dir=str(root), file_format="array_record"
    )
    tfds.disable_progress_bar()
    # TFDS prints "Downloading …" to stdout, which belongs to the command's own output.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=str(raw))
        )
    return Path(builder.data_dir)


def _check_origin(prepared: Path, raw: Path, found: Mapping[str, str]) -> None:
    """Refuse a cached set that was made from other files than those now named."""
    import tensorflow_datasets as tfds

    recorded = _raw_hashes(tfds.builder_from_directory(str(prepared)))
    if recorded and recorded != dict(found):
        raise DataUnavailableError(
            f"{prepared}: was prepared from other files than those in {raw}; remove that "
            "directory, or set TFDS_DATA_DIR to another one"
        )


# --- reading ---------------------------------------------------------------------------------


def _open(tfds: ModuleType, name: str, directory: Path) -> Any:
    try:
        builder = tfds.builder_from_directory(str(directory))
    except Exception as error:  # TFDS lets whatever its parsers raise through
        raise DataUnavailableError(
            f"{directory}: is no readable TFDS set ({_first_line(error)}); prepare it again"
        ) from error
    file_format = builder.info.file_format
    if file_format is None or file_format.value != "array_record":
        # Not a matter of taste: parquet, for one, silently drops rows.
        raise DataUnavailableError(
            f"{directory}: expected file format array_record, found "
            f"{file_format.value if file_format else 'none'}; prepare it again with "
            f"tfds.builder({name!r}, file_format='array_record').download_and_prepare()"
        )
    return builder


def _raw_hashes(builder: Any) -> dict[str, str]:
    return dict((builder.info.metadata or {}).get("raw_sha256", {}))


def _check_hashes(builder: Any, directory: Path, expected: Mapping[str, str]) -> None:
    """Compare the config's checksums with the raw files' of the preparation, and stored files."""
    raw = _raw_hashes(builder)
    stored = {path.name for path in directory.iterdir()}
    refuse_unused_checksums(expected, raw.keys() | stored)
    for name in expected:
        found = raw.get(name) or hashlib.sha256((directory / name).read_bytes()).hexdigest()
        compare_checksum(directory / name, expected, found)


def _read(tfds: ModuleType, name: str, builder: Any) -> Source:
    splits = builder.info.splits
    if "train" not in splits:
        raise DataUnavailableError(
            f"tfds:{name}: expected a split 'train', found {', '.join(splits) or 'none'}"
        )
    test = next((each for each in ("test", "validation") if each in splits), None)
    entry = CATALOGUE.get(name)
    _, label = _keys(tfds, name, builder)
    return Source(
        name=name,
        train=_read_split(tfds, name, builder, "train"),
        test=_read_split(tfds, name, builder, test) if test else None,
        classes=builder.info.features[label].num_classes,
        origin=f"TFDS, {builder.info.full_name}",
        licence=entry.licence if entry else builder.info.redistribution_info or "unknown",
        citation=entry.citation if entry else builder.info.citation or "unknown",
    )


def _keys(tfds: ModuleType, name: str, builder: Any) -> tuple[str, str]:
    """Names of the image and the label feature."""
    image, label = builder.info.supervised_keys or ("image", "label")
    features = builder.info.features
    labelled = label in features and isinstance(features[label], tfds.features.ClassLabel)
    if image not in features or not labelled:
        raise DataUnavailableError(
            f"tfds:{name}: expected one image and one class label per example, found the features "
            f"{', '.join(features)}"
        )
    return image, label


def _read_split(tfds: ModuleType, name: str, builder: Any, split: str) -> Split:
    image_key, label_key = _keys(tfds, name, builder)
    decode = builder.info.features[image_key].decode_example_np
    images, labels = [], []
    for record in _records(tfds, name, builder, split):
        feature = record.features.feature
        images.append(decode(feature[image_key].bytes_list.value[0]))
        labels.append(feature[label_key].int64_list.value[0])
    if len({image.shape for image in images}) > 1:
        raise DataUnavailableError(
            f"tfds:{name}, split {split!r}: expected images of one size, found several; "
            "resize them and use the npz source"
        )
    # Empty splits have no shape of their own.
    stacked = np.stack(images) if images else np.zeros((0, 1, 1, 1), np.uint8)
    return Split(
        np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)),
        class_numbers(f"tfds:{name}, split {split!r}", np.array(labels, np.int64)),
    )


def _records(tfds: ModuleType, name: str, builder: Any, split: str) -> Iterator[Any]:
    """The examples of a split as parsed protocol buffers: a tenth of the time of plain reading."""
    from tensorflow_datasets.proto import tf_example_pb2

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    try:
        source = builder.as_data_source(split=split, deserialize_method=raw)
        expected = builder.info.splits[split].num_examples
        if len(source) != expected:
            raise ValueError(f"expected {expected} examples, found {len(source)}")
        for start in range(0, expected, _READ_AT_ONCE):
            for content in _batch(source, range(start, min(start + _READ_AT_ONCE, expected))):
                yield tf_example_pb2.Example.FromString(content)
    except Exception as error:  # readers raise a dozen unrelated types on damaged files
        raise DataUnavailableError(
            f"{builder.data_dir}: split {split!r} of tfds:{name} can't be read "
            f"({_first_line(error)}); remove the directory and prepare it again"
        ) from error


def _batch(source: Any, places: Sequence[int]) -> Sequence[bytes]:
    return source.__getitems__(list(places))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
