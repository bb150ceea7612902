"""Mel energies of waveforms: what log-mels and MFCCs are made of."""

import torch
import torchaudio
from torch import Tensor, nn

from gmmpipe.features.mel_spec import MelSpec

BAND_FILTERS = 16


class MelEnergies(nn.Module):
    """Windows of a waveform, and their energies in mel bins.

    The energies are those of ``torchaudio.transforms.MelSpectrogram(sample_rate, n_fft,
    hop_length=hop, n_mels=n_mels)``, in two thirds of its time.
    The power spectrum is never formed: the squared real and imaginary parts, interleaved as the
    FFT leaves them, are multiplied by a mel matrix that has each row twice, which adds them up. A
    mel filter covers few bins, so 16 filters at a time are multiplied with only their bins.

    Args:
        config: the parameters of the energies.
    """

    window: Tensor

    def __init__(self, config: MelSpec) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.hann_window(config.n_fft, dtype=torch.float32))
        filters = torchaudio.functional.melscale_fbanks(
            n_freqs=config.n_fft // 2 + 1,
            f_min=0.0,
            f_max=config.f_max,
            n_mels=config.n_mels,
            sample_rate=config.sample_rate,
        )
        self._parts_used: list[tuple[int, int]] = []  # of each band: the first, and how many
        for band in filters.to(torch.float32).repeat_interleave(2, dim=0).split(BAND_FILTERS, 1):
            used = band.any(1).nonzero()[:, 0]
            first, last = int(used[0]), int(used[-1])
            weights = band[first : last + 1].contiguous()
            self.register_buffer(f"mel_band_{len(self._parts_used)}", weights)
            self._parts_used.append((first, len(weights)))

    def check_length(self, num_samples: int) -> None:
        """Raise ValueError where so few samples give no frame."""
        if num_samples < self.config.min_samples:
            raise ValueError(
                f"{num_samples} samples give no frame; {self.config.min_samples} would"
            )

    def new_windows(self, num_frames: int, like: Tensor) -> Tensor:
        """Room for the windowed samples of so many frames, [num_frames, n_fft]."""
        return torch.empty(num_frames, self.config.n_fft, device=like.device, dtype=torch.float32)

    def cut(self, samples: Tensor, out: Tensor) -> None:
        """The windowed samples of each frame of waveforms [n, S], to `out` [n, T, n_fft]."""
        config = self.config
        half = config.n_fft // 2  # mirrored at either end, so that frames are centred
        left, right = samples[:, 1 : half + 1], samples[:, -half - 1 : -1]
        padded = torch.cat([left.flip(1), samples, right.flip(1)], dim=1)
        frames = padded.unfold(1, config.n_fft, config.hop_length)[:, : out.shape[1]]
        torch.mul(frames, self.window, out=out)

    def energies(self, windows: Tensor) -> Tensor:
        """Mel energies [T, n_mels] of windowed samples [T, n_fft]."""
        parts = torch.view_as_real(torch.fft.rfft(windows)).flatten(1).square_()
        mel = parts.new_empty(len(parts), self.config.n_mels)
        with torch.autocast(windows.device.type, enabled=False):
            for number, (first, count) in enumerate(self._parts_used):
                weights = getattr(self, f"mel_band_{number}")
                band = mel.narrow(1, number * BAND_FILTERS, weights.shape[1])
                torch.mm(parts.narrow(1, first, count), weights, out=band)
        return mel
