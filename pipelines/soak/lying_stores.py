"""Stores, plans and labels whose documents say what cannot be, with checksums that agree."""

import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.soak.case import CASES, Case, case
from pipelines.soak.child import Job, command
from pipelines.soak.readers import batches, label_batches, read_labels, utterances
from pipelines.soak.stage import Stage


def forge(path: Path, **changes: Any) -> None:
    """Change a document's values (dotted names) and give it the checksum that belongs to them."""
    from gmmpipe.store.documents import write_document

    document = json.loads(path.read_bytes())
    for name, value in changes.items():
        *parents, last = name.split("__")
        holder = document
        for parent in parents:
            holder = holder[int(parent) if parent.isdigit() else parent]
        holder[int(last) if last.isdigit() else last] = value
    document.pop("checksum", None)
    write_document(path, document)


def _store(stage: Stage, scratch: Path, kind: str = "tar") -> Path:
    return Path(shutil.copytree(stage.folder / kind, scratch / kind.split()[0]))


def _forged_features(stage: Stage, scratch: Path, **values: Any) -> tuple[Path, Job]:
    """A store whose frames are said to be others, fingerprint included."""
    from gmmpipe.files import canonical_json

    folder = _store(stage, scratch)
    path = folder / "store.json"
    features = {**json.loads(path.read_bytes())["features"], **values}
    fingerprint = hashlib.sha256(canonical_json(features).encode()).hexdigest()
    forge(path, features=features, fingerprint=fingerprint)
    return path, utterances(stage, folder, path, scratch)


@case
def store_of_a_window_of_a_billion_samples(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    return _forged_features(stage, scratch, n_fft=10**9)


@case
def store_of_a_billion_mel_bins(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    return _forged_features(stage, scratch, n_mels=10**9)


@case
def store_whose_shard_has_a_trillion_frames(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder = _store(stage, scratch)
    forge(folder / "store.json", shards__0__frames=10**12, totals__frames=10**12)
    return folder / "store.json", command("evaluate", folder, "--gmm_path", stage.model)


@case
def store_with_negative_counts(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder = _store(stage, scratch)
    forge(folder / "store.json", shards__0__frames=-5)
    return folder / "store.json", command("evaluate", folder, "--gmm_path", stage.model)


@case
def store_whose_shard_lies_elsewhere(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder = _store(stage, scratch)
    forge(folder / "store.json", shards__0__name="../../tar/shard-000000.tar")
    return folder / "store.json", utterances(stage, folder, folder, scratch)


def _with_sidecar(stage: Stage, scratch: Path, **changes: Any) -> tuple[Path, Path]:
    folder = _store(stage, scratch, "tar begun")
    path = folder / "shard-000000.json"
    forge(path, **changes)
    return folder, path


@case
def sidecar_of_a_trillion_frames(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder, path = _with_sidecar(stage, scratch, index__num_frames__0=10**12)
    return path, command(*stage.featurize(folder))


@case
def sidecar_with_a_negative_place(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder, path = _with_sidecar(stage, scratch, index__byte_offset__0=-(10**12))
    return path, command(*stage.featurize(folder))


@case
def sidecar_with_an_integer_beyond_64_bits(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder, path = _with_sidecar(stage, scratch, index__num_frames__0=10**40)
    return path, command(*stage.featurize(folder))


def _replaced(stage: Stage, scratch: Path, name: str, data: bytes) -> tuple[Path, Path]:
    folder = _store(stage, scratch)
    (folder / name).write_bytes(data)
    return folder, folder / name


@case
def store_json_nested_without_end(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder, path = _replaced(stage, scratch, "store.json", b"[" * 200_000)
    return path, command("inspect", folder)


@case
def store_json_with_a_number_of_a_million_digits(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder, path = _replaced(
        stage, scratch, "store.json", b'{"format_version":' + b"9" * 10**6 + b"}"
    )
    return path, command("inspect", folder)


@case
def sidecar_nested_without_end(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder, path = _replaced(stage, scratch, "shard-000001.json", b'{"a":' * 100_000)
    return path, utterances(stage, folder, path, scratch)


@case
def sidecar_of_a_terabyte_of_nothing(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder, path = _replaced(stage, scratch, "shard-000001.json", b"{}")
    os.truncate(path, 1 << 40)  # a hole: it takes no room
    return path, utterances(stage, folder, path, scratch)


@case
def zarr_array_of_a_quadrillion_frames(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder = _store(stage, scratch, "zarr")
    path = folder / "shard-000000.zarr" / "json" / "zarr.json"
    document = json.loads(path.read_bytes())
    document["shape"] = [10**15]
    path.write_text(json.dumps(document))
    return folder / "shard-000000.zarr", command("verify", folder)


@case
def tar_member_of_eight_terabytes(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder = _store(stage, scratch)
    path = folder / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    member = tarfile.TarInfo.frombuf(bytes(data[:512]), "utf-8", "strict")
    member.size = 8 << 40
    data[:512] = member.tobuf(tarfile.GNU_FORMAT)[:512]
    path.write_bytes(data)
    return path, batches(stage, folder, path, scratch)


def _plan(stage: Stage, scratch: Path, **arrays: Any) -> tuple[Path, Job]:
    folder = _store(stage, scratch, "tar begun")
    path = folder / "plan.npz"
    with np.load(path) as stored:
        values = {name: stored[name] for name in stored.files}
    np.savez(path, **{**values, **{n: change(values[n]) for n, change in arrays.items()}})
    return path, command(*stage.featurize(folder))


@case
def plan_whose_order_points_nowhere(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    return _plan(stage, scratch, order=lambda order: order + 10**9)


@case
def plan_with_negative_places(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    return _plan(stage, scratch, byte_offset=lambda offset: offset - 10**6)


@case
def plan_that_names_a_line_twice(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    return _plan(stage, scratch, order=lambda order: order * 0)


@case
def plan_of_a_trillion_lines(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder = _store(stage, scratch, "tar begun")
    path = folder / "plan.npz"
    with zipfile.ZipFile(path) as stored:
        members = {name: stored.read(name) for name in stored.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)}
    )
    members["order.npy"] = header.getvalue()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path, command(*stage.featurize(folder))


@case
def labels_of_a_trillion_components(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder = _store(stage, scratch, "labels")
    forge(folder / "store.json", K=10**12)
    return folder / "store.json", label_batches(stage, folder, folder, scratch)


@case
def labels_of_a_billion_a_frame(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder = _store(stage, scratch, "labels")
    forge(folder / "store.json", top_k=10**9)
    return folder / "store.json", read_labels(stage, folder, folder, scratch)


@case
def labels_of_fewer_shards(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder = _store(stage, scratch, "labels")
    forge(folder / "store.json", shards=[])
    return folder / "store.json", label_batches(stage, folder, folder, scratch)


@case
def store_that_is_a_pipe(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    folder = _store(stage, scratch)
    (folder / "store.json").unlink()
    os.mkfifo(folder / "store.json")
    return folder / "store.json", command(
        "label", folder, "--gmm_path", stage.model, "--output_dir", scratch / "out"
    )


def planted(value: float) -> Case:
    """A store that holds a value which is not finite, with the right checksums throughout."""

    def make(stage: Stage, scratch: Path) -> tuple[Path, Job]:
        from gmmpipe.store.read_ranges import crc32c

        folder = _store(stage, scratch)
        path = folder / "shard-000000.tar"
        sidecar = folder / "shard-000000.json"
        index = json.loads(sidecar.read_bytes())["index"]
        data = bytearray(path.read_bytes())
        begin = index["byte_offset"][1]
        end = begin + index["num_frames"][1] * 80 * 2
        data[begin : begin + 2] = np.float16(value).tobytes()
        path.write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        crc = crc32c(np.frombuffer(bytes(data[begin:end]), dtype=np.uint8))
        forge(sidecar, sha256=sha256, index__crc32c__1=crc)
        digest = {"shards__0__sha256": sha256}
        row = json.loads((folder / "store.json").read_bytes())["shards"][0]
        for name in row:
            if "sidecar" in name:
                digest[f"shards__0__{name}"] = hashlib.sha256(sidecar.read_bytes()).hexdigest()
        forge(folder / "store.json", **digest)
        if np.isnan(value):
            return path, command("evaluate", folder, "--gmm_path", stage.model)
        return path, command(*stage.fit(scratch / "out", store=folder))

    return make


CASES["NaN among the frames"] = planted(float("nan"))
CASES["infinity among the frames"] = planted(float("inf"))
