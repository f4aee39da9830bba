"""Seals and opens compact JWE by jwcrypto, and makes hostile ones, for test/perl/Opdata/Jose.pm.

Reads requests, one JSON object a line, and answers each by a line, {"value"} or
{"error"}. Those that the others know, too:

    {"op": "generate", "crv"}                     a private JWK
    {"op": "seal", "jwk", "plaintext", "header"}  a token; the header is protected
    {"op": "open", "jwk", "token"}                the plaintext

And what no library would do:

    {"op": "forge", "jwk", ...}                   a token; see forge()
    {"op": "mutate", "jwk", "seed", "count", "credentials", "path"}
                                                  a file for COPY; see mutate()
    {"op": "vectors"}                             is kdf(), and the library's AES Key Wrap,
                                                  what the RFCs have as examples?
"""

import base64
import json
import os
import random
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

ALG = "ECDH-ES+A256KW"
ENC = "A256GCM"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def generate(crv: str) -> Any:
    return JWK.generate(kty="EC", crv=crv).export(as_dict=True)


def seal(jwk: dict[str, str], plaintext: str, header: dict[str, str]) -> str:
    token = JWE(plaintext.encode(), json.dumps({"alg": ALG, "enc": ENC} | header))
    token.add_recipient(JWK(**jwk))
    return str(token.serialize(compact=True))


def open_token(jwk: dict[str, str], token: str) -> str:
    opened = JWE()
    opened.deserialize(token, JWK(**jwk))
    return bytes(opened.payload).decode()


def public_key(jwk: dict[str, str]) -> ec.EllipticCurvePublicKey:
    x, y = (int.from_bytes(unb64(jwk[name]), "big") for name in ("x", "y"))
    curve = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1}[jwk["crv"]]()
    return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()


def kdf(secret: bytes, algorithm: str, bits: int, apu: bytes, apv: bytes) -> bytes:
    """Concat KDF of RFC 7518, section 4.6.2."""
    info = b"".join(len(part).to_bytes(4, "big") + part for part in (algorithm.encode(), apu, apv))
    return ConcatKDFHash(SHA256(), bits // 8, info + bits.to_bytes(4, "big")).derive(secret)


def forge(
    jwk: dict[str, str],
    header: str | None = None,
    header_bytes: str | None = None,
    plaintext: str = "{}",
    plaintext_bytes: str | None = None,
    apu: str = "",
    apv: str = "",
    repeat: int = 1,
    compress: bool = False,
    crv: str = "P-256",
    epk: dict[str, Any] | None = None,
    draw: Callable[[int], bytes] = os.urandom,
) -> str:
    """A token whose cryptography is right, whatever else is in it.

    In the header, a text, EPK stands for the ephemeral key, of which "epk" replaces
    members: those that are null are left out. Bytes are in base64url.
    """
    # not 0, and below the order of either curve
    number = int.from_bytes(b"\x01" + draw(30), "big")
    curve = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1}[crv]()
    ephemeral = ec.derive_private_key(number, curve)
    numbers = ephemeral.public_key().public_numbers()
    size = (curve.key_size + 7) // 8
    point = {"x": b64(numbers.x.to_bytes(size, "big")), "y": b64(numbers.y.to_bytes(size, "big"))}
    printed = json.dumps({k: v for k, v in ({"kty": "EC", "crv": crv} | point | (epk or {})).items() if v is not None})
    if header is None:
        header = f'{{"alg":"{ALG}","enc":"{ENC}","epk":EPK}}'
    raw = header.replace("EPK", printed).encode()
    if header_bytes is not None:
        raw = unb64(header_bytes).replace(b"EPK", printed.encode())
    protected = b64(raw)
    data = (plaintext.encode() if plaintext_bytes is None else unb64(plaintext_bytes)) * repeat
    if compress:
        data = zlib.compress(data, 9, -15)

    # what is on another curve than the key cannot be agreed on
    secret = ephemeral.exchange(ec.ECDH(), public_key(jwk)) if jwk["crv"] == crv else bytes(32)
    content_key = draw(32)
    wrapped = aes_key_wrap(kdf(secret, ALG, 256, unb64(apu), unb64(apv)), content_key)
    iv = draw(12)
    sealed = AESGCM(content_key).encrypt(iv, data, protected.encode())
    return ".".join([protected, b64(wrapped), b64(iv), b64(sealed[:-16]), b64(sealed[-16:])])


def vectors() -> dict[str, bool]:
    """RFC 7518, appendix C, from both sides, and RFC 3394, section 4.6."""
    alice = {
        "x": "gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0",
        "y": "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps",
        "d": "0_NxaRPUMQoAJt50Gz8YiTr8gRTwyEaCumd-MToTmIo",
    }
    bob = {
        "x": "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ",
        "y": "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck",
        "d": "VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw",
    }
    told = {}
    for name, own, peer in (("sender", alice, bob), ("recipient", bob, alice)):
        key = ec.derive_private_key(int.from_bytes(unb64(own["d"]), "big"), ec.SECP256R1())
        secret = key.exchange(ec.ECDH(), public_key(peer | {"crv": "P-256"}))
        told[name] = b64(kdf(secret, "A128GCM", 128, b"Alice", b"Bob")) == "VqqN6vgjbSBcIijNcacQGg"
    key_encryption_key = bytes(range(32))
    data = bytes.fromhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
    told["key wrap"] = aes_key_wrap(key_encryption_key, data) == bytes.fromhex(
        "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"
    )
    return told


# ------------------------------------------------------------------ mutations

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
ODD = '.=+/ "\\{}[]:,\n\t\u00e9\u2028\U0001f511'


class Mutator:
    """The same seed gives the same mutations, cryptography included."""

    def __init__(self, seed: int, jwk: dict[str, str], credentials: dict[str, Any]) -> None:
        self.random = random.Random(seed)
        self.jwk = jwk
        self.credentials = credentials
        self.header = {"alg": ALG, "enc": ENC, "kid": jwk["kid"], "apu": "QWxpY2U", "apv": "Qm9i", "epk": "EPK"}

    def forge(self, header: str, plaintext: str) -> str:
        # lone surrogates are no UTF-8, and stay as such
        texts = {
            "header_bytes": b64(header.encode(errors="surrogatepass")),
            "plaintext_bytes": b64(plaintext.encode(errors="surrogatepass")),
        }
        party = ("QWxpY2U", "Qm9i") if self.random.random() < 0.9 else ("", "")
        return forge(self.jwk, apu=party[0], apv=party[1], draw=self.random.randbytes, **texts)

    def print_header(self, header: Any) -> str:
        return json.dumps(header).replace('"EPK"', "EPK")

    def token(self) -> str:
        return self.forge(self.print_header(self.header), json.dumps(self.credentials))

    def edge(self) -> Any:
        many = self.random.choice((10, 1000, 70000))
        deep: Any = []
        for _ in range(self.random.choice((3, 300))):
            deep = self.random.choice(([deep], {"a": deep}))
        return self.random.choice(
            [
                *(None, True, False, 0, -1, 1, 5432, 65535, 65536, 2**31, 2**63, -(2**64), 0.5, 1e300),
                *("", " ", "none", "dir", "EC", "P-384", "require", "dsn", "jwt", "fields", "/tmp", "a" * many),
                *("\u0000", "\u202e", "\ud800", "%s%n", "host=h user=u dbname=d", "postgresql://u:p@h/d?sslmode=x"),
                *([], {}, deep, ["a"] * 100, {"sealed": "a.b.c.d.e"}, {"secretRef": "vault:a#b"}),
                *({str(n): n for n in range(100)}, b64(self.random.randbytes(self.random.choice((1, 31, 32, 33))))),
            ]
        )

    def tree(self, value: Any) -> Any:
        """One change somewhere in a value of JSON."""
        if isinstance(value, dict) and value and self.random.random() < 0.85:
            value = dict(value)
            key = self.random.choice(list(value))
            change = self.random.randrange(7)
            if change == 0:
                del value[key]
            elif change == 1:
                names = ("zip", "crit", "p2c", "sealed", "mode", "dsn", "sslCert", "x", "", key + " ")
                value[self.random.choice(names)] = self.edge()
            elif change == 2:
                value[key.upper()] = value.pop(key)
            else:
                value[key] = self.tree(value[key])
            return value
        if isinstance(value, str) and value and self.random.random() < 0.5:
            return self.text(value)
        return self.edge()

    def text(self, text: str) -> str:
        """Some changes of characters."""
        for _ in range(self.random.choice((1, 1, 1, 2, 5))):
            at = self.random.randrange(len(text) + 1)
            to = min(len(text), at + self.random.choice((1, 1, 2, 10, 100)))
            piece = "".join(self.random.choice(DIGITS * 4 + ODD) for _ in range(self.random.choice((0, 1, 1, 4))))
            change = self.random.randrange(6)
            if change == 0:
                text = text[:at] + text[to:]
            elif change == 1:
                text = text[:at] + piece + text[at:]
            elif change == 2:
                text = text[:at] + text[at:to] * self.random.choice((2, 3, 50)) + text[to:]
            elif change == 3:
                text = text[:at]
            else:
                text = text[:at] + piece + text[to:]
        return text

    def any_text(self, value: Any) -> str:
        """A value that was changed, as a value or as its text."""
        printed = self.print_header(value)
        if self.random.random() < 0.3:
            return self.text(printed)
        for _ in range(self.random.choice((1, 1, 2, 4))):
            value = self.tree(value)
        return self.print_header(value)

    def parts(self) -> str:
        """Parts of two tokens, in whatever order and number."""
        parts = self.token().split(".") + self.token().split(".")
        if self.random.random() < 0.5:
            keep = [self.random.choice((part, 5 + part)) for part in range(5)]
        else:
            keep = [self.random.randrange(10) for _ in range(self.random.choice((0, 1, 4, 5, 5, 5, 6)))]
        return ".".join(parts[part] for part in keep)

    def case(self) -> tuple[str, str]:
        kinds = "whole token token parts header header plaintext plaintext payload plain"
        kind = self.random.choice(kinds.split())
        if kind == "whole":
            return kind, json.dumps({"sealed": self.token()})
        if kind == "token":
            return kind, json.dumps({"sealed": self.text(self.token())})
        if kind == "parts":
            return kind, json.dumps({"sealed": self.parts()})
        if kind == "header":
            return kind, json.dumps({"sealed": self.forge(self.any_text(self.header), json.dumps(self.credentials))})
        if kind == "plaintext":
            return kind, json.dumps({"sealed": self.forge(self.print_header(self.header), self.any_text(self.credentials))})
        if kind == "payload":
            return kind, self.any_text({"sealed": self.token()})
        return kind, self.any_text(self.credentials)


def mutate(jwk: dict[str, str], seed: int, count: int, credentials: dict[str, Any], path: str) -> int:
    """Lines of a kind and a payload for COPY. One of ten is a token as it should be."""
    mutator = Mutator(seed, jwk, credentials)
    escapes = str.maketrans({"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"})
    with Path(path).open("w", encoding="utf-8", errors="replace") as file:
        for _ in range(count):
            kind, payload = mutator.case()
            file.write(f"{kind}\t{payload.translate(escapes)}\n")
    return count


OPS: dict[str, Callable[..., Any]] = {
    "generate": generate,
    "seal": seal,
    "open": open_token,
    "forge": forge,
    "mutate": mutate,
    "vectors": vectors,
}


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": OPS[request.pop("op")](**request)}
        except Exception as error:  # noqa: BLE001, whatever a library raises is the answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
