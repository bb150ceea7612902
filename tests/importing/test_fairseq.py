"""``gmmpipe import`` of fairseq's dumps, made by the rule of its script."""

import json
from pathlib import Path

import numpy as np
import pytest

from gmmpipe import GmmpipeError, ImportOptions, import_frames

LENGTHS = [3, 5, 2, 7, 4, 6, 8]


def dump(folder: Path, num_shards: int) -> list[np.ndarray]:
    """Write the shards of a split; the frames of its utterances."""
    folder.mkdir()
    random = np.random.default_rng(1)
    frames = [random.normal(size=(length, 6)).astype(np.float32) for length in LENGTHS]
    rows = [f"book/{n}.flac\t{length * 320}" for n, length in enumerate(LENGTHS)]
    (folder / "train.tsv").write_text("\n".join(["/audio", *rows]) + "\n")
    for rank in range(num_shards):
        begin = round(len(frames) / num_shards * rank)
        end = round(len(frames) / num_shards * (rank + 1))
        stem = folder / f"train_{rank}_{num_shards}"
        np.save(stem.with_suffix(".npy"), np.concatenate(frames[begin:end]))
        lengths = "".join(f"{length}\n" for length in LENGTHS[begin:end])
        stem.with_suffix(".len").write_text(lengths)
    return frames


def frames_of(store: Path) -> dict[str, tuple[dict, np.ndarray]]:
    """The samples by id."""
    import io

    import webdataset as wds

    found = {}
    for shard in sorted(store.glob("*.tar")):
        for sample in wds.WebDataset(str(shard), shardshuffle=False):
            (array,) = (value for name, value in sample.items() if name.endswith(".npy"))
            metadata = json.loads(sample["json"])
            found[metadata["id"]] = metadata, np.load(io.BytesIO(array))
    return found


@pytest.mark.parametrize("num_shards", [1, 2, 5])
def test_rows_of_the_tsv_get_their_frames(tmp_path: Path, num_shards: int) -> None:
    frames = dump(tmp_path / "feat", num_shards)
    import_frames(ImportOptions(tmp_path / "feat", tmp_path / "store", dtype="float32"))
    found = frames_of(tmp_path / "store")
    assert len(found) == len(frames)
    for number, values in enumerate(frames):
        metadata, there = found[f"book/{number}"]
        np.testing.assert_array_equal(there, values)
        assert metadata["wav_path"] == f"book/{number}.flac"
        assert metadata["num_samples"] == LENGTHS[number] * 320
        assert metadata.get("ordinal", metadata["line"]) == number + 1


def test_without_a_tsv_the_line_is_the_name(tmp_path: Path) -> None:
    frames = dump(tmp_path / "feat", 2)
    (tmp_path / "feat/train.tsv").unlink()
    import_frames(ImportOptions(tmp_path / "feat", tmp_path / "store", dtype="float32"))
    found = frames_of(tmp_path / "store")
    np.testing.assert_array_equal(found["train_1_2-0000000001"][1], frames[4])


def test_a_len_that_states_other_frames_makes_rejects(tmp_path: Path) -> None:
    dump(tmp_path / "feat", 2)
    (tmp_path / "feat/train_0_2.len").write_text("3\n5\n2\n8\n")
    options = ImportOptions(tmp_path / "feat", tmp_path / "store", max_reject_fraction=0.9)
    import_frames(options)
    lines = (tmp_path / "store/rejects.jsonl").read_text().splitlines()
    assert [(row["reason"], row["line"]) for row in map(json.loads, lines)] == [
        ("wrong_shape", line) for line in (1, 2, 3, 4)
    ]


def test_a_tsv_of_other_rows_is_refused(tmp_path: Path) -> None:
    dump(tmp_path / "feat", 1)
    with (tmp_path / "feat/train.tsv").open("a") as file:
        file.write("more.flac\t320\n")
    with pytest.raises(GmmpipeError, match=r"train\.tsv: 8 rows"):
        import_frames(ImportOptions(tmp_path / "feat", tmp_path / "store"))


def test_a_number_of_too_many_digits_is_refused(tmp_path: Path) -> None:
    dump(tmp_path / "feat", 1)
    tsv = tmp_path / "feat/train.tsv"
    tsv.write_text(f"/root\na.flac\t{'9' * 5000}\n")
    with pytest.raises(GmmpipeError, match=r"train\.tsv: cannot be read"):
        import_frames(ImportOptions(tmp_path / "feat", tmp_path / "store"))
