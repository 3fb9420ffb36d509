"""Cepstral coefficients, link by link, and the reader of clips."""

import io
import math
import tarfile
import wave

import numpy as np
import pytest
import scipy.fft
import torch
from data_files import put, script
from torch.testing import assert_close

from tsdyn.data.audio import (
    cosines,
    decibels,
    hertz,
    mel,
    mel_filters,
    mfcc,
    power,
    read_wav,
)
from tsdyn.data.files import SPEECH_COMMANDS
from tsdyn.data.load import load_dataset
from tsdyn.errors import DataError


def sound(samples, rate=16_000, channels=1, width=2):
    """The bytes of a .wav file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((channels, width, rate, 0, "NONE", ""))
        out.writeframes(np.asarray(samples, dtype=f"<i{width}").tobytes())
    return file.getvalue()


def noise(n, *shape):
    return torch.randn(*shape, n, dtype=torch.float64)


def corners_of(filters):
    """Even on the mel scale from 0 to 8000 Hz: (filters + 2,) in Hz."""
    top = mel(torch.tensor(8000.0, dtype=torch.float64)).item()
    return hertz(torch.linspace(0, top, filters + 2, dtype=torch.float64))


class TestReadWav:
    def test_samples_are_parts_of_full_scale(self, tmp_path):
        path = put(tmp_path, "a.wav", sound([0, 1, -32768, 32767]))
        wanted = torch.tensor([0.0, 1 / 32768, -1.0, 32767 / 32768])
        assert_close(read_wav(path), wanted)
        assert_close(read_wav(io.BytesIO(path.read_bytes())), wanted)

    @pytest.mark.parametrize(
        "data, said",
        [
            (sound([0], rate=8000), "1 channels of 16 bits at 8000 Hz"),
            (sound([0, 0], channels=2), "2 channels"),
            (sound([0], width=4), "32 bits"),
            (b"RIFF", "cannot be read"),
            (b"not a sound at all", "cannot be read"),
        ],
    )
    def test_another_kind_of_sound_is_refused(self, tmp_path, data, said):
        with pytest.raises(DataError, match=f"TSD-D14.*a.wav.*{said}"):
            read_wav(put(tmp_path, "a.wav", data))


class TestPower:
    def test_against_the_sum_by_hand(self):
        """|sum_n w_n x_n exp(-2 pi i k n / N)|^2 of one frame inside the clip."""
        x, k = noise(1000), 7
        n = torch.arange(200, dtype=torch.float64)
        window = 0.5 - 0.5 * (2 * math.pi * n / 200).cos()
        frame = window * x[400:600]  # frame 5 is centred at sample 500
        angle = 2 * math.pi * k * n / 200
        wanted = (frame * angle.cos()).sum() ** 2 + (frame * angle.sin()).sum() ** 2
        assert_close(power(x)[5, k], wanted)

    def test_parseval(self):
        """The two-sided sum of |X|^2 is n_fft times the energy of the windowed frame."""
        x = noise(1000, 3)
        window = torch.hann_window(200, dtype=torch.float64)
        energy = (x[:, 400:600] * window).square().sum(-1)
        sides = torch.full((101,), 2.0, dtype=torch.float64)
        sides[[0, 100]] = 1.0
        assert_close((power(x)[:, 5] * sides).sum(-1), 200 * energy)

    def test_shapes_and_mirrored_ends(self):
        x = noise(16_000, 2, 3)
        assert power(x).shape == (2, 3, 161, 101)
        mirrored = torch.cat([x[..., 1:101].flip(-1), x], -1)
        assert_close(power(x)[..., 0, :], power(mirrored)[..., 1, :])


class TestMelFilters:
    def test_the_scale(self):
        assert_close(mel(torch.tensor(0.0)), torch.tensor(0.0))
        assert_close(mel(torch.tensor(6300.0).double()), torch.tensor(2595.0).double())
        f = torch.linspace(0, 8000, 50, dtype=torch.float64)
        assert_close(hertz(mel(f)), f)

    def test_triangles_add_up_to_one_between_the_outer_centres(self):
        corners = corners_of(40)
        f = torch.linspace(corners[1].item(), corners[-2].item(), 997, dtype=torch.float64)
        bank = mel_filters(f, 40, 8000.0)
        assert_close(bank.sum(1), torch.ones(997, dtype=torch.float64))
        assert (bank >= 0).all() and (bank > 0).sum(1).max() <= 2  # only neighbours overlap

    def test_height_one_at_its_centre_and_nothing_at_the_others(self):
        corners = corners_of(40)
        bank = mel_filters(corners[1:-1], 40, 8000.0)
        assert_close(bank, torch.eye(40, dtype=torch.float64), rtol=0, atol=1e-6)

    def test_narrow_triangles_may_be_empty(self):
        bank = mel_filters(torch.linspace(0, 8000, 101), 128, 8000.0)
        assert bank.shape == (101, 128) and (bank.sum(0) == 0).any()
        assert (bank.sum(0) > 0).sum() > 64

    @pytest.mark.parametrize("tone", [400.0, 1000.0, 3000.0, 6500.0])
    def test_a_pure_tone_peaks_in_its_band(self, tone):
        x = (2 * math.pi * tone * torch.arange(16_000, dtype=torch.float64) / 16_000).sin()
        bank = mel_filters(torch.linspace(0, 8000, 101, dtype=torch.float64), 40, 8000.0)
        loudest = (power(x) @ bank).argmax(-1)[1:-1]  # a mirrored tone is none
        corners = corners_of(40)
        assert (corners[loudest] < tone).all() and (tone < corners[loudest + 2]).all()


class TestCepstrum:
    def test_cosines_are_orthonormal(self):
        full = cosines(128, 128)
        assert_close(full.mT @ full, torch.eye(128, dtype=torch.float64))
        assert_close(cosines(128, 20), full[:, :20])

    def test_cosines_against_scipy(self):
        x = noise(40, 5)
        wanted = scipy.fft.dct(x.numpy(), type=2, norm="ortho")[:, :20]
        assert_close(x @ cosines(40, 20), torch.from_numpy(wanted))

    def test_decibels_and_their_floor(self):
        energy = torch.tensor([[[1.0, 10.0], [1e-20, 1e-6]], [[1e-20, 0.0], [0.0, 0.0]]])
        wanted = torch.tensor([[[0.0, 10.0], [-70.0, -60.0]], [[-100.0, -100], [-100, -100]]])
        assert_close(decibels(energy), wanted)

    def test_against_torchaudio(self):
        """A fading chirp. Numbers of torchaudio 2.11, whose constants are in single precision."""
        t = torch.arange(16_000, dtype=torch.float64) / 16_000
        found = mfcc(0.5 * (2 * math.pi * (200 * t + 1500 * t**2)).sin() * (-2 * t).exp())
        wanted = {
            0: [-263.8819, 32.0588, -45.4324, -18.7435, -12.9464],
            40: [-519.6066, 52.5347, -52.3183, -93.8306, 0.8298],
            120: [-545.4585, -21.0265, -58.0360, 53.7576, -6.8007],
        }
        for row, values in wanted.items():
            numbers = torch.tensor(values, dtype=torch.float64)
            assert_close(found[row, [0, 1, 2, 3, 19]], numbers, rtol=0.0, atol=1e-3)

    def test_louder_moves_only_the_first_coefficient(self):
        """x -> a x adds 20 log10(a) dB to every filter: sqrt(128) times that to coefficient 0."""
        x = noise(16_000)
        moved = mfcc(10 * x) - mfcc(x)
        wanted = torch.zeros(161, 20, dtype=torch.float64)
        wanted[:, 0] = math.sqrt(128) * 20
        assert_close(moved, wanted)

    def test_a_batch_is_its_clips(self):
        x = noise(3200, 2)
        x[0] *= 100  # the floor belongs to each clip alone
        assert_close(mfcc(x)[1], mfcc(x[1]))
        assert mfcc(x.float()).dtype == torch.float32 and mfcc(x).shape == (2, 33, 20)


def test_speech_commands(tmp_path, places):
    """Two words of the ten, out of order; another word, noise and a short clip are left out."""
    prepare = script("speech_commands")
    generator = np.random.default_rng(0)
    files = {
        "./yes/b_nohash_0.wav": 16_000,
        "./go/c_nohash_1.wav": 16_000,
        "./yes/a_nohash_0.wav": 16_000,
        "./yes/short_nohash_0.wav": 15_999,
        "./bed/a_nohash_0.wav": 16_000,
        "./_background_noise_/pink.wav": 16_000,
        "./README.md": 10,
    }
    data = {name: sound(generator.integers(-9000, 9000, n)) for name, n in files.items()}
    with tarfile.open(tmp_path / "speech.tar.gz", "w:gz") as archive:
        for name, content in data.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    made = prepare.prepare(tmp_path / "speech.tar.gz", places[0] / SPEECH_COMMANDS.path)
    assert made.is_file()
    paths = load_dataset("speech_commands")
    assert paths.names.series == ("yes/a_nohash_0", "yes/b_nohash_0", "go/c_nohash_1")
    assert paths.labels.tolist() == [0, 0, 9] and paths.names.classes[9] == "go"
    assert paths.x.shape == (3, 161, 20) and paths.mask.all()
    assert_close(paths.t[0, [1, 160]], torch.tensor([1 / 160, 1.0]).double())
    clip = read_wav(io.BytesIO(data["./go/c_nohash_1.wav"]))
    assert_close(paths.x[2], mfcc(clip))
    assert paths.names.channels[-1] == "mfcc_19"


def test_an_archive_without_clips_or_of_another_content(tmp_path):
    prepare = script("speech_commands")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    with pytest.raises(DataError, match="TSD-D01"):
        prepare.prepare(tmp_path / "a.tar.gz", tmp_path / "out.npz")
    with pytest.raises(DataError, match="TSD-D14"):
        prepare.checked(tmp_path / "a.tar.gz")
