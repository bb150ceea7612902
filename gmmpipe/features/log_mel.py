"""Log-mel frames of a waveform."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gmmpipe.features.log_mel_spec import LOG_OFFSET, LogMelSpec
from gmmpipe.features.mel_energies import MelEnergies


class LogMel(MelEnergies):
    """``log(MelSpectrogram(x) + 1e-6)``, the first ⌊S / hop⌋ frames, with the frame axis first.

    The result is that of ``torchaudio.transforms.MelSpectrogram(sample_rate, n_fft,
    hop_length=hop, n_mels=n_mels)`` within 1e-5 after the logarithm. The frames that the
    spectrogram has beyond ⌊S / hop⌋ are not computed.

    Args:
        config: the parameters of the frames.
    """

    config: LogMelSpec

    def __init__(self, config: LogMelSpec) -> None:
        super().__init__(config)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Log-mel frames of one waveform, or of several of equal length.

        Args:
            waveform: float32 [..., S] at ``config.sample_rate``. A shorter one must not be
                padded: the frames at its end would differ.

        Returns:
            float32 [..., S // hop_length, n_mels].

        Raises:
            ValueError: S is below ``config.min_samples``.
        """
        samples = waveform.reshape(-1, waveform.shape[-1])
        windows = self.new_windows(len(samples) * self._num_frames(samples), samples)
        self.cut(samples, windows.view(len(samples), -1, self.config.n_fft))
        return self._log_mel(windows).reshape(*waveform.shape[:-1], -1, self.config.n_mels)

    @torch.no_grad()
    def frames_of(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """What `forward` gives for each of several waveforms [S] of any lengths, in less time.

        Windows are cut from each waveform alone and transformed all at once. Nothing is padded.

        Returns:
            float32 [S // hop_length, n_mels] for each.

        Raises:
            ValueError: one is shorter than ``config.min_samples``.
        """
        counts = [self._num_frames(waveform) for waveform in waveforms]
        windows = self.new_windows(sum(counts), waveforms[0])
        for waveform, own in zip(waveforms, torch.split(windows, counts), strict=True):
            self.cut(waveform[None], own[None])
        return list(torch.split(self._log_mel(windows), counts))

    def _num_frames(self, samples: Tensor) -> int:
        self.check_length(samples.shape[-1])
        return self.config.num_frames(samples.shape[-1])

    def _log_mel(self, windows: Tensor) -> Tensor:
        """Log-mel energies [T, n_mels] of windowed samples [T, n_fft]."""
        return self.energies(windows).add_(LOG_OFFSET).log_()
