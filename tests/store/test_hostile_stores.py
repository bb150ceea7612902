"""Stores that lie about sizes and places, with every right checksum: one line that names the file.

No memory is taken and no time spent for what a document only claims: the whole table runs under a
limit of address space, and a FIFO that is opened to read would never end.
"""

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sealing import edit_sidecar, make_tiny_stores, seal, shard_path

from gmmpipe import FeatureStore, LabelStore
from gmmpipe.errors import StoreError
from gmmpipe.jepa import JEPABatches
from gmmpipe.store.documents import read_document
from gmmpipe.store.shard import forget_sidecars
from gmmpipe.store.tar_writer import _tar_header
from gmmpipe.store.verify import verify
from helpers.damage import edit_document

Change = Callable[[dict[str, Any]], object]
HUGE = 10**18


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny store of each kind, and labels of one; not to be changed."""
    return make_tiny_stores(tmp_path_factory.mktemp("made"))


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Half a gigabyte of address space more than is in use."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refuse(folder: Path, made: dict[str, Path], name: str) -> None:
    """All readers give the right values or a StoreError naming `name`; one does, `verify` too."""
    forget_sidecars()
    readers: dict[str, Callable[[], object]]
    if folder.name == "labels":
        labels = lambda: LabelStore.open(folder)  # noqa: E731
        readers = {
            "read": lambda: [labels().read_utterance(n, at) for n, at in ((0, 0), (0, 1), (1, 0))],
            "JEPABatches": lambda: list(JEPABatches(made["tar"], labels=folder)),
            "verify": lambda: faults(labels()),
        }
    else:
        opened = lambda: FeatureStore.open(folder)  # noqa: E731
        readers = {
            "read": lambda: opened().read_frames(0, opened().num_frames),
            "utterances": lambda: list(opened().utterances()),
            "JEPABatches": lambda: list(JEPABatches(folder, wav=opened().shards[0].has_audio)),
            "verify": lambda: faults(opened()),
        }
    refused: dict[str, str] = {}
    for reader, read in readers.items():
        try:
            read()
        except StoreError as error:
            refused[reader] = str(error)
    assert "verify" in refused
    assert all(name in message for message in refused.values()), refused
    assert len(refused) > 1 or name == "rejects.jsonl" or "zarr.json" in name


def faults(store: FeatureStore | LabelStore) -> None:
    for path, fault in verify(store):
        if fault:
            raise StoreError(f"{path}: {fault}")


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / folder.name))


def put(*places: str | int, value: Any) -> Change:
    """A change of what stands at a place of a document."""

    def change(document: Any) -> None:
        for place in places[:-1]:
            document = document[place]
        document[places[-1]] = value

    return change


STORE_LIES: dict[str, Change] = {
    "n_fft of a billion": put("features", "n_fft", value=10**9),
    "n_mels of a billion": put("features", "n_mels", value=10**9),
    "n_mels of a float": put("features", "n_mels", value=20.0),
    "n_mels of none": put("features", "n_mels", value=-20),
    "a rate of a text": put("features", "sample_rate", value="16000"),
    "no features": put("features", value=[]),
    "a dtype of objects": put("plan", "dtype", value="object"),
    "a dtype of a list": put("plan", "dtype", value=[]),
    "a format of none": put("plan", "format", value=None),
    "shards of a number": put("shards", value=7),
    "a row of a list": put("shards", 0, value=[]),
    "a name outside": put("shards", 0, "name", value="../tar/shard-000000.tar"),
    "a name of a path": put("shards", 0, "name", value="/dev/zero"),
    "a name of a number": put("shards", 0, "name", value=0),
    "another shard's name": put("shards", 0, "name", value="shard-000001.tar"),
    "huge frames": put("shards", 0, "frames", value=HUGE),
    "more frames than there are": put("shards", 0, "frames", value=2000),
    "negative frames": put("shards", 0, "frames", value=-1),
    "frames of a bool": put("shards", 0, "frames", value=True),
    "huge utterances": put("shards", 0, "utterances", value=HUGE),
    "utterances beyond all": put("shards", 0, "utterances", value=10**400),
    "bytes of a text": put("shards", 0, "bytes", value="30720"),
    "a SHA-256 of a number": put("shards", 0, "sha256", value=5),
    "no such sidecar": put("shards", 0, "sidecar_sha256", value="0" * 64),
    "a row that is gone": lambda document: document["shards"].pop(),
    "a row twice": lambda document: document["shards"].append(document["shards"][0]),
    "totals of another store": put("totals", "frames", value=53),
    "totals of a list": put("totals", value=[]),
    "rejects that do not add up": put("totals", "rejects", value=7),
    "rejects of a list": put("totals", "rejects_by_reason", value=["not_found"]),
}


@pytest.mark.parametrize("lie", STORE_LIES)
def test_a_store_json_that_lies(lie: str, made, tmp_path: Path) -> None:
    folder = copy_of(made["tar"], tmp_path)

    def change(document: dict[str, Any]) -> None:
        STORE_LIES[lie](document)
        if lie.startswith(("n_", "a rate")):
            from hashlib import sha256

            from gmmpipe.files import canonical_json

            text = canonical_json(document["features"])
            document["fingerprint"] = sha256(text.encode()).hexdigest()

    edit_document(folder / "store.json", change)
    refuse(folder, made, "shard-000000" if lie == "no such sidecar" else "store.json")


def test_totals_and_rows_that_agree_and_are_huge(made, tmp_path: Path) -> None:
    """Only the file itself says that there is no such shard."""
    for kind in ("tar", "zarr"):
        folder = copy_of(made[kind], tmp_path)
        huge = {"frames": 10**12, "bytes": 10**15, "utterances": 10**11}

        def change(document: dict[str, Any], huge: dict[str, int] = huge) -> None:
            for name, value in huge.items():
                document["totals"][name] += value - document["shards"][0][name]
                document["shards"][0][name] = value

        edit_document(folder / "store.json", change)
        refuse(folder, made, "shard-000000")


SIDECAR_LIES: dict[str, Change] = {
    "an offset before the file": put("index", "byte_offset", 0, value=-1536),
    "an offset beyond the file": put("index", "byte_offset", 1, value=10**9),
    "an offset beyond all": put("index", "byte_offset", 1, value=2**70),
    "an offset of a float": put("index", "byte_offset", 0, value=1536.0),
    "an offset of a text": put("index", "byte_offset", 0, value="1536"),
    "frames without number": put("index", "num_frames", 0, value=HUGE),
    "negative frames": put("index", "num_frames", 0, value=-3),
    "frames of a bool": put("index", "num_frames", 0, value=True),
    "a column of a number": put("index", "crc32c", value=0),
    "a column of lists": put("index", "crc32c", value=[[1], [2]]),
    "a short column": put("index", "crc32c", value=[1]),
    "a column of text": put("index", "byte_offset", value="12"),
    "no column": lambda document: document["index"].pop("num_frames"),
    "keys of numbers": put("index", "keys", value=[1, 2]),
    "keys of a text": put("index", "keys", value="ab"),
    "keys out of order": lambda document: document["index"]["keys"].reverse(),
    "a key of a path": put("index", "keys", 0, value="../../a"),
    "a CRC of a text": put("index", "json_crc32c", 0, value="0"),
    "an index of a list": put("index", value=[]),
    "a tally of another shard": put("tally", "frames", value=1),
    "a tally of texts": put("tally", "seconds_kept", value="1"),
    "a reject too many": lambda document: document["rejects"].append(
        {"manifest": "m", "line": 1, "path": "p", "reason": "not_found", "detail": ""}
    ),
    "a reject of a number": put("rejects", value=[1]),
    "another name": put("name", value="shard-000001.tar"),
    "another count": put("utterances", value=1),
    "another size": put("bytes", value=1 << 40),
}


@pytest.mark.parametrize("lie", SIDECAR_LIES)
def test_a_sidecar_that_lies(lie: str, made, tmp_path: Path) -> None:
    folder = copy_of(made["tar"], tmp_path)
    edit_sidecar(folder, SIDECAR_LIES[lie])
    refuse(folder, made, "shard-000000")


LABEL_LIES: dict[str, Change] = {
    "a top k of a billion": put("top_k", value=10**9),
    "a top k beyond K": put("top_k", value=5),
    "a top k of none": put("top_k", value=0),
    "a top k that is wider": put("top_k", value=4),
    "a top k that is not there": put("top_k", value=None),
    "a K of a billion": put("K", value=10**9),
    "a K of none": put("K", value=0),
    "a K of a text": put("K", value="4"),
    "a smaller K": put("K", value=2),
    "a temperature of a text": put("temperature", value="1"),
    "a temperature below 0": put("temperature", value=-1.0),
    "another source": put("source_sha256", value=5),
    "huge frames": put("shards", 0, "frames", value=HUGE),
    "a name outside": put("shards", 0, "name", value="../../tar/shard-000000.tar"),
    "a row that is gone": lambda document: document["shards"].pop(),
    "totals of a text": put("totals", "frames", value="54"),
}


@pytest.mark.parametrize("lie", LABEL_LIES)
def test_a_label_store_that_lies(lie: str, made, tmp_path: Path) -> None:
    folder = copy_of(made["labels"], tmp_path)
    edit_document(folder / "store.json", LABEL_LIES[lie])
    forget_sidecars()
    with pytest.raises(StoreError, match=r"labels/(store\.json|shard-00000[01])"):
        list(JEPABatches(made["tar"], labels=folder))
    with pytest.raises(StoreError, match=r"labels/(store\.json|shard-00000[01])"):
        faults(LabelStore.open(folder))


def drop_a_row(document: dict[str, Any]) -> None:
    row = document["shards"].pop()
    for name in ("utterances", "frames", "bytes"):
        document["totals"][name] -= row[name]


def test_labels_of_fewer_shards_than_the_store_has(made, tmp_path: Path) -> None:
    folder = copy_of(made["labels"], tmp_path)
    edit_document(folder / "store.json", drop_a_row)
    with pytest.raises(StoreError, match="labels: other shards than those of the feature stores"):
        JEPABatches(made["tar"], labels=folder)


LABEL_SIDECAR_LIES: dict[str, Change] = {
    "no top k": lambda document: document.pop("topk_ids_index"),
    "a column of other length": put("topk_ids_index", "byte_offset", value=[0]),
    "a column of texts": put("topk_probs_index", "crc32c", value=["1", "2"]),
    "an index of a list": put("topk_ids_index", value=[1]),
    "an index of its own frames": put("topk_ids_index", "num_frames", value=[1, 1]),
    "an offset beyond the file": put("topk_probs_index", "byte_offset", 0, value=10**12),
    "keys of numbers": put("index", "keys", value=[1, 2]),
    "left out of a text": put("left_out", value="1"),
    "the kind of another": put("index", value=None),
}


@pytest.mark.parametrize("lie", LABEL_SIDECAR_LIES)
def test_a_sidecar_of_labels_that_lies(lie: str, made, tmp_path: Path) -> None:
    folder = copy_of(made["labels"], tmp_path)
    edit_sidecar(folder, LABEL_SIDECAR_LIES[lie])
    if lie == "an index of its own frames":  # is not looked at
        forget_sidecars()
        faults(LabelStore.open(folder))
    else:
        refuse(folder, made, "shard-000000")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a FIFO": fifo,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a terabyte of nothing": sparse,
    "JSON without end": lambda path: path.write_bytes(b"[" * 2_000_000),
    "a number without end": lambda path: path.write_bytes(b"9" * 2_000_000),
}


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("tar", "store.json"),
        ("tar", "shard-000000.json"),
        ("tar", "shard-000000.tar"),
        ("tar", "rejects.jsonl"),
        ("zarr", "shard-000000.zarr"),
        ("zarr", "shard-000000.zarr/logmel/c/0/0"),
        ("zarr", "shard-000000.zarr/json/c/0"),
        ("zarr", "shard-000000.zarr/json_offsets/c/0"),
        ("labels", "store.json"),
        ("labels", "shard-000000.json"),
        ("labels", "shard-000000.tar"),
    ],
)
def test_what_is_no_file(special: str, kind: str, name: str, made, tmp_path: Path) -> None:
    folder = copy_of(made[kind], tmp_path)
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    SPECIAL[special](path)
    refuse(folder, made, name if name.startswith(("store", "rejects")) else "shard-000000")


def test_a_link_to_a_regular_file_is_one(made, tmp_path: Path) -> None:
    folder = tmp_path / "tar"
    folder.mkdir()
    for path in made["tar"].iterdir():
        (folder / path.name).symlink_to(path)
    store = FeatureStore.open(folder)
    assert store.read_frames(0, store.num_frames).isfinite().all()
    faults(store)


TAR_LIES: dict[str, Callable[[bytearray, int], object]] = {
    "a member of gigabytes": lambda tar, at: put_header(tar, at, "a.json", 0o77777777777),
    "a member of a negative size": lambda tar, at: put_raw_size(tar, at, b"\xff" + b"\xff" * 11),
    "a member of 2 ** 80 bytes": lambda tar, at: put_raw_size(tar, at, b"\x80\x00" + b"\xff" * 10),
    "a header of zeros": lambda tar, at: tar.__setitem__(slice(at, at + 512), bytes(512)),
    "a header of noise": lambda tar, at: tar.__setitem__(slice(at, at + 512), b"\xa5" * 512),
    "a name of noise": lambda tar, at: put_header(tar, at, "\xff\xfe.json".encode("latin-1"), 10),
}


def put_header(tar: bytearray, at: int, name: str | bytes, size: int) -> None:
    plain = _tar_header("x", size)
    encoded = name if isinstance(name, bytes) else name.encode()
    tar[at : at + 512] = encoded.ljust(100, b"\0") + plain[100:]
    put_checksum(tar, at)


def put_raw_size(tar: bytearray, at: int, size: bytes) -> None:
    tar[at + 124 : at + 136] = size
    put_checksum(tar, at)


def put_checksum(tar: bytearray, at: int) -> None:
    tar[at + 148 : at + 156] = b" " * 8
    tar[at + 148 : at + 156] = b"%06o\0 " % sum(tar[at : at + 512])


@pytest.mark.parametrize("lie", TAR_LIES)
@pytest.mark.parametrize("kind", ["tar", "labels"])
def test_a_tar_that_lies(kind: str, lie: str, made, tmp_path: Path) -> None:
    folder = copy_of(made[kind], tmp_path)
    path = folder / "shard-000000.tar"
    tar = bytearray(path.read_bytes())
    TAR_LIES[lie](tar, 0 if kind == "labels" else tar.index(b".json\0") // 512 * 512)
    path.write_bytes(tar)
    seal(folder)
    forget_sidecars()
    with pytest.raises(StoreError, match=r"shard-000000\.tar"):
        faults((LabelStore if kind == "labels" else FeatureStore).open(folder))
    if kind == "tar":
        with pytest.raises(StoreError, match=r"shard-000000\.tar"):
            list(FeatureStore.open(folder).utterances())


ZARR_LIES: dict[str, tuple[str, Change]] = {
    "a monstrous shape": ("logmel", put("shape", value=[10**12, 10**6])),
    "a shape of texts": ("logmel", put("shape", value=["1"])),
    "other offsets": ("offsets", put("shape", value=[10**12])),
    "no shape": ("json_offsets", lambda document: document.pop("shape")),
    "another dtype": ("logmel", put("data_type", value="float64")),
}


@pytest.mark.parametrize("lie", ZARR_LIES)
def test_a_zarr_group_that_lies(lie: str, made, tmp_path: Path) -> None:
    folder = copy_of(made["zarr"], tmp_path)
    name, change = ZARR_LIES[lie]
    path = folder / "shard-000000.zarr" / name / "zarr.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))
    seal(folder)
    refuse(folder, made, "zarr.json")


def test_offsets_of_json_that_lie(made, tmp_path: Path) -> None:
    for values in ([0, 10**15], [-8, 10], [10, 0], [0, 0]):
        folder = copy_of(made["zarr"], tmp_path)
        path = folder / "shard-000000.zarr" / "json_offsets" / "c" / "0"
        count = path.stat().st_size // 8
        path.write_bytes(np.array((values * count)[:count], dtype="<i8").tobytes())
        seal(folder)
        forget_sidecars()
        with pytest.raises(StoreError, match=r"shard-000000\.zarr"):
            list(FeatureStore.open(folder).utterances())
        with pytest.raises(StoreError, match=r"shard-000000\.zarr"):
            faults(FeatureStore.open(folder))
        shutil.rmtree(folder)


def test_inspect_refuses_what_it_cannot_trust(made, tmp_path: Path, invoke) -> None:
    folder = copy_of(made["tar"], tmp_path)
    edit_document(folder / "store.json", put("features", "n_fft", value=10**9))
    shown = invoke("inspect", folder, status=1)
    assert shown.stderr.count("\n") == 1
    assert "store.json: " in shown.stderr
    assert read_document(folder / "store.json")["kind"] == "features"
    assert shard_path(folder).name == "shard-000000.tar"
