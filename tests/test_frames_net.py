"""Oracles: shapes, every frame by itself, gradients that reach everything, frames learnt by heart."""

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.testing import assert_close

from tsdyn.data.moving_digits import MovingDigits
from tsdyn.errors import ConfigError
from tsdyn.frames_net import FrameDecoder, FrameEncoder


@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 3)])
def test_leading_dimensions_are_free(size, leading):
    encoder, decoder = FrameEncoder(size, 5, channels=4), FrameDecoder(size, 7, channels=4)
    assert encoder(torch.rand(*leading, size, size)).shape == (*leading, 5)
    assert decoder(torch.randn(*leading, 7)).shape == (*leading, size, size)


def test_every_frame_stands_for_itself(device):
    encoder, decoder = FrameEncoder(32, 6, 8).to(device), FrameDecoder(32, 6, 8).to(device)
    frames = torch.rand(3, 4, 32, 32, device=device)
    features = encoder(frames)
    assert_close(encoder(frames[1, 2]), features[1, 2], rtol=1e-3, atol=1e-4)
    assert_close(decoder(features[1, 2]), decoder(features)[1, 2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_gradients_reach_every_weight_pixel_and_number(size):
    encoder, decoder = FrameEncoder(size, 6, 8), FrameDecoder(size, 6, 8)
    frames = torch.rand(2, 3, size, size, requires_grad=True)
    z = torch.randn(2, 3, 6, requires_grad=True)
    for net, inside in [(encoder, frames), (decoder, z)]:
        net(inside).square().mean().backward()
        for weight in net.parameters():
            assert weight.grad.isfinite().all() and (weight.grad != 0).any()
        assert inside.grad.isfinite().all() and (inside.grad != 0).all()


def test_every_pixel_has_a_say_in_the_features_and_a_number_in_every_pixel():
    encoder, decoder = FrameEncoder(64, 4, 4), FrameDecoder(64, 4, 4)
    frame = torch.zeros(64, 64, requires_grad=True)
    assert (torch.autograd.grad(encoder(frame)[0], frame)[0] != 0).all()
    z = torch.randn(2, 4)
    assert (decoder(z)[0] != decoder(z)[1]).all()


@pytest.mark.parametrize(
    "bad", [{"size": 4}, {"size": 48}, {"size": 64, "channels": 6}, {"size": 64, "channels": 0}]
)
def test_impossible_sizes_are_named(bad):
    for net in (FrameEncoder, FrameDecoder):
        with pytest.raises(ConfigError, match="TSD-X01"):
            net(bad["size"], 8, bad.get("channels", 16))


def test_the_decoder_learns_frames_by_heart():
    """Eight frames of 64 x 64: less than 1 % of their variance is left."""
    frames = MovingDigits(n=1, frames=8)().x.view(8, 64, 64)
    decoder, z = FrameDecoder(64, 16), nn.Parameter(torch.randn(8, 16))
    optimizer = torch.optim.Adam([z, *decoder.parameters()], 3e-3)
    for _ in range(250):
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(decoder(z), frames).backward()
        optimizer.step()
    left = (decoder(z).sigmoid() - frames).square().mean()
    assert left < 0.01 * frames.var()


def test_the_encoder_learns_where_a_digit_is():
    """Positions in 256 frames of 16 x 16: less than 1 % of their variance is left."""
    source = MovingDigits(n=32, frames=8, size=16, digits=1)
    frames = source().x.view(32, 8, 16, 16)
    where = (source.positions()[:, :, 0].float() - 8) / 4
    encoder = FrameEncoder(16, 2, 8)
    optimizer = torch.optim.Adam(encoder.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (encoder(frames) - where).square().mean().backward()
        optimizer.step()
    assert (encoder(frames) - where).square().mean() < 0.01 * where.var()
