"""In how many bits a layer is uploaded: one codec per file."""

from fedlama.choices.codecs.base import Codec
from fedlama.choices.codecs.float16 import Float16
from fedlama.choices.codecs.float32 import Float32, codec_of

__all__ = ["Codec", "Float16", "Float32", "codec_of"]
