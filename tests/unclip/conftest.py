from __future__ import annotations

import pytest
import torch

from mutoscope.registry.catalog import Catalog


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog.load(strict=True)
