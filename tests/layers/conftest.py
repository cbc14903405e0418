"""What the tests of the layers share."""

import pytest


@pytest.fixture(autouse=True)
def _flax_promotes(standard_promotion):
    """Flax mixes dtypes."""
