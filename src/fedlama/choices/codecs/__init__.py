"""In how many bits a layer is sent: one codec per file."""

from fedlama.choices.codecs.base import (
    SERVER,
    Address,
    Codec,
    CodecContext,
    CodecState,
    CohortContext,
    ContextCodec,
)
from fedlama.choices.codecs.difference import DifferenceCodec
from fedlama.choices.codecs.differences import Differences
from fedlama.choices.codecs.eight_bit_rows import EightBitRows
from fedlama.choices.codecs.float16 import Float16
from fedlama.choices.codecs.float32 import Float32, codec_of, full_codec

__all__ = [
    "SERVER",
    "Address",
    "Codec",
    "CodecContext",
    "CodecState",
    "CohortContext",
    "ContextCodec",
    "DifferenceCodec",
    "Differences",
    "EightBitRows",
    "Float16",
    "Float32",
    "codec_of",
    "full_codec",
]
