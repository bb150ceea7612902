"""Audio that libsndfile cannot decode goes through PyAV: its place, length, segments, damage."""

import os
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import scipy.signal

from gmmpipe.audio.member import Member
from gmmpipe.audio.opener import header_seconds, num_samples, open_audio
from gmmpipe.audio.waveform import Limit, Segment, load_waveform
from gmmpipe.errors import AudioError
from helpers.containers import write_container
from helpers.kinds.parquets import write_parquet
from helpers.making import read_speech
from helpers.processes import ROOT, one_thread, run_gmmpipe

FORMS: dict[str, tuple[str, str, int]] = {
    "a.m4a": ("aac", "ipod", 16000),
    "a.mp4": ("aac", "mp4", 44100),
    "a.mov": ("aac", "mov", 16000),
    "opus.mp4": ("libopus", "mp4", 48000),
    "a.webm": ("libopus", "webm", 48000),
    "a.mka": ("libopus", "matroska", 48000),
    "aac.mka": ("aac", "matroska", 16000),
    "a.wma": ("wmav2", "asf", 16000),
    "loud.wma": ("wmav2", "asf", 44100),
    "a.amr": ("libopencore_amrnb", "amr", 8000),
    "a.3gp": ("libopencore_amrnb", "3gp", 8000),
    "a.aac": ("aac", "adts", 16000),
    "a.ts": ("aac", "mpegts", 16000),
    "a.flv": ("aac", "flv", 44100),
    "mp3.mka": ("libmp3lame", "matroska", 16000),
    "mp3.mp4": ("libmp3lame", "mp4", 44100),
    "a.ac3": ("ac3", "ac3", 48000),
}
LOSSLESS: dict[str, tuple[str, str, int]] = {
    "alac.m4a": ("alac", "ipod", 16000),
    "flac.mka": ("flac", "matroska", 16000),
    "pcm.mkv": ("pcm_s16le", "matroska", 16000),
}
SECONDS = 4.3
LIMIT = Limit(60.0)


def speech(rate: int, seconds: float = SECONDS) -> np.ndarray:
    samples = np.resize(read_speech()[0], int(seconds * 16000))
    return np.clip(scipy.signal.resample_poly(samples, rate, 16000), -1, 32767 / 32768)


def made(path: Path, name: str, **options: bool) -> Path:
    codec, form, rate = {**FORMS, **LOSSLESS}[name]
    return write_container(path / name, speech(rate), rate, codec, form, **options)


def lag(decoded: np.ndarray, source: np.ndarray) -> int:
    """By how many samples `decoded` is late, to go by its correlation with its source."""
    length = min(len(decoded), len(source))
    correlation = scipy.signal.correlate(decoded[:length], source[:length], method="fft")
    return int(correlation.argmax()) - (length - 1)


@pytest.mark.parametrize("name", FORMS)
def test_its_first_frame_is_where_the_original_has_it(name: str, tmp_path: Path) -> None:
    rate = FORMS[name][2]
    path = made(tmp_path, name)
    decoded = load_waveform(str(path), rate, LIMIT).samples.numpy()
    assert abs(lag(decoded, speech(rate))) <= 0.006 * rate  # of a frame's 0.02 s
    assert len(decoded) == pytest.approx(SECONDS * rate, abs=0.13 * rate)
    assert header_seconds(str(path)) == pytest.approx(SECONDS, abs=0.1)


@pytest.mark.parametrize("name", LOSSLESS)
def test_nothing_is_lost_of_what_loses_nothing(name: str, tmp_path: Path) -> None:
    path = made(tmp_path, name)
    decoded = load_waveform(str(path), 16000, LIMIT)
    expected = np.round(speech(16000) * 32768) / 32768
    np.testing.assert_array_equal(decoded.samples.numpy(), expected.astype(np.float32))
    assert load_waveform(path.read_bytes(), 16000, LIMIT).samples.equal(decoded.samples)
    assert decoded.is_source_int16 == (name != "alac.m4a")


@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.wma", "a.aac"])
def test_a_segment_is_that_part_of_the_whole(name: str, tmp_path: Path) -> None:
    rate = FORMS[name][2]
    path = str(made(tmp_path, name))
    whole = load_waveform(path, rate, LIMIT).samples
    for offset, duration in ((0.0, 1.0), (2.5, 1.25), (1.0, 0.5)):
        start, count = round(offset * rate), round(duration * rate)
        part = load_waveform(path, rate, LIMIT, Segment(offset, duration)).samples
        assert part.equal(whole[start : start + count])


def test_a_member_of_an_archive_is_decoded_alike(tmp_path: Path) -> None:
    path = made(tmp_path, "a.m4a")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(path, "a.m4a")
    write_parquet(tmp_path / "a.parquet", [{"audio": {"bytes": path.read_bytes(), "path": "a"}}])
    expected = load_waveform(str(path), 16000, LIMIT).samples
    for archive_name, name in (("a.tar", "a.m4a"), ("a.parquet", "0")):
        member = Member(str(tmp_path / archive_name), name)
        assert load_waveform(member, 16000, LIMIT).samples.equal(expected)


def test_one_open_file_goes_forward_and_back(tmp_path: Path) -> None:
    with open_audio(str(made(tmp_path, "a.m4a"))) as file:
        whole = file.read(np.empty((file.frames, 1), np.float32))
        assert len(whole) == file.frames
        for start in (40000, 10, 9000, 9500):
            file.skip_to(start)
            part = file.read(np.empty((500, 1), np.float32))
            np.testing.assert_array_equal(part, whole[start : start + 500])


def test_long_audio_is_counted_by_decoding_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gmmpipe.audio.container.BLOCK_SAMPLES", 4000)
    for name in ("a.m4a", "a.aac"):
        path = str(made(tmp_path, name))
        with open_audio(path) as file:
            counted = num_samples(file, path)
            file.skip_to(0)
            assert len(file.read(np.empty((counted + 1, 1), np.float32))) == counted
        assert header_seconds(path) == pytest.approx(SECONDS, abs=0.07)


def test_pictures_beside_the_audio_are_passed_over(tmp_path: Path) -> None:
    plain = load_waveform(str(made(tmp_path, "a.mp4")), 16000, LIMIT).samples
    assert load_waveform(str(made(tmp_path, "a.mp4", video=True)), 16000, LIMIT).samples.equal(
        plain
    )


def test_channels_are_mixed_or_picked(tmp_path: Path) -> None:
    left, right = speech(16000), np.roll(speech(16000), 5000)
    path = str(
        write_container(tmp_path / "s.mka", np.stack([left, right], 1), 16000, "flac", "matroska")
    )
    for channel, expected in ((0, left), (1, right), (None, (left + right) / 2)):
        got = load_waveform(path, 16000, LIMIT, Segment(channel=channel)).samples.numpy()
        np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["a.m4a", "a.mp4", "a.webm", "aac.mka", "a.wma", "flac.mka"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.8])
def test_a_container_that_is_cut_short_is_a_reject(name: str, kept: float, tmp_path: Path) -> None:
    whole = made(tmp_path, name).read_bytes()
    with pytest.raises(AudioError, match=r"truncated|undecodable"):
        load_waveform(whole[: int(kept * len(whole))], 16000, LIMIT)


def test_a_film_that_is_cut_short_is_a_reject(tmp_path: Path) -> None:
    rate = 16000
    path = write_container(tmp_path / "v.mkv", speech(rate), rate, "aac", "matroska", video=True)
    assert load_waveform(str(path), rate, LIMIT).kept_seconds == pytest.approx(SECONDS, abs=0.13)
    with pytest.raises(AudioError, match=r"truncated: .* bytes are missing"):
        load_waveform(path.read_bytes()[:-5000], rate, LIMIT)


@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.wma", "a.amr", "a.aac", "a.ts"])
def test_damage_is_a_reject_or_passes(name: str, tmp_path: Path) -> None:
    whole = made(tmp_path, name).read_bytes()
    draw = np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(whole)
        reach = len(whole) if draw.random() < 0.5 else 600
        for at in draw.integers(0, reach, size=draw.integers(1, 20)):
            damaged[at] = draw.integers(256)
        with suppress(AudioError):
            assert load_waveform(bytes(damaged), 16000, LIMIT).samples.isfinite().all()


def with_number(data: bytes, box: bytes, offset: int, number: int) -> bytes:
    """An MP4 with another number of 32 bits at an offset in the content of a box."""
    at = data.index(box) + len(box) + offset
    return data[:at] + number.to_bytes(4, "big") + data[at + 4 :]


def with_edits(data: bytes, count: int) -> bytes:
    """An MP4 whose one edit is there many times."""
    at = data.index(b"elst")
    entry = data[at + 12 : at + 24]
    for box in (b"moov", b"trak", b"edts", b"elst"):
        size = data.index(box) - 4
        longer = int.from_bytes(data[size : size + 4], "big") + len(entry) * (count - 1)
        data = data[:size] + longer.to_bytes(4, "big") + data[size + 4 :]
    return with_number(data, b"elst", 4, count).replace(entry, entry * count)


def test_an_index_that_no_memory_holds_is_not_made(tmp_path: Path) -> None:
    whole = made(tmp_path, "a.m4a").read_bytes()
    for box, offset in ((b"stsz", 8), (b"stts", 8)):
        with pytest.raises(AudioError, match=r"that states 1000000[0-9]+ samples"):
            load_waveform(with_number(whole, box, offset, 10**8), 16000, LIMIT)
    assert load_waveform(with_edits(whole, 2), 16000, LIMIT).kept_seconds > 1.9 * SECONDS
    with pytest.raises(AudioError, match="undecodable: a container with a list of 1000 edits"):
        load_waveform(with_edits(whole, 1000), 16000, LIMIT)
    nested = b"".join((8 * n).to_bytes(4, "big") + b"moov" for n in range(3000, 0, -1))
    with pytest.raises(AudioError, match="undecodable"):
        load_waveform(nested, 16000, LIMIT)


def test_lists_of_other_files_are_never_followed(tmp_path: Path) -> None:
    audio = made(tmp_path, "a.m4a")
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{audio}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{audio}'\n",
        f"<MPD><BaseURL>{audio}</BaseURL></MPD>",
    ):
        with pytest.raises(AudioError, match="undecodable"):
            load_waveform(text.encode(), 16000, LIMIT)


def test_a_film_without_sound_is_a_reject(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    with pytest.raises(AudioError, match="undecodable: a container without audio"):
        load_waveform(str(path), 16000, LIMIT)


def test_without_pyav_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path, "a.m4a")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r'undecodable: .*pip install "gmmpipe\[av\]"'):
        load_waveform(str(path), 16000, LIMIT)
    with pytest.raises(AudioError) as refused:
        load_waveform(b"no audio at all", 16000, LIMIT)
    assert "gmmpipe[av]" not in refused.value.detail


def test_the_summary_says_what_to_install(tmp_path: Path) -> None:
    made(tmp_path, "a.m4a")
    write_container(tmp_path / "b.wav", speech(16000), 16000, "pcm_s16le", "wav")
    (tmp_path / "m.jsonl").write_text('{"wav_path": "a.m4a"}\n{"wav_path": "b.wav"}\n')
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "av.py").write_text("raise ImportError('none here')\n")
    where = os.pathsep.join([str(hidden), str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = ["featurize", "--data_dir", tmp_path / "m.jsonl", "--output_dir", tmp_path / "store"]
    command += ["--num_workers", "1", "--max_reject_fraction", "0.5"]
    done = run_gmmpipe(*command, env={**one_thread(), "PYTHONPATH": where})
    assert 'warning: 1 rejects may be read with: pip install "gmmpipe[av]"' in done.stderr
    again = run_gmmpipe(*command, "--retry_rejected")
    assert "rejects" not in again.stderr.split("featurizing")[-1]
