"""Probabilistic models of time series and dynamics, observed irregularly.

The door: every public name, loaded when it is first used, so that `import tsdyn` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batch import (
        Clock as Clock,
        Entries as Entries,
        Names as Names,
        Paths as Paths,
        Snapshots as Snapshots,
        windows as windows,
    )
    from .chance import seed as seed
    from .data.cells import from_anndata as from_anndata
    from .data.frames import read as read
    from .data.load import load_dataset as load_dataset
    from .data.snapshots import from_arrays as from_arrays
    from .data.volatility import suggest_sigma as suggest_sigma
    from .errors import TsdynError as TsdynError
    from .evaluation import backtest as backtest, evaluate as evaluate
    from .forecasts import Forecast as Forecast
    from .io import load as load, save as save
    from .lit.fit import fit as fit
    from .models.base import Model as Model
    from .predict import (
        fill as fill,
        forecast as forecast,
        impute as impute,
        simulate as simulate,
    )

__version__ = "0.1.0"

_HOME = {
    "Clock": "batch",
    "Entries": "batch",
    "Forecast": "forecasts",
    "Model": "models.base",
    "Names": "batch",
    "Paths": "batch",
    "Snapshots": "batch",
    "TsdynError": "errors",
    "backtest": "evaluation",
    "evaluate": "evaluation",
    "fill": "predict",
    "fit": "lit.fit",
    "forecast": "predict",
    "impute": "predict",
    "from_anndata": "data.cells",
    "from_arrays": "data.snapshots",
    "load": "io",
    "load_dataset": "data.load",
    "read": "data.frames",
    "save": "io",
    "seed": "chance",
    "simulate": "predict",
    "suggest_sigma": "data.volatility",
    "windows": "batch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(
            f"tsdyn has no public name `{name}`; known: {', '.join(sorted(_HOME))}"
        )
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])
