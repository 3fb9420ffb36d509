import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def same_draws_every_run():
    torch.manual_seed(0)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
        ),
    ]
)
def device(request):
    return request.param


@pytest.fixture
def real_data() -> Path:
    """The folder of real data, or a skip: only tests that read it may be skipped, besides CUDA."""
    folder = os.environ.get("TSDYN_DATA")
    if not folder:
        pytest.skip("TSDYN_DATA is not set")
    return Path(folder)
