"""Sound -> mel-frequency cepstral coefficients.

    X = STFT(x),  m = filters' |X|^2,  c = DCT-II(10 log10 m)

Source: Davis and Mermelstein (1980), Comparison of parametric representations for monosyllabic word
recognition, IEEE Trans. ASSP 28(4), section II; the mel scale is that of HTK, 2595 log10(1 + f / 700).
"""

import math
import wave
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ..batch import Paths
from ..errors import DataError
from .files import SPEECH_COMMANDS, find
from .records import read_records


def read_wav(file: Path | IO[bytes], rate: int = 16_000) -> Tensor:
    """The samples (N,) of one channel of 16 bits, in [-1, 1).

    Raises:
        DataError: D14 for another kind of sound, or none.
    """
    name = str(file) if isinstance(file, Path) else "the sound"
    try:
        with wave.open(str(file) if isinstance(file, Path) else file) as sound:
            form = sound.getnchannels(), 8 * sound.getsampwidth(), sound.getframerate()
            raw = sound.readframes(sound.getnframes())
    except (wave.Error, EOFError) as error:
        raise DataError("D14", f"{name} cannot be read ({error})", "a .wav file", "") from None
    if form != (1, 16, rate):
        raise DataError(
            "D14",
            f"{name} has {form[0]} channels of {form[1]} bits at {form[2]} Hz",
            f"1 channel of 16 bits at {rate} Hz",
            "Convert it first",
        )
    return torch.from_numpy(np.frombuffer(raw, dtype="<i2").astype(np.float32)) / 2**15


def power(x: Tensor, n_fft: int = 200, hop: int = 100) -> Tensor:
    """|STFT|^2 under a periodic Hann window: (..., N) -> (..., 1 + N // hop, 1 + n_fft // 2).

    Frame k is centred at sample k hop; the ends are mirrored.
    """
    window = torch.hann_window(n_fft, dtype=x.dtype, device=x.device)
    flat = x.reshape(-1, x.shape[-1])
    spectrum = torch.stft(
        flat, n_fft, hop, window=window, center=True, pad_mode="reflect", return_complex=True
    )
    return spectrum.abs().square().mT.reshape(*x.shape[:-1], -1, n_fft // 2 + 1)


def mel(frequency: Tensor) -> Tensor:
    """2595 log10(1 + f / 700), f in Hz."""
    return 2595.0 * (1.0 + frequency / 700.0).log10()


def hertz(mels: Tensor) -> Tensor:
    """The inverse of `mel`."""
    return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)


def mel_filters(frequencies: Tensor, filters: int, top: float) -> Tensor:
    """Triangles of height 1 whose corners are even on the mel scale: (F,) in Hz -> (F, filters).

    Filter k rises from the centre of k - 1 to its own and falls to that of k + 1; the first begins at
    0 Hz and the last ends at `top`. A triangle narrower than the gaps between the frequencies may
    hold none of them: its column is 0.
    """
    highest = mel(torch.tensor(top, dtype=torch.float64)).item()
    corners = hertz(torch.linspace(0.0, highest, filters + 2, dtype=torch.float64))
    width = corners.diff()
    away = frequencies.double()[:, None] - corners  # (F, filters + 2)
    rising = away[:, :-2] / width[:-1]
    falling = -away[:, 2:] / width[1:]
    return torch.minimum(rising, falling).clamp(min=0.0).to(frequencies)


def decibels(energy: Tensor, span: float = 80.0) -> Tensor:
    """10 log10 of energy (..., T, M), at least 1e-10; nothing `span` below the loudest of its clip."""
    level = 10.0 * energy.clamp(min=1e-10).log10()
    return torch.maximum(level, level.amax((-2, -1), keepdim=True) - span)


def cosines(size: int, n: int) -> Tensor:
    """The first n columns of the orthonormal DCT-II: (size, n), in float64."""
    place = torch.arange(size, dtype=torch.float64)[:, None] + 0.5
    columns = (math.pi / size * place * torch.arange(n)).cos() * math.sqrt(2.0 / size)
    columns[:, 0] /= math.sqrt(2.0)
    return columns


def mfcc(
    x: Tensor,
    n: int = 20,
    rate: int = 16_000,
    n_fft: int = 200,
    hop: int = 100,
    filters: int = 128,
) -> Tensor:
    """Mel-frequency cepstral coefficients of clips: (..., N) -> (..., 1 + N // hop, n).

    Args:
        x: samples.
        n: number of coefficients.
        rate: samples per second.
        n_fft: samples of a frame.
        hop: samples from frame to frame.
        filters: number of mel filters.
    """
    frequencies = torch.linspace(0.0, rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    bank = mel_filters(frequencies, filters, rate / 2).to(x)
    return decibels(power(x, n_fft, hop) @ bank) @ cosines(filters, n).to(x)


def speech_commands() -> Paths:
    """Ten spoken words, one second each: 34,975 clips of 161 rows of 20 coefficients, time in seconds.

    `labels` numbers the words named in `names.classes`.
    """
    return read_records(find("speech_commands", SPEECH_COMMANDS))
