"""A waveform as a FLAC file, as exactly as FLAC can hold it (``--store_audio flac``)."""

import math
from io import BytesIO

import numpy as np
import soundfile

from gmmpipe.audio.waveform import Waveform


def encode_flac(waveform: Waveform, sample_rate: int) -> tuple[bytes, float]:
    """A FLAC file, and the power of two by which its samples must be multiplied.

    A waveform of a 16-bit source keeps that source's samples. Any other is divided by the smallest
    power of two, at least 1, that prevents clipping, and stored with 24 bits.
    """
    samples = waveform.samples.numpy()
    if waveform.is_source_int16:
        return _flac((samples * 2.0**15).astype(np.int16), sample_rate, "PCM_16"), 1.0
    peak = float(np.abs(samples).max(initial=0.0))
    # 24 bits reach from -1 to 1 - 2^-23: a peak of 1 must be halved, less than that need not be.
    scale = 2.0 ** max(0, math.ceil(math.log2(max(peak, 0.5) / (1 - 2.0**-23))))
    # The upper 24 of 32 bits are what libsndfile keeps.
    wide = np.rint(samples.astype(np.float64) / scale * 2.0**23).astype(np.int32) << 8
    return _flac(wide, sample_rate, "PCM_24"), scale


def _flac(samples: np.ndarray, sample_rate: int, subtype: str) -> bytes:
    buffer = BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype=subtype)
    return buffer.getvalue()
