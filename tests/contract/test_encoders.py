"""What every encoder keeps: a new one is tested here unedited."""

from __future__ import annotations

import pytest

from graft.agents.networks.encoder import ENCODERS
from graft.experiments.contracts import encoders

CASES = [pytest.param((name, kind), id=f"{name}-{kind}") for name, e in ENCODERS.items() for kind in e.kinds]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("contract", encoders.CONTRACTS, ids=lambda contract: contract.__name__)
def test_contract(contract, case):
    contract(encoders.Case(*case))
