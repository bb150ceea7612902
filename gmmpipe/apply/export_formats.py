"""The files that other trainers read: a format is a class, and a name in `FORMATS`."""

import gzip
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import soundfile

from gmmpipe.apply.export_order import LabelledUtterance
from gmmpipe.errors import GmmpipeError, StoreError
from gmmpipe.files import canonical_json

_ROWS = 1024
"""Utterances in a row group of a Parquet file."""


@dataclass(frozen=True)
class Facts:
    """What holds for all utterances of an export.

    Args:
        num_classes: K.
        frame_rate: frames a second.
        top_k: how many posteriors of a frame are kept; None where none are.
        base_path: what relative audio paths are relative to; None where that is not known.
        only_absolute: whether there are none.
    """

    num_classes: int
    frame_rate: float
    top_k: int | None
    base_path: Path | None
    only_absolute: bool


class LabelFormat(ABC):
    """Writes the files of one format.

    Args:
        files: open for writing, by their names.
        facts: what holds for all utterances.
    """

    names: ClassVar[tuple[str, ...]]
    """The names of the files."""
    columns: ClassVar[tuple[str, ...]] = ("labels",)
    """The arrays that are wanted of a label store, where it has them."""

    def __init__(self, files: Mapping[str, BinaryIO], facts: Facts) -> None:
        self.files, self.facts = files, facts
        self.not_files = 0
        """Utterances that are only a part of the file that their path names."""

    @abstractmethod
    def write(self, utterance: LabelledUtterance) -> None:
        """Add an utterance; StoreError where it lacks what the format needs."""

    def end(self) -> None:  # noqa: B027
        """Write what is left."""


class Km(LabelFormat):
    """fairseq's: a line of labels, and of path and samples, an utterance."""

    names = ("labels.km", "labels.tsv", "dict.km.txt")

    def __init__(self, files: Mapping[str, BinaryIO], facts: Facts) -> None:
        super().__init__(files, facts)
        # torchaudio puts the root before every path, so absolute paths are written below "/".
        root = "/" if facts.only_absolute else str(facts.base_path or ".")
        files["labels.tsv"].write(f"{root}\n".encode())
        for number in range(facts.num_classes):
            files["dict.km.txt"].write(f"{number} 1\n".encode())

    def write(self, utterance: LabelledUtterance) -> None:
        """A line of each file."""
        path, samples = audio_of(utterance, "km")
        if {"\t", "\n", "\r"} & set(path):
            raise StoreError(f"utterance {utterance.key}: a tab or line end in its path {path!r}")
        if self.facts.only_absolute:
            path = path.lstrip("/")
        self.not_files += is_part(utterance)
        self.files["labels.tsv"].write(f"{path}\t{samples}\n".encode("utf-8", "surrogateescape"))
        self.files["labels.km"].write(_spaced(utterance) + b"\n")


class Kaldi(LabelFormat):
    """Kaldi's ``text`` and ``utt2num_frames``, in manifest order."""

    names = ("text", "utt2num_frames")

    def write(self, utterance: LabelledUtterance) -> None:
        """A line of each file; an id with blanks is replaced by the key."""
        blank = not utterance.id or any(map(str.isspace, utterance.id))
        name = utterance.key if blank else utterance.id
        utt = name.encode("utf-8", "surrogateescape")
        self.files["text"].write(utt + b" " + _spaced(utterance) + b"\n")
        self.files["utt2num_frames"].write(utt + b" %d\n" % len(utterance.labels))


class Units(LabelFormat):
    """A JSON object an utterance."""

    names = ("units.jsonl",)

    def write(self, utterance: LabelledUtterance) -> None:
        """A line."""
        line = canonical_json({"id": utterance.id, "units": utterance.labels})
        self.files["units.jsonl"].write(line.encode() + b"\n")


class Lhotse(LabelFormat):
    """Lhotse's cuts, with labels in ``custom``."""

    names = ("cuts.jsonl.gz",)

    def __init__(self, files: Mapping[str, BinaryIO], facts: Facts) -> None:
        super().__init__(files, facts)
        self._lines = gzip.GzipFile("", "wb", 6, files["cuts.jsonl.gz"], mtime=0)

    def write(self, utterance: LabelledUtterance) -> None:
        """A cut."""
        values, name = utterance.metadata, utterance.id
        path, samples = audio_of(utterance, "lhotse")
        start, duration = values["offset"], samples / values["sample_rate"]
        self.not_files += "#" in path
        base = self.facts.base_path
        place = path if base is None else str(base / path)
        channel = values.get("channel", 0)
        channel = channel if type(channel) is int else 0
        rate, length, channels = _header_of(place) or (
            values["sample_rate"],
            round((start + duration) * values["sample_rate"]),
            channel + 1,
        )
        whole = length / rate
        duration = min(duration, whole - start)
        spoken = {
            field: values[field]
            for field in ("text", "speaker", "language")
            if isinstance(values.get(field), str)
        }
        said = {"id": name, "recording_id": name, "start": 0, "duration": duration, **spoken}
        cut = {
            "id": name,
            "type": "MonoCut",
            "start": start,
            "duration": duration,
            "channel": channel,
            "supervisions": [{**said, "channel": channel}] if spoken else [],
            "recording": {
                "id": name,
                "sources": [{"type": "file", "channels": [*range(channels)], "source": place}],
                "sampling_rate": rate,
                "num_samples": length,
                "duration": whole,
            },
            "custom": {
                "labels": utterance.labels,
                "num_classes": self.facts.num_classes,
                "frame_rate": self.facts.frame_rate,
            },
        }
        self._lines.write(canonical_json(cut).encode() + b"\n")

    def end(self) -> None:
        """The end of the compressed stream."""
        self._lines.close()


class Parquet(LabelFormat):
    """A table with a row an utterance."""

    names = ("labels.parquet",)
    columns = ("labels", "topk_ids", "topk_probs")

    def __init__(self, files: Mapping[str, BinaryIO], facts: Facts) -> None:
        super().__init__(files, facts)
        try:
            self._arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        except ImportError as error:
            said = '--format parquet needs pyarrow: pip install "gmmpipe[parquet]"'
            raise GmmpipeError(said) from error
        arrow = self._arrow
        fields = [("id", arrow.string()), ("labels", arrow.list_(arrow.uint16()))]
        if facts.top_k is not None:
            for name, kind in (("topk_ids", arrow.uint16()), ("topk_probs", arrow.float32())):
                fields.append((name, arrow.list_(arrow.list_(kind))))
        stated = {"num_classes": str(facts.num_classes), "frame_rate": str(facts.frame_rate)}
        self._schema = arrow.schema(fields, metadata=stated)
        self._writer = parquet.ParquetWriter(files["labels.parquet"], self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, utterance: LabelledUtterance) -> None:
        """A row."""
        arrays = {name: array.tolist() for name, array in utterance.arrays.items()}
        self._rows.append({"id": utterance.id, **arrays})
        if len(self._rows) == _ROWS:
            self._flush()

    def end(self) -> None:
        """The last rows, and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            table = self._arrow.Table.from_pylist(self._rows, schema=self._schema)
            self._writer.write_table(table)
        self._rows = []


FORMATS: dict[str, type[LabelFormat]] = {
    "km": Km,
    "kaldi": Kaldi,
    "units": Units,
    "lhotse": Lhotse,
    "parquet": Parquet,
}
"""By the value of ``--format``."""


def audio_of(utterance: LabelledUtterance, wanted_by: str) -> tuple[str, int]:
    """The path of an utterance's audio as in its manifest, and its samples at the store's rate.

    Raises:
        StoreError: its JSON has none.
    """
    values = utterance.metadata
    path, samples = values.get("wav_path"), values.get("num_samples")
    numbers = (values.get("sample_rate"), values.get("offset"))
    if not isinstance(path, str) or type(samples) is not int or None in numbers:
        raise StoreError(
            f"utterance {utterance.key}: --format {wanted_by} needs its audio (wav_path, "
            "num_samples, sample_rate, offset), which its JSON lacks; use kaldi, units or parquet"
        )
    return path, samples


def is_part(utterance: LabelledUtterance) -> bool:
    """Whether the audio is a window, a segment, one channel or a member, not a whole file."""
    values = utterance.metadata
    return bool(
        utterance.window or values["offset"] or "#" in values["wav_path"] or "channel" in values
    )


def _spaced(utterance: LabelledUtterance) -> bytes:
    return " ".join(map(str, utterance.labels)).encode()


@lru_cache(maxsize=16)
def _header_of(path: str) -> tuple[int, int, int] | None:
    """Rate, samples and channels of an audio file; None where it is not here, or not readable."""
    try:
        header = soundfile.info(path)
    except (OSError, soundfile.SoundFileError):
        return None
    return header.samplerate, header.frames, header.channels
