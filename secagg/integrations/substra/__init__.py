"""Under Substra: FedAvg of substrafl with its mean computed as a secure sum."""

from .algo import SecAggAlgo
from .opener import PARTY_FILE, PartyData, with_party
from .strategy import SecAggFedAvg

__all__ = ["PARTY_FILE", "PartyData", "SecAggAlgo", "SecAggFedAvg", "with_party"]
