"""`FeatureStoreWriter`: what it stores, what it refuses, and how it goes on after an end."""

import hashlib
import json
import math
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
import zarr
from click.testing import CliRunner

from gmmpipe import FeatureStore, FeatureStoreWriter
from gmmpipe.cli import cli
from gmmpipe.errors import ClaimError, OptionError, StoreError
from gmmpipe.features.external import ExternalSpec
from gmmpipe.store.documents import write_document
from gmmpipe.store.schema import LabelIdentity
from helpers.damage import edit_document, flip
from helpers.external import LAYER, utterances, write
from helpers.making import CORPUS, make_store
from helpers.processes import killed_after
from helpers.results import file_bytes


def added(dim: int = 3) -> dict[str, np.ndarray]:
    return dict(utterances(dim))


@pytest.mark.parametrize("kind", ["tar", "zarr"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_store_holds_what_was_added(kind: str, dtype: str, tmp_path: Path) -> None:
    store = FeatureStore.open(write(tmp_path / "store", 3, format=kind, dtype=dtype))
    assert store.features == ExternalSpec(3, 50.0, LAYER)
    assert (store.dim, len(store), len(store.shards)) == (3, 14, 3)
    expected, order = added(), list(added())
    found = list(store.utterances())
    assert [utt.key for utt in found] == [
        *sorted(order[:5]),
        *sorted(order[5:10]),
        *sorted(order[10:]),
    ]
    for utt in found:
        frames = expected[utt.key]
        np.testing.assert_array_equal(utt.features.numpy(), frames.astype(dtype))
        number = order.index(utt.key)
        assert utt.metadata == {"key": utt.key, "num_frames": len(frames), "number": number}
    document = json.loads((tmp_path / "store" / "store.json").read_bytes())
    assert document["features"]["kind"] == "external"
    assert document["plan"] == {"utterances_per_shard": 5, "dtype": dtype, "format": kind}
    totals, num_frames = document["totals"], sum(map(len, expected.values()))
    assert (totals["lines"], totals["rejects"], totals["frames"]) == (14, 0, num_frames)
    assert totals["seconds_kept"] == totals["seconds_in"] == pytest.approx(num_frames / 50)
    assert sorted(path.name for path in (tmp_path / "store").iterdir() if path.is_file()) == sorted(
        [
            *(f"shard-00000{n}.json" for n in range(3)),
            *(f"shard-00000{n}.tar" for n in range(3) if kind == "tar"),
            *("rejects.jsonl", "store.json"),
        ]
    )


def test_a_shard_is_read_by_the_libraries_of_its_kind(tmp_path: Path) -> None:
    tar, group = (write(tmp_path / kind, 3, format=kind) for kind in ("tar", "zarr"))
    samples = webdataset.WebDataset(str(tar / "shard-000000.tar"), shardshuffle=False).decode()
    frames = {sample["__key__"]: sample["features.npy"] for sample in samples}
    assert list(frames) == sorted(frames)
    together = zarr.open(group / "shard-000000.zarr")["features"][:]
    np.testing.assert_array_equal(together, np.concatenate(list(frames.values())))
    for key, array in frames.items():
        np.testing.assert_array_equal(array, added()[key].astype(np.float16))


def tensors() -> dict[str, torch.Tensor | np.ndarray]:
    """The same frames as whatever a program may have them."""
    exact = torch.arange(12, dtype=torch.float32).view(4, 3)
    wide = torch.full((4, 6), math.nan)
    wide[:, ::2] = exact
    return {
        "float32": exact,
        "float64": exact.double(),
        "bfloat16": exact.bfloat16(),
        "float8": exact.to(torch.float8_e4m3fn),
        "int64": exact.long(),
        "with-gradient": exact.clone().requires_grad_(),
        "negated-view": torch.complex(exact, -exact).conj().imag,
        "strided": wide[:, ::2],
        "transposed": exact.t().contiguous().t(),
        "numpy": exact.numpy(),
        "big-endian": exact.numpy().astype(">f8"),
        "fortran": np.asfortranarray(exact.numpy()),
        "unsigned": exact.numpy().astype(np.uint8),
    }


def test_frames_come_as_tensors_or_arrays_of_any_real_dtype(tmp_path: Path) -> None:
    with FeatureStoreWriter(tmp_path / "store", dim=3, frame_rate=100) as writer:
        for key, frames in tensors().items():
            writer.add(key, frames)
    for utt in FeatureStore.open(tmp_path / "store").utterances():
        assert utt.features.tolist() == tensors()["float32"].tolist(), utt.key


def test_frames_and_metadata_are_copied(tmp_path: Path) -> None:
    frames, metadata = torch.zeros(2, 3), {"speakers": ["ann"]}
    with FeatureStoreWriter(tmp_path / "store", dim=3, frame_rate=100) as writer:
        writer.add("a", frames, metadata)
        frames += 1
        metadata["speakers"].append("bob")
        writer.add("b", frames, {"key": "ours", "num_frames": 99})
    first, second = FeatureStore.open(tmp_path / "store").utterances()
    assert not first.features.any()
    assert first.metadata["speakers"] == ["ann"]
    assert second.metadata == {"key": "b", "num_frames": 2}


ROWS = np.ones((4, 3))
BAD = {
    "NaN": ("b", np.where(np.arange(12).reshape(4, 3) == 7, np.nan, ROWS), None, "frame 2 holds"),
    "infinity": ("b", torch.full((4, 3), -math.inf), None, "frame 0 holds values that are not fin"),
    "overflow": ("b", ROWS * 65520, None, "frame 0 holds 65520, too large for float16"),
    "another D": ("b", ROWS[:, :2], None, r"shape \[4, 2\], but must be \[T, 3\]"),
    "no frames": ("b", ROWS[:0], None, r"shape \[0, 3\].* T of at least 1"),
    "one dimension": ("b", ROWS[0], None, r"shape \[3\]"),
    "a batch": ("b", ROWS[None], None, r"shape \[1, 4, 3\]"),
    "complex": ("b", ROWS * 1j, None, "frames are complex128"),
    "truth values": ("b", ROWS > 0, None, "frames are bool"),
    "a sparse tensor": ("b", torch.ones(4, 3).to_sparse(), None, "must be a dense Tensor"),
    "no data": ("b", torch.ones(4, 3, device="meta"), None, "must be a dense Tensor"),
    "a list": ("b", ROWS.tolist(), None, "frames are of type <class 'list'>"),
    "a key twice": ("a", ROWS, None, "'a': added twice"),
    "an empty key": ("", ROWS, None, "a key is 1 to 80 letters"),
    "a long key": ("k" * 81, ROWS, None, "a key is"),
    "a path": ("dir/b", ROWS, None, "a key is"),
    "no text": (7, ROWS, None, "a key is"),
    "no JSON": ("b", ROWS, {"tensor": ROWS}, "its metadata is no JSON object"),
    "no number": ("b", ROWS, {"snr": math.nan}, "its metadata is no JSON object"),
    "no object": ("b", ROWS, [("a", 1)], "its metadata is no JSON object: it is a list"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_store_cannot_hold_is_refused_and_leaves_no_trace(name: str, tmp_path: Path) -> None:
    key, frames, metadata, message = BAD[name]
    with FeatureStoreWriter(tmp_path / "store", dim=3, frame_rate=100) as writer:
        writer.add("a", ROWS)
        with pytest.raises(StoreError, match=f"store: utterance .*{message}"):
            writer.add(key, frames, metadata)
        writer.add("c", ROWS)
    assert [utt.key for utt in FeatureStore.open(tmp_path / "store").utterances()] == ["a", "c"]


def test_float32_holds_what_overflows_in_float16(tmp_path: Path) -> None:
    with FeatureStoreWriter(tmp_path / "s", dim=3, frame_rate=100, dtype="float32") as writer:
        writer.add("a", ROWS * 65520)
        with pytest.raises(StoreError, match="1e\\+39, too large for float32"):
            writer.add("b", ROWS * 1e39)
    assert FeatureStore.open(tmp_path / "s").read_frames(0, 1).tolist() == [[65520.0] * 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim is 0"),
        ({"dim": 2049}, "dim is 2049"),
        ({"frame_rate": 0}, "frame_rate is 0"),
        ({"description": "a layer"}, "description is 'a layer', but must be a JSON object"),
        ({"description": {"a": math.inf}}, "description is no JSON object"),
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16', but must be float16 or float32"),
        ({"format": "npz"}, "format is 'npz', but must be tar or zarr"),
        ({"utterances_per_shard": 0}, "utterances_per_shard is 0"),
        ({"utterances_per_shard": 2.5}, r"utterances_per_shard is 2\.5"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        FeatureStoreWriter(tmp_path / "store", **{"dim": 3, "frame_rate": 50, **options})
    assert not (tmp_path / "store").exists()


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(OptionError, match="path is empty"):
        FeatureStoreWriter("", dim=3, frame_rate=50)


def test_an_error_leaves_an_unfinished_store_that_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "store"

    def program() -> None:
        with FeatureStoreWriter(folder, dim=3, frame_rate=50) as writer:
            writers.append(writer)
            writer.add("a", ROWS)
            raise KeyError("the program's own")

    writers: list[FeatureStoreWriter] = []
    with pytest.raises(KeyError, match="the program's own"):
        program()
    with pytest.raises(StoreError, match=r"not a finished .*; run the program that writes it"):
        FeatureStore.open(folder)
    done = CliRunner().invoke(cli, ["inspect", str(folder), "--json"])
    found = json.loads(done.output)
    assert (found["finished"], found["shards"], found["features"]["dim"]) == (False, 0, 3)
    with pytest.raises(RuntimeError, match="within its with block"):
        writers[0].add("b", ROWS)
    for other in ({"dim": 4}, {"dim": 3, "description": LAYER}, {"dim": 3, "dtype": "float32"}):
        with (
            pytest.raises(StoreError, match=r"other options: \w+ is .* there and .* here"),
            FeatureStoreWriter(folder, frame_rate=50, **other),
        ):
            pass


def test_a_writer_may_be_entered_again_after_an_error(tmp_path: Path) -> None:
    writer = FeatureStoreWriter(tmp_path / "store", dim=3, frame_rate=50)
    with suppress(KeyboardInterrupt), writer:
        writer.add("a", ROWS)
        raise KeyboardInterrupt
    with writer:
        assert "a" not in writer
        writer.add("a", ROWS)
    assert len(FeatureStore.open(tmp_path / "store")) == 1
    with pytest.raises(StoreError, match="holds a finished store"), writer:
        pass


def test_threads_may_add_side_by_side(tmp_path: Path) -> None:
    keys = {f"utterance-{number}" for number in range(200)}
    with (
        FeatureStoreWriter(
            tmp_path / "store", dim=3, frame_rate=50, utterances_per_shard=3
        ) as writer,
        ThreadPoolExecutor(8) as pool,
    ):
        list(pool.map(lambda key: writer.add(key, ROWS), keys))
    store = FeatureStore.open(tmp_path / "store")
    assert {utt.key for utt in store.utterances()} == keys
    assert len(store) == len(keys)
    assert {shard.row.utterances for shard in store.shards} == {3, 2}


def test_a_store_without_utterances_is_not_finished(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match="no utterances were added"),
        FeatureStoreWriter(tmp_path / "store", dim=3, frame_rate=50),
    ):
        pass


def refuses(folder: Path, message: str, **options: str) -> None:
    before = FeatureStore.open(folder).digests if (folder / "store.json").exists() else None
    with pytest.raises(StoreError, match=message):
        write(folder, 3, **options)
    if before:
        assert FeatureStore.open(folder).digests == before


def test_a_folder_that_holds_another_store_is_refused(tmp_path: Path) -> None:
    refuses(write(tmp_path / "finished", 3), "finished: holds a finished store. Remove it")
    log_mels = make_store(CORPUS, tmp_path / "log_mels", utterances_per_shard=40)
    refuses(log_mels, "kind is log_mel there and external here. Remove it, or write elsewhere")
    (log_mels / "store.json").unlink()
    refuses(log_mels, "holds another unfinished store")
    (tmp_path / "planned").mkdir()
    (tmp_path / "planned" / "plan.npz").touch()
    refuses(tmp_path / "planned", "holds another unfinished store")
    (tmp_path / "labels").mkdir()
    LabelIdentity("0" * 64, "0" * 64, 4, None, 1.0).write(tmp_path / "labels" / "plan.json")
    refuses(tmp_path / "labels", "a store of labels, not of features")
    with pytest.raises(
        StoreError, match=r"kind is external there and log_mel here\. Use .* --overwrite"
    ):
        make_store(CORPUS, tmp_path / "finished")


@pytest.mark.parametrize("name", ["rejects.jsonl", "store.json", "plan.json", "shard-000000.tar"])
def test_files_of_the_user_stay(name: str, tmp_path: Path) -> None:
    for theirs in {name, "plan.json"} if name == "store.json" else {name}:
        (tmp_path / theirs).write_text("{}")
    before = file_bytes(tmp_path)
    with pytest.raises(StoreError, match=re.escape(str(tmp_path))):
        write(tmp_path, 3)
    assert file_bytes(tmp_path) == before


def test_a_replacement_that_was_killed_is_finished_first(tmp_path: Path) -> None:
    folder = write(tmp_path / "store", 3)
    names = sorted(path.name for path in folder.iterdir())
    (folder / ".next").mkdir()
    for name in names:
        (folder / name).rename(folder / ".next" / name)
    coming = sorted(names, key="store.json".__eq__)
    write_document(
        folder / ".swap.json", {"format_version": 1, "going": ["store.json"], "coming": coming}
    )
    with pytest.raises(StoreError, match="holds a finished store"):
        write(folder, 3)
    assert sorted(path.name for path in folder.iterdir()) == names


def test_two_writers_do_not_share_a_folder(tmp_path: Path) -> None:
    with FeatureStoreWriter(tmp_path / "store", dim=3, frame_rate=50) as writer:
        writer.add("a", ROWS)
        with (
            pytest.raises(ClaimError, match=r"in use by process .* FeatureStoreWriter"),
            FeatureStoreWriter(tmp_path / "store", dim=3, frame_rate=50),
        ):
            pass
    assert len(FeatureStore.open(tmp_path / "store")) == 1


def test_memory_holds_the_frames_of_one_shard(tmp_path: Path) -> None:
    with FeatureStoreWriter(
        tmp_path / "store", dim=3, frame_rate=50, utterances_per_shard=2
    ) as writer:
        for number in range(5):
            writer.add(f"{number}", ROWS)
            shards = list((tmp_path / "store").glob("shard-*.tar"))
            assert len(shards) == (number + 1) // 2


def test_a_writer_that_is_killed_anywhere_is_completed_by_the_next(tmp_path: Path) -> None:
    whole, again = file_bytes(write(tmp_path / "whole", 3)), tmp_path / "again"
    operations = 1
    while killed_after(operations, lambda: write(again, 3)):
        if (again / "store.json").exists():
            refuses(again, "holds a finished store")
        else:
            write(again, 3)
        assert file_bytes(again) == whole, operations
        shutil.rmtree(again)
        operations += 1
    assert operations > 6


def test_utterances_that_are_stored_need_not_be_made_again(tmp_path: Path, caplog) -> None:
    whole, folder = file_bytes(write(tmp_path / "whole", 3)), tmp_path / "store"
    made: list[str] = []

    def program(stop: int) -> None:
        options = {"frame_rate": 50, "description": LAYER, "utterances_per_shard": 5}
        with FeatureStoreWriter(folder, dim=3, **options) as writer:
            for number, (key, frames) in enumerate(utterances(3)):
                if number == stop:
                    raise InterruptedError
                if key not in writer:
                    made.append(key)
                    writer.add(key, frames, {"number": number})
                    assert key in writer

    for stop in (7, 12):
        with pytest.raises(InterruptedError):
            program(stop)
    program(99)
    assert made == [*list(added())[:7], *list(added())[5:12], *list(added())[10:]]
    assert "goes on with 10 utterances that an earlier run has stored" in caplog.text
    assert file_bytes(folder) == whole


def test_a_shard_may_be_closed_early_and_a_rerun_makes_the_same_ones(tmp_path: Path) -> None:
    def program(folder: Path, stop: int) -> Path:
        options = {"frame_rate": 50, "description": LAYER, "utterances_per_shard": 5}
        with FeatureStoreWriter(folder, dim=3, **options) as writer:
            for number, (key, frames) in enumerate(utterances(3)):
                if number == stop:
                    raise InterruptedError
                writer.add(key, frames)
                if number in (2, 7):
                    writer.close_shard()
            writer.close_shard()
            writer.close_shard()
        with pytest.raises(RuntimeError, match="within its with block"):
            writer.close_shard()
        return folder

    whole = program(tmp_path / "whole", 99)
    shards = FeatureStore.open(whole).shards
    assert [shard.row.utterances for shard in shards] == [3, 5, 5, 1]
    for stop in (3, 5, 9):
        with pytest.raises(InterruptedError):
            program(tmp_path / "store", stop)
    assert file_bytes(program(tmp_path / "store", 99)) == file_bytes(whole)


def test_a_bad_shard_is_removed_by_verify_and_made_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "store", 3)
    whole = file_bytes(folder)
    for name in ("shard-000001", "shard-000002"):
        flip(folder / f"{name}.tar", 1700)
    done = CliRunner().invoke(cli, ["verify", str(folder), "--repair"])
    assert done.exit_code == 1
    assert all(f"shard-00000{number}.tar" in done.output for number in (1, 2))
    with pytest.raises(StoreError, match="run the program that writes it again"):
        FeatureStore.open(folder)
    with (
        pytest.raises(StoreError, match=r"shard-000001\.tar is missing still"),
        FeatureStoreWriter(folder, dim=3, frame_rate=50, description=LAYER, utterances_per_shard=5),
    ):
        pass
    write(folder, 3)
    assert file_bytes(folder) == whole
    assert CliRunner().invoke(cli, ["verify", str(folder)]).exit_code == 0


LIES = {
    "a huge dim": ({"features": {"dim": 10**9}}, "dim is 1000000000, but must be"),
    "a fractional dim": ({"features": {"dim": 3.5}}, r"dim is 3\.5"),
    "no dim": ({"features": {"dim": None}}, "dim is None"),
    "a rate of none": ({"features": {"frame_rate": 0}}, "frame_rate is 0"),
    "a rate of a text": ({"features": {"frame_rate": "50"}}, "frame_rate is '50'"),
    "a list for a description": ({"features": {"description": []}}, r"description is \[\]"),
    "a further parameter": ({"features": {"layer": 6}}, "another version of gmmpipe"),
    "an unknown kind": ({"features": {"kind": "spectral_flux"}}, "does not know"),
    "another D than the shards have": ({"features": {"dim": 2048}}, "fewer bytes than"),
    "an unknown dtype": ({"plan": {"dtype": "float64"}}, "shards of dtype float64 cannot be read"),
    "a count of a text": ({"plan": {"utterances_per_shard": "5"}}, "utterances_per_shard is '5'"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_store_that_lies_about_its_frames_is_refused(name: str, tmp_path: Path) -> None:
    changes, message = LIES[name]
    path = write(tmp_path / "store", 3, count=4) / "store.json"

    def lie(document: dict) -> None:
        for field, values in changes.items():
            document[field] |= values
        text = json.dumps(document["features"], sort_keys=True, separators=(",", ":"))
        document["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()

    edit_document(path, lie)
    with pytest.raises(StoreError, match=f"{re.escape(str(path))}: .*{message}"):
        FeatureStore.open(path.parent)


def test_a_damaged_note_of_what_is_being_written_is_an_error(tmp_path: Path) -> None:
    whole = write(tmp_path / "store", 3)
    (whole / "store.json").unlink()
    (whole / "plan.json").write_bytes(b'{"format_version":1,"kind":"features"}\n')
    refuses(whole, r"plan\.json: not a feature store: KeyError")
    edit_document(whole / "plan.json", lambda document: document.update(kind="labels"))
    refuses(whole, "a store of labels, not of features")
