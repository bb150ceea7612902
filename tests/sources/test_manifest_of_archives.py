"""``gmmpipe manifest --output`` of archives: a plain manifest of the same utterances."""

import json
from pathlib import Path

import numpy as np
import pytest

from gmmpipe import FeatureStore
from gmmpipe.sources.find import find_sources
from gmmpipe.sources.survey import survey
from helpers.kinds.archives import MAKERS
from helpers.making import make_store
from helpers.results import read_json_lines


def frames_of(data_dir: object, folder: Path) -> dict[str, np.ndarray]:
    store = FeatureStore.open(make_store(data_dir, folder))
    return {u.key: u.features.numpy() for u in store.utterances()}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("has_places", [True, False])
def test_it_gives_the_same_frames(tmp_path: Path, kind: str, has_places: bool) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    made = MAKERS[kind](tmp_path / "in")
    output = tmp_path / "out" / "m.jsonl"
    survey(find_sources(made.data_dir), output=output)
    lines = read_json_lines(output)
    assert all("#" in line["wav_path"] and "archive_range" in line for line in lines)
    if not has_places:
        for line in lines:
            del line["archive_range"]
        output.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = frames_of(output, tmp_path / "found")
    expected = frames_of(made.data_dir, tmp_path / "expected")
    assert found.keys() == expected.keys()
    for key, frames in expected.items():
        np.testing.assert_array_equal(found[key], frames)
