"""Containers that libsndfile cannot read, made by PyAV."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_BIT_RATES = {"wmav2": 64_000, "libopencore_amrnb": 12_200}
_BLOCK = 1024


def write_container(
    path: Path, samples: np.ndarray, rate: int, codec: str, form: str, *, video: bool = False
) -> Path:
    """Encode samples in [-1, 1), [S] or [S, channels], with a picture a second if `video`."""
    samples = samples.reshape(len(samples), -1)
    layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.codec_context.layout = layout
        if codec in _BIT_RATES:
            stream.codec_context.bit_rate = _BIT_RATES[codec]
        pictures = container.add_stream("mpeg4", rate=1) if video else None
        if pictures:
            pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        for start in range(0, len(samples), _BLOCK):
            if pictures and start // _BLOCK % (rate // _BLOCK) == 0:
                container.mux(pictures.encode(av.VideoFrame(64, 64, "yuv420p")))
            block = np.round(samples[start : start + _BLOCK] * 32768).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if pictures:
            container.mux(pictures.encode(None))
    return path
