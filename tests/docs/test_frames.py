"""The example of docs/frames.md runs, and does what the page says."""

import re
from pathlib import Path

import pytest

from gmmpipe import FeatureStore
from helpers.processes import ROOT

PAGE = (ROOT / "docs" / "frames.md").read_text(encoding="utf-8")


def test_the_example_writes_a_store_of_every_utterance(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
    (tmp_path / "store").symlink_to(store)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/frames.md", "exec"), {})
    log_mels, layer = FeatureStore.open("store"), FeatureStore.open("layer6")
    assert (len(layer), layer.num_frames, layer.dim) == (len(log_mels), log_mels.num_frames, 256)
    assert layer.features.kind == "external"
    paths = {utt.key: utt.metadata["wav_path"] for utt in log_mels.utterances()}
    assert {utt.key: utt.metadata["wav_path"] for utt in layer.utterances()} == paths
