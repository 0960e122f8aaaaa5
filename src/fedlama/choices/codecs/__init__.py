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
from fedlama.choices.codecs.bfloat16 import BFloat16
from fedlama.choices.codecs.chain import Chain
from fedlama.choices.codecs.difference import DifferenceCodec
from fedlama.choices.codecs.differences import Differences
from fedlama.choices.codecs.directions import Directions
from fedlama.choices.codecs.eight_bit_rows import EightBitRows
from fedlama.choices.codecs.float16 import Float16
from fedlama.choices.codecs.float32 import Float32, changes_nothing, codec_for, codec_of, download_codec, full_codec
from fedlama.choices.codecs.layer_mask import LayerMask
from fedlama.choices.codecs.lbgm import LBGM
from fedlama.choices.codecs.power_sgd import PowerSGD
from fedlama.choices.codecs.qsgd import QSGD
from fedlama.choices.codecs.random_k import RandomK
from fedlama.choices.codecs.sign import Sign
from fedlama.choices.codecs.top_k import TopK
from fedlama.choices.codecs.varying import least_bytes, length_of, payload_lengths, received_state, shares_state, varies

__all__ = [
    "LBGM",
    "QSGD",
    "SERVER",
    "Address",
    "BFloat16",
    "Chain",
    "Codec",
    "CodecContext",
    "CodecState",
    "CohortContext",
    "ContextCodec",
    "DifferenceCodec",
    "Differences",
    "Directions",
    "EightBitRows",
    "Float16",
    "Float32",
    "LayerMask",
    "PowerSGD",
    "RandomK",
    "Sign",
    "TopK",
    "changes_nothing",
    "codec_for",
    "codec_of",
    "download_codec",
    "full_codec",
    "least_bytes",
    "length_of",
    "payload_lengths",
    "received_state",
    "shares_state",
    "varies",
]
