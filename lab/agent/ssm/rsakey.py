"""An RSA key pair in the encodings that the vault holds, without a crypto library on the host."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass

KEY_BITS = 2048
_EXPONENT = 65537
_RSA_OID = bytes.fromhex("300d06092a864886f70d0101010500")


@dataclass(frozen=True)
class KeyPair:
    """Base64 of PKCS#1 (private) and SubjectPublicKeyInfo (public), both DER."""

    private_key: str
    public_key: str
    key_type: str = "Rsa"


def _small_primes(limit: int) -> list[int]:
    sieve = bytearray([1]) * limit
    for number in range(2, int(limit**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(sieve[number * number :: number]))
    return [number for number in range(2, limit) if sieve[number]]


_PRIMES = _small_primes(4000)


def _passes_miller_rabin(candidate: int, rounds: int = 6) -> bool:
    odd, twos = candidate - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(rounds):
        x = pow(secrets.randbelow(candidate - 3) + 2, odd, candidate)
        if x in (1, candidate - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % candidate
            if x == candidate - 1:
                break
        else:
            return False
    return True


def _prime(bits: int) -> int:
    while True:
        candidate = secrets.randbits(bits) | (3 << (bits - 2)) | 1
        if (candidate - 1) % _EXPONENT == 0 or not all(candidate % prime for prime in _PRIMES):
            continue
        if _passes_miller_rabin(candidate):
            return candidate


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def generate_key_pair(bits: int = KEY_BITS) -> KeyPair:
    """A fresh key pair, as `registration.GenerateKeyPair` stores it."""
    p, q = _prime(bits // 2), _prime(bits // 2)
    modulus, phi = p * q, (p - 1) * (q - 1)
    d = pow(_EXPONENT, -1, phi)
    numbers = (0, modulus, _EXPONENT, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p))
    private = _der(0x30, b"".join(_integer(number) for number in numbers))
    bare_public = _der(0x30, _integer(modulus) + _integer(_EXPONENT))
    public = _der(0x30, _RSA_OID + _der(0x03, b"\0" + bare_public))
    return KeyPair(base64.b64encode(private).decode(), base64.b64encode(public).decode())
