"""lhotse's manifests: which lines are utterances, their fields, and what lies in a folder."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lhotse
import numpy as np
import pytest
import soundfile

from gmmpipe import FeatureStore
from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.sources.find import find_manifests, find_sources
from gmmpipe.sources.lhotse import Lhotse
from gmmpipe.sources.utterance import ParsedLine, Utterance
from helpers.kinds.lhotse_manifests import recordings_of, supervisions_of
from helpers.kinds.made import corpus_lines
from helpers.making import make_store, read_speech
from helpers.results import read_json_lines


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose two channels are not alike: speech, and the same speech backwards."""
    path = tmp_path_factory.mktemp("audio") / "stereo.wav"
    speech, rate = read_speech(2.0)
    soundfile.write(path, np.stack([speech, 0.5 * speech[::-1]], axis=1), rate)
    return path


@pytest.fixture(scope="module")
def cut(stereo: Path) -> Any:
    """All of one channel, with all that a cut can say."""
    said = lhotse.SupervisionSegment(
        id="said",
        recording_id="stereo",
        start=0.0,
        duration=2.0,
        channel=1,
        text="hello",
        language="en",
        speaker="ann",
        gender="F",
        custom={"snr": 12.5, "start": "Berlin", "words": ["hel", "lo"], "nested": {"deep": 1}},
        alignment={"word": [lhotse.supervision.AlignmentItem("hello", 0.0, 2.0)]},
    )
    recording = lhotse.Recording.from_file(stereo)
    return lhotse.MonoCut(
        id="cut-1",
        start=0.0,
        duration=2.0,
        channel=1,
        recording=recording,
        supervisions=[said],
        custom={"corpus": "demo", "snr": 3, "id": "other", "noise": recording},
    )


def plain_lines(path: Path) -> list[bytes]:
    return list(Lhotse().translate(path, Counter()))


def written(folder: Path, *items: Any) -> Path:
    """The items as lhotse writes them."""
    path = folder / "items.jsonl.gz"
    with lhotse.serialization.SequentialJsonlWriter(path) as writer:
        for item in items:
            writer.write(item)
    return path


def utterance_of(folder: Path, item: Any) -> Utterance:
    (line,) = plain_lines(written(folder, item))
    return ParsedLine(line.strip()).utterance(1)


def test_a_cut_says_what_it_is(cut: Any, stereo: Path, tmp_path: Path) -> None:
    utterance = utterance_of(tmp_path, cut)
    assert (utterance.key, utterance.wav_path) == ("cut-1", str(stereo))
    assert (utterance.offset_seconds, utterance.duration_seconds) == (None, 2.0)
    assert utterance.channel == 1
    carried = {name: value for name, value in utterance.carried.items() if name != "id"}
    assert carried == {
        "channel": 1,
        "duration": 2.0,
        "recording_id": "stereo",
        "text": "hello",
        "language": "en",
        "speaker": "ann",
        "gender": "F",
        "corpus": "demo",
        "snr": 3,
        "custom_id": "other",
        "custom_start": "Berlin",
        "words": ["hel", "lo"],
    }


def test_a_part_of_a_recording_is_a_segment(cut: Any, tmp_path: Path) -> None:
    part = utterance_of(tmp_path, cut.truncate(offset=0.5, duration=1.0))
    assert (part.offset_seconds, part.duration_seconds) == (0.5, 1.0)
    first = utterance_of(tmp_path, cut.truncate(duration=1.0))
    assert (first.offset_seconds, first.duration_seconds) == (0.0, 1.0)


def test_resampling_is_left_to_featurize(cut: Any, stereo: Path, tmp_path: Path) -> None:
    utterance = utterance_of(tmp_path, cut.truncate(offset=0.5, duration=1.0).resample(8000))
    assert utterance.wav_path == str(stereo)
    assert (utterance.offset_seconds, utterance.duration_seconds) == (0.5, 1.0)


def test_a_cut_of_several_supervisions_has_the_text_of_none(cut: Any, tmp_path: Path) -> None:
    said = cut.supervisions[0]
    others = [
        lhotse.utils.fastcopy(said, id=name, start=start, duration=0.5, text=name)
        for name, start in [("a", 0.0), ("b", 1.0)]
    ]
    both = lhotse.utils.fastcopy(cut, supervisions=others)
    assert not {"text", "speaker", "words"} & utterance_of(tmp_path, both).carried.keys()
    segments = [utterance_of(tmp_path, each) for each in both.trim_to_supervisions()]
    assert [(each.key, each.carried["text"]) for each in segments] == [("a", "a"), ("b", "b")]
    times = [(each.offset_seconds, each.duration_seconds) for each in segments]
    assert times == [(0.0, 0.5), (1.0, 0.5)]


@pytest.mark.parametrize(
    ("alter", "reason", "detail"),
    [
        (lambda cut: cut.perturb_speed(1.1), "missing_path", "audio that Speed would make"),
        (lambda cut: cut.perturb_tempo(1.1), "missing_path", "audio that Tempo would make"),
        (lambda cut: cut.perturb_volume(2.0), "missing_path", "audio that Volume would make"),
        (
            lambda cut: cut.resample(8000).normalize_loudness(-20.0),
            "missing_path",
            "audio that LoudnessNormalization would make: no file holds it",
        ),
        (lambda cut: cut.reverb_rir(), "missing_path", "ReverbWithImpulseResponse"),
        (lambda cut: cut.pad(duration=3.0), "missing_path", "a MixedCut: no file holds"),
        (lambda cut: cut.append(cut), "missing_path", "a MixedCut: no file holds"),
        (lambda cut: silence(), "missing_path", "a PaddingCut: no file holds its audio"),
        (
            lambda cut: lhotse.utils.fastcopy(cut, recording=None),
            "missing_path",
            "a cut without a recording",
        ),
        (lambda cut: cut.supervisions[0], "missing_path", "neither a cut nor a recording"),
        (lambda cut: with_source(cut, "command", "sox a.sph -"), "unsafe_path", "type command"),
        (lambda cut: with_source(cut, "url", "https://a.b/c.wav"), "unsafe_path", "type url"),
        (lambda cut: with_source(cut, "memory", "UklGRg=="), "unsafe_path", "type memory"),
        (lambda cut: with_source(cut, "shar", ""), "missing_path", "no recording tar beside it"),
    ],
)
def test_what_no_file_holds_is_a_reject(
    alter: Callable[[Any], Any], reason: str, detail: str, cut: Any, tmp_path: Path
) -> None:
    without_custom = lhotse.utils.fastcopy(cut, custom=None)
    with pytest.raises(AudioError, match=detail) as caught:
        utterance_of(tmp_path, alter(without_custom))
    assert caught.value.reason == reason


def of_features(cut: Any) -> Any:
    return lhotse.utils.fastcopy(cut, recording=None)


def silence() -> Any:
    return lhotse.cut.PaddingCut("p", 1.0, 16000, feat_value=0.0, num_samples=16000)


def with_source(cut: Any, kind: str, source: str) -> Any:
    """The cut, its audio in a source of another type."""
    sources = [lhotse.AudioSource(kind, [0, 1], source)]
    recording = lhotse.utils.fastcopy(cut.recording, sources=sources)
    return lhotse.utils.fastcopy(cut, recording=recording)


def test_channels(stereo: Path, tmp_path: Path) -> None:
    """An array of one stereo file and one mono file, whose channels lhotse numbers through."""
    mono = tmp_path / "mono.wav"
    soundfile.write(mono, *read_speech(2.0))
    recording = lhotse.Recording(
        id="array",
        sources=[
            lhotse.AudioSource("file", [4, 2], str(stereo)),
            lhotse.AudioSource("file", [3], str(mono)),
        ],
        sampling_rate=16000,
        num_samples=32000,
        duration=2.0,
    )

    def of(channel: int | list[int]) -> tuple[str, int | None]:
        kind = lhotse.MultiCut if isinstance(channel, list) else lhotse.MonoCut
        utterance = utterance_of(tmp_path, kind("c", 0.0, 2.0, channel, recording=recording))
        return utterance.wav_path, utterance.channel

    assert of(2) == (str(stereo), 1)
    assert of(4) == (str(stereo), 0)
    assert of([2]) == (str(stereo), 1)
    assert of(3) == (str(mono), None)
    assert of([2, 4]) == (str(stereo), None)
    for channels, detail in [([2, 3], "in 2 files"), (7, "in 0 files"), ([2, 7], "neither one")]:
        with pytest.raises(AudioError, match=detail) as caught:
            of(channels)
        assert caught.value.reason == "bad_json"
    with pytest.raises(AudioError, match="in 2 files"):
        utterance_of(tmp_path, recording)


def test_a_channel_and_the_mean_of_all_are_featurized(stereo: Path, tmp_path: Path) -> None:
    recording = lhotse.Recording.from_file(stereo)
    cuts = [
        lhotse.MonoCut("left", 0.0, 2.0, 0, recording=recording),
        lhotse.MonoCut("right", 0.0, 2.0, 1, recording=recording),
        lhotse.MultiCut("both", 0.0, 2.0, [0, 1], recording=recording),
    ]
    store = make_store(written(tmp_path, *cuts), tmp_path / "store")
    loose = tmp_path / "loose.jsonl"
    lines = [{"wav_path": str(stereo), "id": "left", "channel": 0}]
    lines += [{"wav_path": str(stereo), "id": "right", "channel": 1}]
    lines += [{"wav_path": str(stereo), "id": "both"}]
    loose.write_text("".join(json.dumps(line) + "\n" for line in lines))
    expected = frames_of(make_store(loose, tmp_path / "expected"))
    found = frames_of(store)
    assert not np.array_equal(found["left"], found["right"])
    for key, frames in expected.items():
        np.testing.assert_array_equal(found[key], frames)


def frames_of(store: Path) -> dict[str, np.ndarray]:
    return {u.key: u.features.numpy() for u in FeatureStore.open(store).utterances()}


def test_rejects_keep_their_line_and_its_path(cut: Any, stereo: Path, tmp_path: Path) -> None:
    path = written(tmp_path, cut.with_id("a"), cut.perturb_volume(2.0), cut.pad(3.0))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\n{bad\n[]\n"))
    store = make_store(path, tmp_path / "store", max_reject_fraction=1.0)
    rejects = read_json_lines(store / "rejects.jsonl")
    found = [(reject["line"], reject["reason"], reject["path"]) for reject in rejects]
    assert found == [
        (2, "missing_path", str(stereo)),
        (3, "missing_path", ""),
        (5, "bad_json", ""),
        (6, "bad_json", ""),
    ]
    assert [u.key for u in FeatureStore.open(store).utterances()] == ["a"]


def test_relative_sources_start_at_the_manifest_or_base_path(stereo: Path, tmp_path: Path) -> None:
    recording = lhotse.Recording.from_file(stereo)
    source = lhotse.AudioSource("file", [0, 1], "wav/stereo.wav")
    recording = lhotse.utils.fastcopy(recording, sources=[source])
    (tmp_path / "base" / "wav").mkdir(parents=True)
    (tmp_path / "base" / "wav" / "stereo.wav").write_bytes(stereo.read_bytes())
    path = written(tmp_path / "base", recording)
    store = make_store(path, tmp_path / "store")
    path = path.rename(tmp_path / "items.jsonl.gz")
    other = make_store(path, tmp_path / "other", base_path=tmp_path / "base")
    (one,), (two,) = FeatureStore.open(store).utterances(), FeatureStore.open(other).utterances()
    assert one.metadata["wav_path"] == two.metadata["wav_path"] == "wav/stereo.wav"


def test_recordings_carry_the_only_supervision_beside_them(tmp_path: Path) -> None:
    lines = corpus_lines(3)
    recordings = recordings_of(lines)
    supervisions = list(supervisions_of(lines, recordings))
    twice = lhotse.utils.fastcopy(supervisions[2], id="again")
    recordings.to_file(tmp_path / "recordings.jsonl")
    # In another order than the recordings, and compressed though those are not.
    several = lhotse.SupervisionSet.from_segments([supervisions[2], twice, supervisions[0]])
    several.to_file(tmp_path / "supervisions.jsonl.gz")
    found = [json.loads(line) for line in plain_lines(tmp_path / "recordings.jsonl")]
    assert [line.get("text") for line in found] == [supervisions[0].text, None, None]
    assert [line["id"] for line in found] == [line["id"] for line in lines]
    assert all("offset" not in line for line in found)
    (source,) = find_sources(str(tmp_path))
    assert [manifest.name for manifest in source.manifests] == ["recordings.jsonl"]
    assert source.passed_over == []


def test_what_a_folder_holds(cut: Any, tmp_path: Path) -> None:
    def found() -> list[tuple[str, str]]:
        return [(manifest.kind, manifest.name) for manifest in find_manifests(str(tmp_path))]

    lines = corpus_lines(2)
    recordings = recordings_of(lines)
    supervisions_of(lines, recordings).to_file(tmp_path / "supervisions.jsonl.gz")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "audio").mkdir()
    recordings.to_file(tmp_path / "a_recordings.jsonl.gz")
    recordings.to_file(tmp_path / "b_recordings.jsonl")
    expected = [("lhotse", "a_recordings.jsonl.gz"), ("lhotse", "b_recordings.jsonl")]
    assert found() == expected
    cuts = lhotse.CutSet.from_cuts([cut])
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    assert found() == [("lhotse", "cuts.jsonl.gz")]
    (source,) = find_sources(str(tmp_path))
    assert {"notes.txt", "b_recordings.jsonl", "supervisions.jsonl.gz"} < {*source.passed_over}
    (tmp_path / "plain.jsonl").write_text('{"wav_path": "a.wav"}\n')
    with pytest.raises(ManifestError, match="could be read as jsonl or lhotse"):
        found()
    assert find_manifests(str(tmp_path), "lhotse")[0].name == "cuts.jsonl.gz"
    assert find_manifests(str(tmp_path), "jsonl")[0].name == "b_recordings.jsonl"


def test_a_link_to_nothing_is_not_passed_over(cut: Any, tmp_path: Path) -> None:
    lhotse.CutSet.from_cuts([cut]).to_file(tmp_path / "cuts_1.jsonl.gz")
    (tmp_path / "cuts_2.jsonl.gz").symlink_to(tmp_path / "gone")
    with pytest.raises(ManifestError, match=r"cuts_2.jsonl.gz: a link to a file that does not"):
        find_manifests(str(tmp_path))


def test_supervisions_alone_are_no_source(tmp_path: Path) -> None:
    lines = corpus_lines(2)
    path = tmp_path / "supervisions.jsonl.gz"
    supervisions_of(lines, recordings_of(lines)).to_file(path)
    with pytest.raises(ManifestError, match="supervisions name no audio"):
        find_manifests(str(path))


def test_plain_lines_stay_plain(tmp_path: Path) -> None:
    for content in (b'{"wav_path": "a.wav", "id": "x", "type": "MonoCuts"}\n', b"{bad\n", b""):
        path = tmp_path / "m.jsonl"
        path.write_bytes(content)
        assert find_manifests(str(path))[0].kind == "jsonl"


HOSTILE: list[Any] = [None, True, 7, 1.5, "x", [], [[]], {}, {"id": []}, [None], [{"a": 1}], [True]]


@pytest.mark.parametrize(
    "place",
    [
        *("id", "start", "duration", "channel", "supervisions", "custom", "recording", "type"),
        *("recording.id", "recording.sources", "recording.duration", "recording.transforms"),
        *("recording.sources.0", "recording.sources.0.channels", "recording.sources.0.source"),
        *("recording.sources.0.type", "supervisions.0", "supervisions.0.text"),
        "supervisions.0.custom",
    ],
)
def test_no_value_ends_in_a_traceback(place: str, cut: Any, tmp_path: Path) -> None:
    path = tmp_path / "cuts.jsonl"
    *way, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    lines = []
    for value in HOSTILE:
        values = holder = json.loads(json.dumps(cut.to_dict()))
        for part in way:
            holder = holder[part]
        holder[last] = value
        lines.append(json.dumps(values) + "\n")
    path.write_text("".join(lines))
    plain = plain_lines(path)
    assert len(plain) == len(HOSTILE)
    for line in plain:
        with suppress(AudioError):
            ParsedLine(line.strip()).utterance(1)


def test_supervisions_of_any_text_are_found(tmp_path: Path) -> None:
    recording = {"id": "\ud800\0é", "sources": [{"type": "file", "channels": [0], "source": "a"}]}
    recording |= {"sampling_rate": 16000, "duration": 1.0}
    said = {"id": "s", "recording_id": "\ud800\0é", "start": 0, "duration": 1, "text": "\ud800x"}
    (tmp_path / "recordings.jsonl").write_text(json.dumps(recording) + "\n")
    (tmp_path / "supervisions.jsonl").write_text("{bad\n\n[]\n" + json.dumps(said) + "\n")
    (line,) = plain_lines(tmp_path / "recordings.jsonl")
    assert json.loads(line)["text"] == "\ud800x"
