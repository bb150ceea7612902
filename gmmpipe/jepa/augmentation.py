"""Noise and other speech on waveforms, as pure functions of seed, epoch and key."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmmpipe.errors import OptionError
from gmmpipe.randomness import normals, uniforms

LONGEST_MIX = 0.5
"""The largest share of an utterance that another one is mixed into, as in WavLM."""


@dataclass(frozen=True)
class Augmentation:
    """What is added to waveforms: a piece of another utterance, or white noise, or nothing.

    Mixing is that of WavLM (arXiv 2110.13900): a piece of at most half the utterance's length, from
    anywhere in another one to anywhere in this one. Defaults are those of the code released with
    arXiv 2602.09040: one utterance in four is mixed and another one in four gets noise. There the
    noise is a third utterance; here it is Gaussian and covers the whole utterance.

    A ratio in dB is 10 log10 of the mean squares of this utterance and of what is added, both over
    the samples where it is added, in float64. Where either is digital silence, nothing is added.
    Samples may lie beyond 1: nothing is clipped.

    Args:
        mix_prob: the share of utterances that another one is mixed into.
        mix_snr: the lowest and the highest ratio of this utterance to the other one, in dB.
        noise_prob: the share of utterances that get noise; with `mix_prob` at most 1.
        noise_snr: the lowest and the highest ratio of this utterance to the noise, in dB.

    Raises:
        OptionError: a value is not allowed.
    """

    mix_prob: float = 0.25
    mix_snr: tuple[float, float] = (-5.0, 5.0)
    noise_prob: float = 0.25
    noise_snr: tuple[float, float] = (-5.0, 20.0)

    def __post_init__(self) -> None:
        for name in ("mix_prob", "noise_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} is {getattr(self, name)}, but must be within 0 and 1")
        if self.mix_prob + self.noise_prob > 1:
            raise OptionError(
                f"mix_prob {self.mix_prob} and noise_prob {self.noise_prob} are together above 1"
            )
        for name in ("mix_snr", "noise_snr"):
            low, high = getattr(self, name)
            if not -_HIGHEST_SNR <= low <= high <= _HIGHEST_SNR:
                raise OptionError(
                    f"{name} is {low} to {high}, but must be a range within -{_HIGHEST_SNR} and "
                    f"{_HIGHEST_SNR} dB"
                )

    def draw(self, seed: int, epoch: int, key: str) -> "Draw":
        """What is drawn for an utterance; its waveform and its batch change nothing."""
        kind, ratio, *places = uniforms(6, "augmentation", seed, epoch, key).tolist()
        mixed, noisy = kind < self.mix_prob, kind < self.mix_prob + self.noise_prob
        low, high = self.mix_snr if mixed else self.noise_snr
        snr = low + ratio * (high - low)
        return Draw(mixed, noisy and not mixed, snr, (seed, epoch, key), *places)


_HIGHEST_SNR = 100
"""Far beyond what is of use: it keeps levels finite."""


@dataclass(frozen=True)
class Draw:
    """What is done to one utterance in one epoch.

    Args:
        mixed: whether a piece of another utterance is added.
        noisy: whether noise is.
        snr: the ratio of this utterance to what is added, in dB.
        purpose: seed, epoch and key.
        partner: which utterance, as a share of those of the shard, in [0, 1); so are the others.
        length: how long the piece is, of what it may be.
        start: where it is added, of where it may be.
        partner_start: where it is taken from.
    """

    mixed: bool
    noisy: bool
    snr: float
    purpose: tuple[int, int, str]
    partner: float
    length: float
    start: float
    partner_start: float

    def partner_of(self, position: int, num_utterances: int) -> int | None:
        """The position of the utterance to be mixed in, another one of the same shard.

        None where none is to be, or the shard has no other.

        Args:
            position: of this utterance in its shard.
            num_utterances: of the shard.
        """
        if not self.mixed or num_utterances < 2:
            return None
        other = int(self.partner * (num_utterances - 1))
        return other + (other >= position)

    def apply(self, wav: Tensor, partner: Tensor | None = None) -> Tensor:
        """The waveform with what was drawn.

        Args:
            wav: float32 [S].
            partner: that of the utterance at `partner_of`, float32 [any].

        Returns:
            float32 [S]; `wav` itself where nothing is added.
        """
        samples = wav.numpy().astype(np.float64)
        if self.noisy:
            start, added = 0, normals(len(samples), "noise", *self.purpose)
        elif partner is not None:
            start, added = self._piece(len(samples), partner.numpy().astype(np.float64))
        else:
            return wav
        here = samples[start : start + len(added)]
        gain = gain_for(here, added, self.snr)
        if gain is None:
            return wav
        here += gain * added
        return torch.from_numpy(samples.astype(np.float32))

    def _piece(
        self, num_samples: int, other: NDArray[np.float64]
    ) -> tuple[int, NDArray[np.float64]]:
        """Where the piece is added, and the piece, float64 [length], at least a sample long."""
        longest = max(1, min(int(num_samples * LONGEST_MIX), len(other)))
        length = 1 + int(self.length * longest)
        start = int(self.start * (num_samples - length + 1))
        begin = int(self.partner_start * (len(other) - length + 1))
        return start, other[begin : begin + length]


def gain_for(signal: NDArray[np.float64], added: NDArray[np.float64], snr: float) -> float | None:
    """What `added` is to be multiplied by for a ratio of `snr` dB; None where one is silent.

    Args:
        signal: float64 [n].
        added: float64 [n].
        snr: 10 log10 of the mean square of `signal` over that of what is added.
    """
    here, there = float(np.mean(np.square(signal))), float(np.mean(np.square(added)))
    if not here or not there:
        return None
    return math.sqrt(here / there) * 10 ** (-snr / 20)
