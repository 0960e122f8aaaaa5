"""Keys and masks: X25519 for a key that two clients share, HKDF for the keys of a round, AES in counter mode for masks.

All keys depend on the name of their agreement, on what they are for and on the round, so no mask is used twice. The
functions come from the library `cryptography`.
"""

from __future__ import annotations

import hashlib
import os
import struct

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedlama.errors import DataError
from fedlama.flower.secure.fixed_point import SCALAR_BYTES, FixedPoint

KEY_BYTES = 32
_NONCE = bytes(12)  # each key encrypts one message


def new_secret() -> bytes:
    """Return 32 random bytes: a private key, or a seed."""
    return os.urandom(KEY_BYTES)


def public_key(secret: bytes) -> bytes:
    """Return the public key of a private one."""
    return bytes(X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw())


def commitment(seed: bytes) -> bytes:
    """Return the SHA-256 of a seed of 256 random bits, by which a seed that is put together later can be checked."""
    return hashlib.sha256(b"fedlama seed" + seed).digest()


def shared_key(secret: bytes, public: bytes, agreement: str, purpose: str) -> bytes:
    """Return a key that the holders of two private keys can compute, each from the other's public key.

    Args:
        secret: The private key of one.
        public: The public key of the other.
        agreement: The agreement's name.
        purpose: What the key is for.

    Raises:
        DataError: The public key is not one.
    """
    try:
        secret_point = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise DataError("a public key is not valid; agree on new keys") from error
    return derived(secret_point, agreement, purpose)


def derived(secret: bytes, agreement: str, purpose: str) -> bytes:
    """Return the key for a purpose, of a secret."""
    info = f"fedlama {purpose}".encode()
    return bytes(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=agreement.encode(), info=info).derive(secret))


def pair_key(private: bytes, public: bytes, agreement: str, round_index: int, at: int) -> bytes:
    """Return the key of the mask of two clients in one round.

    Args:
        private: The private key of one for this round.
        public: All public keys of the other.
        agreement: The agreement's name.
        round_index: The round.
        at: Its position in the agreement.
    """
    start = KEY_BYTES * (1 + 2 * at)
    return shared_key(private, public[start : start + KEY_BYTES], agreement, f"mask of round {round_index}")


def pair_sign(client: int, other: int) -> int:
    """Return whether a client adds (1) or subtracts (-1) the mask that it shares with another one."""
    return 1 if client < other else -1


def mask(key: bytes, layer: int, numbers: int) -> FixedPoint:
    """Return a layer's mask: as many random numbers as the layer has, and one for its scalar.

    Args:
        key: The key of a round, of a client or of two.
        layer: The layer's index, or :data:`fedlama.flower.secure.agreement.LOSS`.
        numbers: How many numbers the layer has.
    """
    counter = struct.pack("<IIQ", layer, 0, 0)  # the counter's high half is the layer's, so that streams never meet
    encryptor = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    stream = encryptor.update(bytes(8 * numbers + SCALAR_BYTES))
    words = np.frombuffer(stream, "<u8", numbers).astype(np.uint64)
    return FixedPoint(words, int.from_bytes(stream[8 * numbers :], "little"))


def sealed(key: bytes, content: bytes, address: str) -> bytes:
    """Encrypt and authenticate the only message of a key.

    Args:
        key: The key.
        content: What to encrypt.
        address: Who sends it to whom, which is authenticated too.
    """
    return bytes(ChaCha20Poly1305(key).encrypt(_NONCE, content, address.encode()))


def opened(key: bytes, data: bytes, address: str) -> bytes:
    """Read back what :func:`sealed` wrote.

    Raises:
        DataError: It was changed on the way, or is for another client.
    """
    try:
        return bytes(ChaCha20Poly1305(key).decrypt(_NONCE, data, address.encode()))
    except InvalidTag as error:
        raise DataError("encrypted shares were changed on the way; agree on new keys") from error
