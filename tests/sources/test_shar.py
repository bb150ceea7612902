"""lhotse's Shar: cuts and their audio in tars beside them."""

import gzip
import json
import tarfile
from pathlib import Path
from typing import Any

import lhotse
import numpy as np
import pytest
import soundfile

from gmmpipe import FeatureStore
from gmmpipe.errors import ManifestError
from gmmpipe.sources.find import find_manifests, find_sources
from helpers.kinds.lhotse_manifests import cuts_of
from helpers.kinds.made import corpus_lines
from helpers.making import make_store, read_speech
from helpers.results import read_json_lines


def written(folder: Path, cuts: Any, audio_format: str = "flac", **options: Any) -> Path:
    source = folder / "shar"
    source.mkdir()
    cuts.to_shar(source, fields={"recording": audio_format}, **options)
    return source


def samples_of(store: Path) -> dict[str, Any]:
    return {u.key: u for u in FeatureStore.open(store).utterances()}


def test_a_folder_of_shards(tmp_path: Path) -> None:
    cuts, _ = cuts_of(corpus_lines(5))
    folder = written(tmp_path, cuts, shard_size=2)
    (folder / "text.000000.jsonl.gz").write_bytes(gzip.compress(b'{"cut_id": "a", "text": "x"}\n'))
    (source,) = find_sources(str(folder))
    names = [manifest.name for manifest in source.manifests]
    assert names == [f"cuts.{number:06d}.jsonl.gz" for number in range(3)]
    assert source.passed_over == ["text.000000.jsonl.gz"]
    samples = samples_of(make_store(str(folder), tmp_path / "store"))
    assert samples.keys() == {f"utterance-{number:02d}" for number in range(5)}
    metadata = samples["utterance-03"].metadata
    assert metadata["wav_path"] == "recording.000001.tar#utterance-03.flac"
    assert (metadata["manifest"], metadata["line"]) == ("cuts.000001.jsonl.gz", 2)
    assert metadata["text"] == "what utterance-03 says"
    assert "archive_range" not in metadata


def test_the_original_format_and_one_shard_of_no_number(tmp_path: Path) -> None:
    cuts, _ = cuts_of(corpus_lines(4))
    folder = written(tmp_path, cuts, "original", shard_size=None)
    assert [manifest.name for manifest in find_manifests(str(folder))] == ["cuts.jsonl.gz"]
    samples = samples_of(make_store(str(folder / "cuts.jsonl.gz"), tmp_path / "store"))
    assert len(samples) == 4
    assert samples["utterance-00"].metadata["wav_path"] == "recording.tar#utterance-00.original"


def test_a_channel_is_all_of_its_member(tmp_path: Path) -> None:
    """lhotse stores the channels of the cut alone, under their numbers in the recording."""
    speech, rate = read_speech(1.0)
    soundfile.write(tmp_path / "a.wav", np.stack([speech, 0.5 * speech[::-1]], axis=1), rate)
    recording = lhotse.Recording.from_file(tmp_path / "a.wav")
    cuts = lhotse.CutSet.from_cuts(
        [
            lhotse.MonoCut("right", 0.0, 1.0, 1, recording=recording),
            lhotse.MultiCut("both", 0.0, 1.0, [0, 1], recording=recording),
        ]
    )
    folder = written(tmp_path, cuts, "wav", shard_size=10)
    found = samples_of(make_store(str(folder), tmp_path / "store"))
    loose = tmp_path / "loose.jsonl"
    lines = [{"path": "a.wav", "id": "right", "channel": 1}, {"path": "a.wav", "id": "both"}]
    loose.write_text("".join(json.dumps(line) + "\n" for line in lines))
    expected = samples_of(make_store(loose, tmp_path / "expected"))
    for key, sample in expected.items():
        np.testing.assert_array_equal(found[key].features, sample.features)
    assert "channel" not in found["right"].metadata


def test_cuts_that_were_shuffled_and_filtered_find_their_audio(tmp_path: Path) -> None:
    cuts, _ = cuts_of(corpus_lines(5))
    folder = written(tmp_path, cuts, shard_size=10)
    expected = samples_of(make_store(str(folder), tmp_path / "expected"))
    path = folder / "cuts.000000.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(lines[3] + lines[0] + lines[4] + lines[1]))
    found = samples_of(make_store(str(folder), tmp_path / "store"))
    assert found.keys() == expected.keys() - {"utterance-02"}
    for key, sample in found.items():
        np.testing.assert_array_equal(sample.features, expected[key].features)


def test_ids_with_folders_and_dots(tmp_path: Path) -> None:
    cuts, _ = cuts_of(corpus_lines(2))
    renamed = lhotse.CutSet.from_cuts([cut.with_id(f"a/b.c/{cut.id}.x") for cut in cuts])
    folder = written(tmp_path, renamed, shard_size=10)
    samples = samples_of(make_store(str(folder), tmp_path / "store"))
    ids = {sample.metadata["id"] for sample in samples.values()}
    assert ids == {"a/b.c/utterance-00.x", "a/b.c/utterance-01.x"}


def test_a_cut_without_audio_is_a_reject(tmp_path: Path) -> None:
    cuts, _ = cuts_of(corpus_lines(4))
    cuts = [*cuts]
    cuts[1] = lhotse.utils.fastcopy(cuts[1], recording=None)  # which writes a placeholder
    folder = written(tmp_path, lhotse.CutSet.from_cuts(cuts), shard_size=2)
    (folder / "recording.000001.tar").unlink()
    store = make_store(str(folder), tmp_path / "store", max_reject_fraction=1.0)
    rejects = read_json_lines(store / "rejects.jsonl")
    found = [(each["manifest"], each["line"], each["reason"], each["detail"]) for each in rejects]
    missing = "audio of a Shar that no recording tar beside it holds"
    assert found == [
        ("cuts.000000.jsonl.gz", 2, "missing_path", "a cut without a recording"),
        ("cuts.000001.jsonl.gz", 1, "missing_path", missing),
        ("cuts.000001.jsonl.gz", 2, "missing_path", missing),
    ]


def test_a_damaged_tar(tmp_path: Path) -> None:
    cuts, _ = cuts_of(corpus_lines(3))
    folder = written(tmp_path, cuts, shard_size=10)
    tar = folder / "recording.000000.tar"
    whole = tar.read_bytes()
    with tarfile.open(tar) as archive:
        second = archive.getmembers()[2]
    tar.write_bytes(whole[: second.offset_data + 100])
    store = make_store(str(folder), tmp_path / "store", max_reject_fraction=1.0)
    rejects = read_json_lines(store / "rejects.jsonl")
    found = [(each["line"], each["reason"]) for each in rejects]
    assert found == [(2, "truncated"), (3, "missing_path")]
    tar.write_bytes(whole[: second.offset] + b"x" * 1024)
    with pytest.raises(ManifestError, match=r"recording.000000.tar: damaged: there is no header"):
        make_store(str(folder), tmp_path / "other")
