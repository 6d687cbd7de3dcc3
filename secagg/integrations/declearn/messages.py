"""What a setup sends (``protocols/specs/zero_sum.md``), as declearn's messages."""

from __future__ import annotations

import dataclasses

from declearn.messaging import Message
from declearn.secagg.api import SecaggSetupQuery


@dataclasses.dataclass
class ZeroSumQuery(SecaggSetupQuery):
    """Server to sites: opens a setup. ``bitsize`` and ``clipval`` are the plan's, for people who
    read logs; sites take them from their own plan. proposal: the plan as TOML, or empty."""

    typekey = "secagg-zero-sum-query"

    plan: bytes
    nonce: bytes
    signature: bytes
    proposal: str


@dataclasses.dataclass
class ZeroSumAdvert(Message):
    """Site to server: its name in the roster, what it was told so far, key and signature."""

    typekey = "secagg-zero-sum-advert"

    site: str
    view: bytes
    advert: bytes


@dataclasses.dataclass
class ZeroSumAdverts(Message):
    """Server to sites: the adverts of all sites in the order of the roster."""

    typekey = "secagg-zero-sum-adverts"

    adverts: list[bytes]


@dataclasses.dataclass
class ZeroSumReady(Message):
    """Site to server: its signature that it accepted these adverts."""

    typekey = "secagg-zero-sum-ready"

    signature: bytes


__all__ = ["ZeroSumAdvert", "ZeroSumAdverts", "ZeroSumQuery", "ZeroSumReady"]
