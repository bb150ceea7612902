"""Mel-frequency cepstral coefficients of a waveform, with their deltas."""

from collections.abc import Sequence

import torch
import torchaudio
from torch import Tensor

from gmmpipe.features.mel_energies import MelEnergies
from gmmpipe.features.mfcc_spec import DELTA_WINDOW, SMALLEST_ENERGY, TOP_DB, MfccSpec


class Mfcc(MelEnergies):
    """``MFCC(x)``, its deltas below it, the first ⌊S / hop⌋ frames, with the frame axis first.

    The result is that of ``torchaudio.transforms.MFCC(sample_rate, n_mfcc, log_mels=False,
    melkwargs={n_fft, hop_length, n_mels})`` of each waveform alone, followed by
    ``torchaudio.functional.compute_deltas`` of it, of that, and so on. The frames beyond ⌊S / hop⌋
    are computed and then left out: the loudest bin and the last deltas depend on them.

    Args:
        config: the parameters of the frames.
    """

    config: MfccSpec
    dct: Tensor

    def __init__(self, config: MfccSpec) -> None:
        super().__init__(config)
        dct = torchaudio.functional.create_dct(config.n_mfcc, config.n_mels, norm="ortho")
        self.register_buffer("dct", dct.to(torch.float32))

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """MFCC frames of one waveform.

        Args:
            waveform: float32 [S] at ``config.sample_rate``. A shorter one must not be padded: its
                frames would differ.

        Returns:
            float32 [S // hop_length, D].

        Raises:
            ValueError: S is below ``config.min_samples``.
        """
        return self.frames_of([waveform])[0]

    @torch.no_grad()
    def frames_of(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """What `forward` gives for each of several waveforms [S] of any lengths, in less time.

        Windows are cut from each waveform alone and transformed all at once; the floor below the
        loudest bin and the deltas are those of each waveform alone. Nothing is padded.

        Returns:
            float32 [S // hop_length, D] for each.

        Raises:
            ValueError: one is shorter than ``config.min_samples``.
        """
        for waveform in waveforms:
            self.check_length(len(waveform))
        counts = [self._all_frames(len(waveform)) for waveform in waveforms]
        windows = self.new_windows(sum(counts), waveforms[0])
        for waveform, own in zip(waveforms, torch.split(windows, counts), strict=True):
            self.cut(waveform[None], own[None])
        decibels = self.energies(windows).clamp_(min=SMALLEST_ENERGY).log10_().mul_(10.0)
        for own in torch.split(decibels, counts):
            torch.maximum(own, own.max() - TOP_DB, out=own)
        with torch.autocast(windows.device.type, enabled=False):
            cepstra = torch.mm(decibels, self.dct)
        return [
            self._with_deltas(own)[: self.config.num_frames(len(waveform))]
            for waveform, own in zip(waveforms, torch.split(cepstra, counts), strict=True)
        ]

    def _all_frames(self, num_samples: int) -> int:
        """How many windows fit into the samples and the half window mirrored at either end."""
        n_fft = self.config.n_fft
        return 1 + (num_samples + n_fft // 2 * 2 - n_fft) // self.config.hop_length

    def _with_deltas(self, frames: Tensor) -> Tensor:
        """Frames [T, n_mfcc] of one waveform, and every order of their deltas: [T, D]."""
        orders = [frames]
        for _ in range(self.config.deltas):
            orders.append(deltas_of(orders[-1]))
        return torch.cat(orders, dim=1)


def deltas_of(frames: Tensor) -> Tensor:
    """``torchaudio.functional.compute_deltas`` of frames [T, C], with the frame axis first.

    The slope of the least-squares line through the 5 frames around each one,
    Σ_n n·(x[t+n] − x[t−n]) / (2·Σ_n n²) over n = 1, 2; the first and the last frame are repeated
    beyond either end (The HTK Book, "Delta, Acceleration and Third Differential Coefficients").
    """
    reach = DELTA_WINDOW // 2
    first, last = frames[:1].expand(reach, -1), frames[-1:].expand(reach, -1)
    padded = torch.cat([first, frames, last])
    slopes = torch.zeros_like(frames)
    for step in range(1, reach + 1):
        later, earlier = padded[reach + step :], padded[reach - step :]
        slopes.add_(later[: len(frames)], alpha=step).sub_(earlier[: len(frames)], alpha=step)
    return slopes.div_(2 * sum(step * step for step in range(1, reach + 1)))
