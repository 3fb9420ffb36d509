"""The weights that come with tsdyn: they are what their card says, and pass the gates they were chosen by."""

import json
import shutil

import pytest
import torch
from torch import Tensor

from tsdyn.batch import Paths
from tsdyn.data.jump_systems import FlashingRatchet, flashing_ratchet
from tsdyn.errors import CheckpointError, ConfigError, DataError
from tsdyn.maths.rate_matrix import entropy_production, relaxation
from tsdyn.models.jump_posterior import combined, derived, rate_matrix
from tsdyn.models.zero_shot import WEIGHTS, pretrained, zero_shot

OFF = ~torch.eye(6, dtype=torch.bool)


def errors(
    V: float, subsets: int = 20, paths: int = 300, **options: float
) -> tuple[Tensor, Tensor]:
    """Root mean square errors of the rates of every subset, and the share inside 90 %."""
    found, inside = [], []
    for seed in range(subsets):
        belief = zero_shot(FlashingRatchet(n=paths, V=V, seed=100 + seed, **options)())  # type: ignore[arg-type]
        off = (belief.mean - flashing_ratchet(V))[OFF]
        found.append(off.square().mean().sqrt())
        inside.append((off.abs() <= 1.645 * belief.deviation[OFF]).double().mean())
    return torch.stack(found), torch.stack(inside)


@pytest.mark.parametrize(("V", "gate"), [(0.0, 0.09), (1.0, 0.11), (2.0, 0.20)])
def test_ratchets_that_were_never_seen(V: float, gate: float) -> None:
    found, inside = errors(V)
    error = (
        found.std() / 20**0.5
    )  # of the mean over subsets; thirty others have .071, .091 and .189
    assert found.mean() < gate + 2 * error
    assert 0.85 <= inside.mean() <= 0.995


def test_many_paths_in_one_call() -> None:
    found, _ = errors(1.0, subsets=1, paths=5000)
    assert found[0] < 0.05


def test_what_follows_from_the_rates() -> None:
    parts = [zero_shot(FlashingRatchet(seed=200 + k)()) for k in range(10)]
    together = combined(parts)
    Q = rate_matrix(together)
    assert abs(float(relaxation(Q).time[0]) - 0.5) < 0.02
    assert abs(float(entropy_production(Q)) - 0.179194) < 0.03
    slow = derived(
        together, lambda q: relaxation(q).time[..., 0], generator=torch.Generator().manual_seed(0)
    )
    assert slow.low < 0.51 and slow.high > 0.49


def test_refined_intervals_cover_where_labels_are_misread() -> None:
    """Five subsets, 150 rates; a deviation of the share of about .04 if a subset counts as ten rates."""
    inside = []
    for seed in range(5):
        paths = FlashingRatchet(n=300, noise=0.1, seed=400 + seed)()
        kept = torch.rand(paths.mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
        belief = zero_shot(paths._replace(mask=kept), refine="em")
        off = (belief.mean - flashing_ratchet(1.0))[OFF]
        inside.append((off.abs() <= 1.645 * belief.deviation[OFF]).double().mean())
    assert 0.81 <= torch.stack(inside).mean() <= 0.99


def test_names_of_states_and_units_of_time() -> None:
    data = FlashingRatchet(n=50, seed=7)()
    a = zero_shot(data)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    b = zero_shot(data._replace(x=order[data.x.long()].float()))
    torch.testing.assert_close(a.mean, b.mean[order][:, order], rtol=1e-4, atol=1e-5)
    slow = zero_shot(data._replace(t=1000 * data.t))
    torch.testing.assert_close(a.mean, 1000 * slow.mean, rtol=1e-4, atol=1e-5)


def test_refining_finds_what_noise_hides() -> None:
    data = FlashingRatchet(n=300, rows=50, noise=0.1, seed=3)()
    once, refined = zero_shot(data), zero_shot(data, refine="em", steps=30)
    off = [(f.mean - flashing_ratchet())[OFF].square().mean().sqrt() for f in (once, refined)]
    assert off[1] < 0.16 and off[1] < off[0]
    assert (refined.deviation[OFF] >= 0).all() and refined.deviation.isfinite().all()


def test_another_refinement_is_refused() -> None:
    with pytest.raises(ConfigError, match="refine='EM'"):
        zero_shot(FlashingRatchet(n=5, seed=0)(), refine="EM")  # type: ignore[arg-type]


def test_weights_are_those_of_their_card(tmp_path) -> None:
    card = json.loads(WEIGHTS.with_suffix(".json").read_text())
    assert WEIGHTS.stat().st_size < 2 * 2**20
    assert all(card["scores"][k]["rmse"] <= gate for k, gate in card["gates"].items())
    assert not pretrained().training
    wrong = tmp_path / WEIGHTS.name
    wrong.write_bytes(WEIGHTS.read_bytes()[:-1] + b"\0")
    shutil.copy(WEIGHTS.with_suffix(".json"), tmp_path)
    with pytest.raises(CheckpointError, match=r"TSD-C01.*SHA256"):
        pretrained(wrong)
    with pytest.raises(CheckpointError, match=r"TSD-C01"):
        pretrained(tmp_path / "absent.safetensors")


def test_labels_must_be_states() -> None:
    t = torch.arange(3).double()[None]
    x = torch.tensor([[[0.0], [1.5], [1.0]]])
    with pytest.raises(DataError, match=r"TSD-D10.*twice"):
        zero_shot(Paths(t, x, torch.zeros_like(x, dtype=torch.bool)))
    with pytest.raises(DataError, match="TSD-D14"):
        zero_shot(Paths(t, x, torch.ones_like(x, dtype=torch.bool)))
