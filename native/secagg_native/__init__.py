"""The vector kernels of secagg: keystreams, packing, rotation, quantisation, the field of shares.

The modules are `aes_ctr`, `bitpack`, `field`, `hadamard` and `quantise`. The function `quantise`
is found in its module only, because the package attribute of that name is the module.
"""

from . import aes_ctr, bitpack, field, hadamard, quantise
from ._slices import MAX_THREADS
from .aes_ctr import add_keystreams, keystream, variant
from .bitpack import check_padding, pack, packed_size, unpack, unpack_add
from .field import DecodingError
from .quantise import dequantise, is_finite

__all__ = [
    "MAX_THREADS",
    "DecodingError",
    "add_keystreams",
    "aes_ctr",
    "bitpack",
    "check_padding",
    "dequantise",
    "field",
    "hadamard",
    "is_finite",
    "keystream",
    "pack",
    "packed_size",
    "quantise",
    "unpack",
    "unpack_add",
    "variant",
]
