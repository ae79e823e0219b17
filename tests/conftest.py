"""Shared fixtures: where the real data is, and what to do where it is not."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def real_data_root() -> Path:
    default = REPOSITORY.parent / "shared" / "data"
    return Path(os.environ.get("MOBILEVISION_DATA", default))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if real_data_root().is_dir():
        return
    skip = pytest.mark.skip(
        reason=f"real data not found at {real_data_root()}: set MOBILEVISION_DATA"
    )
    for item in items:
        if "real_data" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, labels and weights. Use together with the marker real_data."""
    return real_data_root()


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY
