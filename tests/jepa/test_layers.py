"""An encoder's layer as frames: of our JEPA, of transformers' and of torchaudio's models."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from recipe import SCRIPT as TRAIN
from recipe import SMALL as SMALL_JEPA
from recipe import assert_same_run, train_here

from gmmpipe import FeatureStore
from gmmpipe.apply.label import LabelOptions, label
from gmmpipe.errors import CheckpointError, GmmpipeError, OptionError, StoreError
from gmmpipe.jepa import JEPABatches
from helpers.making import CORPUS, alone, fit_here, make_store
from helpers.processes import ROOT, Started, run, torchrun, wait_until
from pipelines.encoders.extraction import Extraction
from pipelines.encoders.hugging_face import HuggingFaceEncoder
from pipelines.encoders.options import LayerOptions
from pipelines.encoders.torchaudio_encoder import TorchaudioEncoder
from pipelines.jepa.checkpoint import load_jepa

pytest_plugins = ["recipe_fixtures"]
SCRIPT = str(ROOT / "pipelines" / "layers.py")
CPU = torch.device("cpu")
CONVOLUTIONS: dict[str, Any] = {
    "conv_dim": (8,) * 7,
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
}
SMALL: dict[str, Any] = {
    **CONVOLUTIONS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def extract_here(store: object, encoder: object, out: Path, **changes: Any) -> Path:
    options = {"device": "cpu", **changes}
    Extraction(LayerOptions(str(store), out, str(encoder), **options), alone()).run()
    return out


def contents(store: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in store.iterdir() if p.name != ".claim"}


@pytest.fixture(scope="module")
def jepa_path(uninterrupted: Path) -> Path:
    return uninterrupted / "jepa.pt"


def hugging_face(folder: Path, family: str, norm: str) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        **SMALL, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer"
    )
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    return folder


def waveforms() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, generator=generator) for n in (5000, 16000, 399, 9111)]


def test_a_jepas_last_layer_is_its_output(store: Path, jepa_path: Path, tmp_path: Path) -> None:
    jepa, target = load_jepa(jepa_path)
    for name, encoder in (("online", jepa.encoder), ("target", target)):
        out = extract_here(
            store, jepa_path, tmp_path / name, layer=2, target=name == "target", dtype="float32"
        )
        source, layer = FeatureStore.open(store), FeatureStore.open(out)
        assert layer.features.frame_rate == source.features.frame_rate
        assert layer.dim == 32
        pairs = zip(source.utterances(), layer.utterances(), strict=True)
        for here, there in pairs:
            keep = torch.ones(1, len(here.features), dtype=torch.bool)
            expected = encoder(here.features.T[None], keep).detach()
            torch.testing.assert_close(there.features, expected, atol=1e-4, rtol=0)
            assert there.metadata == here.metadata
    assert [shard.row.utterances for shard in layer.shards] == [
        shard.row.utterances for shard in source.shards
    ]


def test_without_a_layer_it_is_that_of_the_largest_effective_rank(
    store: Path, jepa_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = extract_here(store, jepa_path, tmp_path / "layer")
    table = [line.split("\t") for line in capsys.readouterr().out.splitlines()[1:]]
    ranks = {int(number): float(rank) for number, rank in table}
    assert [*ranks] == [0, 1, 2]
    description = FeatureStore.open(out).features.to_json()["description"]
    assert description["layer"] == max((1, 2), key=lambda n: ranks[n])


def test_two_ranks_make_the_bytes_of_one(store: Path, jepa_path: Path, tmp_path: Path) -> None:
    one = extract_here(store, jepa_path, tmp_path / "1", layer=1, batch_seconds=20.0)
    job = [SCRIPT, "--data_dir", store, "--encoder", jepa_path, "--layer", 1, "--device", "cpu"]
    job = [str(part) for part in [*job, "--batch_seconds", 20, "--output_dir", tmp_path / "2"]]
    run(torchrun(2, *job))
    assert contents(one) == contents(tmp_path / "2")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_a_signal_ended_is_finished_by_a_rerun(
    store: Path, jepa_path: Path, tmp_path: Path, start: Started, number: signal.Signals
) -> None:
    small: dict[str, Any] = {"layer": 1, "utterances_per_shard": 1, "batch_seconds": 0.1}
    whole = extract_here(store, jepa_path, tmp_path / "whole", **small)
    out = tmp_path / "out"
    options = {"encoder": jepa_path, "output_dir": out, "device": "cpu", **small}
    extra = [part for name, value in options.items() for part in (f"--{name}", value)]
    process = start([sys.executable, SCRIPT, "--data_dir", store, *extra])
    wait_until((out / "shard-000000.json").exists, process)
    process.send_signal(number)
    status, lines = start.end_of(process)
    if number == signal.SIGTERM:
        assert status == 143
        assert len([line for line in lines if "SIGTERM" in line]) == 1
        assert "Traceback" not in "".join(lines)
    assert not (out / "store.json").exists()
    extract_here(store, jepa_path, out, **small)
    assert contents(out) == contents(whole)


def test_sources_are_encoded_as_the_store_that_featurize_makes_of_them(
    jepa_path: Path, tmp_path: Path
) -> None:
    model = hugging_face(tmp_path / "model", "Hubert", "layer")
    manifest = tmp_path / "manifest.jsonl"
    lines = [json.loads(line) for line in (CORPUS / "manifest.jsonl").read_text().splitlines()]
    for line in lines[:20]:
        line["wav_path"] = str(CORPUS / line["wav_path"])
    broken = {"wav_path": str(tmp_path / "missing.wav")}
    manifest.write_text("".join(json.dumps(line) + "\n" for line in [*lines[:20], broken]))
    out = extract_here(manifest, model, tmp_path / "layer", layer=1)
    made = make_store(manifest, tmp_path / "made", store_audio="flac")
    assert contents(made) == contents(tmp_path / "layer_source")
    assert len((made / "rejects.jsonl").read_text().splitlines()) == 1
    assert contents(extract_here(made, model, tmp_path / "other", layer=1)) == contents(out)
    manifest.write_text("".join(json.dumps(line) + "\n" for line in [lines[0], broken]))
    with pytest.raises(GmmpipeError, match="max_reject_fraction"):
        extract_here(manifest, model, tmp_path / "few", layer=1)
    assert not (tmp_path / "few").exists()
    with pytest.raises(StoreError, match="the encoder hears a store's frames"):
        extract_here(manifest, jepa_path, tmp_path / "few")


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("family", ["Wav2Vec2", "Hubert", "WavLM"])
def test_a_batch_gives_what_each_waveform_gives_alone(
    family: str, norm: str, tmp_path: Path
) -> None:
    encoder = HuggingFaceEncoder(hugging_face(tmp_path / "model", family, norm), CPU)
    assert encoder.alone == (norm == "group")
    assert (encoder.dim, encoder.frame_rate, [*encoder.layers]) == (16, 50.0, [0, 1, 2])
    signals = waveforms()
    alone_each = [encoder.encode([signal])[0] for signal in signals]
    together = alone_each if encoder.alone else encoder.encode(signals)
    for waveform, one, other in zip(signals, alone_each, together, strict=True):
        expected = (len(waveform) - 400) // 320 + 1
        for mine, theirs in zip(one, other, strict=True):
            assert mine.shape == theirs.shape == (expected, 16)
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
    with torch.no_grad():
        states = encoder._model(signals[0][None], output_hidden_states=True).hidden_states
    for mine, theirs in zip(alone_each[0], states, strict=True):
        torch.testing.assert_close(mine, theirs[0])


def test_a_model_folder_makes_a_store(audio_stores: dict[str, Path], tmp_path: Path) -> None:
    model = hugging_face(tmp_path / "model", "Hubert", "layer")
    store = audio_stores["tar"]
    source = FeatureStore.open(store)
    layer = FeatureStore.open(extract_here(store, model, tmp_path / "out", layer=1))
    assert (layer.dim, layer.features.frame_rate) == (16, 50.0)
    for here, there in zip(source.utterances(), layer.utterances(), strict=True):
        assert there.key == here.key
        assert len(there.features) == (here.metadata["num_samples"] - 400) // 320 + 1
    assert layer.num_frames != source.num_frames
    labels = tmp_path / "labels"
    fit_here(tmp_path / "out", tmp_path / "fit")
    label(LabelOptions(str(tmp_path / "out"), tmp_path / "fit" / "gmm.pt", labels), alone())
    with pytest.raises(StoreError, match="with as many frames each"):
        JEPABatches(store, labels=labels, labels_of=tmp_path / "out")


def test_a_folder_without_its_weights_is_refused(tmp_path: Path) -> None:
    model = hugging_face(tmp_path / "model", "Hubert", "layer")
    from safetensors.torch import load_file, save_file

    state = load_file(model / "model.safetensors")
    removed = next(name for name in state if "encoder.layers.1" in name)
    del state[removed]
    save_file(state, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks weights"):
        HuggingFaceEncoder(model, CPU)
    with pytest.raises(CheckpointError, match="no usable model"):
        HuggingFaceEncoder(tmp_path, CPU)


def test_torchaudios_layer_is_what_extract_features_gives() -> None:
    torch.manual_seed(0)
    model = torchaudio.models.wav2vec2_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=[
            (8, kernel, stride)
            for kernel, stride in zip(
                CONVOLUTIONS["conv_kernel"], CONVOLUTIONS["conv_stride"], strict=True
            )
        ],
        extractor_conv_bias=False,
        encoder_embed_dim=16,
        encoder_projection_dropout=0.1,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=2,
        encoder_num_layers=2,
        encoder_num_heads=2,
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.1,
        encoder_dropout=0.1,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.1,
        aux_num_out=None,
    )
    encoder = TorchaudioEncoder(model, "small", 16_000, "", CPU)
    assert (encoder.dim, encoder.frame_rate, [*encoder.layers]) == (16, 50.0, [1, 2])
    for waveform, states in zip(waveforms(), encoder.encode(waveforms()), strict=True):
        assert len(states[0]) == (len(waveform) - 400) // 320 + 1
    with torch.no_grad():
        expected = model.extract_features(waveform[None])[0]
    for mine, theirs in zip(states, expected, strict=True):
        torch.testing.assert_close(mine, theirs[0])


def test_what_does_not_fit_is_refused(store: Path, jepa_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OptionError, match="within 0 and 2"):
        extract_here(store, jepa_path, out, layer=3)
    with pytest.raises(OptionError, match="no bundle NONE"):
        extract_here(store, "torchaudio:NONE", out)
    model = hugging_face(tmp_path / "model", "Hubert", "layer")
    with pytest.raises(StoreError, match="no audio"):
        extract_here(store, model, out)
    assert not out.exists()


def test_a_second_iteration_resumes_bit_by_bit(
    store: Path, jepa_path: Path, tmp_path: Path, start: Started
) -> None:
    """JEPA, its layer, a mixture of it, labels, and a JEPA that hears the first frames."""
    layer = extract_here(store, jepa_path, tmp_path / "layer", layer=1)
    fit_here(layer, tmp_path / "fit", var_floor="1%")
    labels = tmp_path / "labels"
    label(LabelOptions(str(layer), tmp_path / "fit" / "gmm.pt", labels, top_k=3), alone())
    changes = {"labels": str(labels), "labels_of": str(layer), "max_steps": 60, "save_every": 20}
    whole = train_here(store, None, tmp_path / "whole", **changes)
    out = tmp_path / "out"
    extra = [
        part for name, value in {**SMALL_JEPA, **changes}.items() for part in (f"--{name}", value)
    ]
    process = start([sys.executable, TRAIN, "--data_dir", store, "--output_dir", out, *extra])
    wait_until((out / "jepa_ckpt_20.pt").exists, process)
    process.kill()
    process.wait()
    train_here(store, None, out, resume="auto", **changes)
    assert_same_run(whole, out)
    with pytest.raises(StoreError, match="other feature stores"):
        train_here(store, None, tmp_path / "wrong", labels=str(labels))
    with pytest.raises(OptionError, match="either --gmm_path or --labels"):
        train_here(store, None, tmp_path / "wrong")
    other = tmp_path / "other"
    label(LabelOptions(str(layer), tmp_path / "fit" / "gmm.pt", other), alone())
    with pytest.raises(CheckpointError, match="labels_sha256"):
        train_here(store, None, out, resume="auto", **{**changes, "labels": str(other)})
