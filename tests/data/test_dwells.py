import pandas as pd
import pytest
import torch

from tsdyn.data.dwells import read_dwells
from tsdyn.data.jump_systems import flashing_ratchet
from tsdyn.errors import DataError
from tsdyn.maths.jump_exposure import exposure
from tsdyn.maths.jump_likelihood import complete_errors, complete_rates
from tsdyn.maths.jump_simulation import gillespie
from tsdyn.maths.rate_matrix import stationary


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "cell": ["a", "a", "a", "a", "b"],
            "state": ["open", "closed", "closed", "open", "closed"],
            "duration": [1.0, 2.0, 0.5, 3.0, 4.0],
        }
    )


def test_dwells_become_paths(tmp_path) -> None:
    file = tmp_path / "dwells.csv"
    table().to_csv(file, index=False)
    for source in (table(), str(file)):
        paths, states = read_dwells(source, record="cell")
        assert states == ("closed", "open")
        assert paths.state.tolist() == [[1, 0, 1], [0, 0, 0]]
        assert paths.t.tolist() == [[0.0, 1.0, 3.5], [0.0, 4.0, 4.0]]
        assert paths.jumps.tolist() == [2, 0] and paths.end.tolist() == [6.5, 4.0]
        found = exposure(paths, 2)
        assert found.N.tolist() == [[0, 1], [1, 0]] and found.R.tolist() == [6.5, 4.0]


def test_exposure_of_simulated_paths_gives_the_rates_back() -> None:
    Q = flashing_ratchet()
    paths = gillespie(Q, stationary(Q), 4000, 5.0, torch.Generator().manual_seed(0))
    N, R = exposure(paths, 6)
    torch.testing.assert_close(R.sum(), torch.tensor(20_000.0).double())
    assert int(N.sum()) == int(paths.jumps.sum())
    off = ~torch.eye(6, dtype=torch.bool) & (Q > 0)
    z = ((complete_rates(N, R) - Q) / complete_errors(N, R))[off]
    assert z.abs().max() < 4


def test_written_and_read_again() -> None:
    Q = flashing_ratchet()
    paths = gillespie(Q, stationary(Q), 5, 3.0, torch.Generator().manual_seed(1))
    rows = []
    for k in range(5):
        count = int(paths.jumps[k]) + 1
        ends = [*paths.t[k, 1:count].tolist(), float(paths.end[k])]
        for state, a, b in zip(paths.state[k].tolist(), paths.t[k].tolist(), ends, strict=False):
            rows.append({"record": k, "state": state, "duration": b - a})
    again, names = read_dwells(pd.DataFrame(rows), record="record")
    first, second = exposure(paths, 6), exposure(again, 6)
    assert names == ("0", "1", "2", "3", "4", "5")
    torch.testing.assert_close(first.N, second.N)
    torch.testing.assert_close(first.R, second.R)


def test_wrong_tables_are_refused() -> None:
    with pytest.raises(DataError, match=r"TSD-D14.*first -1 in row 1"):
        read_dwells(table().assign(duration=[1.0, -1.0, 1.0, 1.0, 1.0]))
    with pytest.raises(DataError, match=r"TSD-D14.*state is missing in row 2"):
        read_dwells(table().assign(state=["open", "closed", None, "open", "closed"]))
    with pytest.raises(DataError, match="TSD-D02"):
        read_dwells(table(), state="level")
    with pytest.raises(DataError, match=r"TSD-D07.*mixed"):
        read_dwells(table().iloc[[0, 4, 1]], record="cell")
