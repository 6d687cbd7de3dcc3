"""Keys of the measurements: safe primes that are published here and protect nothing.

A search for primes takes between a second and a minute, and differs from run to run. These are the
same in all processes of all runs. They are test keys, and everybody can read them: never encrypt
anything under them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from secagg_protocols.paillier import PrivateKey

#: Bits of the modulus -> its two primes, in hexadecimal.
PRIMES: Final = {
    2048: (
        "d96cbbce982197b76af19983f3fbc1427ccc94ddfc4ef4a9c622b198305a21b0e3d4f7614323c2f8"
        "a372fd5c2d63f0e87c7813c4d864868e99e489f90dd0bef23aed11bf14e5db1ccd72660995e66ef4"
        "6c887104c41476751350354577074e281eac7ae19a05bcf7022141c4583652f02336514452b62723"
        "4daf2735772516db",
        "f4b46a1b0c8462e2a62de54769ec170a7b1fba50aee8c84e67d9bf16a99d462ba20db216db3a1d8c"
        "8d849eddd8113a493797ab98cc6b4099c370227039e32c9b81a1b8fe57f1493ae2c6da0bc81873eb"
        "32022026d88480cf32892c4e94f07a607b302f7a9f9ef2ed07e82d6dbfccf85f7efb6b6d4647b6d2"
        "d2b4bf5272e257c3",
    ),
    3072: (
        "c0b9c01e90e567261532fa2be6deab5d81014c15b4f5f71b5b41297e3b937981e4037503878646ad"
        "fa6de84051753e87ed1fa09702c8a37107194ac69f0bc9363dd2d17f720041e89e3c2edd88b7d4df"
        "b5a14d138f56914bd4bee25b30e55f385882c0e6720f4a76eab45c5a06a1cdfef075d165f42c81af"
        "603d884ba2cc81fc0a3d824920564adc0446f5a28a2555bdd9ffa2f495852ad5fca69d24098cbe02"
        "3fc2d3bc8059040e97f87c18dc45fed003fd2fad8880e14aa243f27cbc4a2ccf",
        "df6eb365b246f887a01e5ae570142ccb2b900fee8cc754bce43a56a4977df4b890f7a5b1f58b1759"
        "bc3335d9115d1cb4d65aed055d803c2b7ee6b3c60bdc0ab8610d06bf098306406d5c2f9d821d92ed"
        "9b560dc8b8f1e2d1f77b418bc746a9ef514625789cd136760e02b03db14f7977050e64a3bdda083e"
        "09d386c126bd4554ca1ed36482be4bda152ca02ed8af338b23225298d419c34569cd10dd9bafa365"
        "8712b2e1f0cf0d1f1a62258dba7000e9677ca5f529a8bc450f12e7843fafd567",
    ),
    4096: (
        "f5284bae95d1a796cf8703412fcd0956df8dfdfb11ce633e10c0dcd3f0985f89b44779729fe1d922"
        "507efaf614c841d4a91adfffca063137502c981f67c7b4946611a6e24cf8011af5fcffc0e2d6f5b1"
        "0ff305868eb1a812a1c50083834aa7d8092dd3ca8520de35c041f4ced38838d9626babd0335ca6b3"
        "46f07f33849cfa42166806b44fb6a6ed7fcc9746b75d157a054f313df4c651bf1ebce0fc1fa1cde0"
        "033341ce0af26c9eb4e96806b7d67d9d29c88c0f1f1f987b557cd3ef299b911a709704c63fa32e0c"
        "b39fd88008c4861f15a0f41ba086d0d6296050229e1e1dca82ed3553141313b357fe42f86ffa6ecf"
        "e8eb124e515548660c1d4ad73a603bc7",
        "f9defde84ab7786f96ec1c9c87d9c35edf8efc006502cef2cc348bd88129778b37745d41760df09f"
        "4257a03dc11e2bd64ad06dcabeb7c41a734de12d62ddb0c499191bc0c153fccd9ec19bb28eeadf13"
        "5297dda48f37a6b6e974a15888cac75700046b02ff721c69ac3a62a2d5dd44fe93c9e7f5473e60e3"
        "27c2fe3586f424d9298884017afd4cc6a9f50705d25e21367c3866a9cb6c6da069fe2de86606d980"
        "72e09d6e67a730fd59d85ba926039a0b28d3c3dad4426f4fd701386ecb2ae06f1103586cda922002"
        "7d73b3101f23bdec3d995c91c65e057e39096ff895507acc563d0e113f44b71a480d2f4c1233472d"
        "b3f3919b6d804484ed79a58a21d75b1b",
    ),
}


@lru_cache(maxsize=2 * len(PRIMES))
def private(bits: int, *, proofs: bool = False) -> PrivateKey:
    """The published test key of 2048, 3072 or 4096 bits. Raises KeyError for another length.

    proofs: whether it is for vectors that come with proofs of knowledge.
    """
    p, q = PRIMES[bits]
    return PrivateKey(int(p, 16), int(q, 16), knowledge_proofs=proofs)


__all__ = ["PRIMES", "private"]
