import pytest
from sqlalchemy import Engine

from tests.monitoring.fleet import Fleet


@pytest.fixture
def fleet(engine: Engine) -> Fleet:
    return Fleet(engine)
