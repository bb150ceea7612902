"""Parquet files as Hugging Face's datasets are stored: the makers of each form."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from helpers.kinds.made import Made, corpus_lines, write_manifest

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    """Rows with a column ``audio``, with the metadata that Hugging Face's readers go by."""
    kinds = {name: _kind(rows, name) for name in rows[0]}
    feature = {"sampling_rate": 16000, "_type": "Audio"}
    features = {
        name: feature if kind == AUDIO else {"dtype": str(kind), "_type": "Value"}
        for name, kind in kinds.items()
    }
    schema = pa.schema(list(kinds.items())).with_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), path, **options)
    return path


def one_file(folder: Path) -> Made:
    """A file of several row groups."""
    lines = corpus_lines()
    path = write_parquet(folder / "train.parquet", [_row(line) for line in lines], row_group_size=5)
    return Made(str(path), write_manifest(folder / "loose.jsonl", lines))


def a_dataset(folder: Path) -> Made:
    """A dataset's folder: files below ``data``, and a card."""
    lines = corpus_lines()
    (folder / "set" / "data").mkdir(parents=True)
    (folder / "set" / "README.md").write_text("A card.\n")
    for number in range(2):
        rows = [_row(line) for line in lines[number * 6 : number * 6 + 6]]
        name = f"train-{number:05d}-of-00002.parquet"
        write_parquet(folder / "set" / "data" / name, rows)
    return Made(str(folder / "set"), write_manifest(folder / "loose.jsonl", lines))


def _row(line: dict[str, Any]) -> dict[str, Any]:
    audio = Path(line["wav_path"])
    return {
        "id": line["id"],
        "audio": {"bytes": audio.read_bytes(), "path": audio.name},
        "text": f"text of {line['id']}",
    }


def _kind(rows: list[dict[str, Any]], name: str) -> pa.DataType:
    return AUDIO if name == "audio" else pa.infer_type([row[name] for row in rows])


MAKERS = {"parquet": one_file, "folder of parquet": a_dataset}
