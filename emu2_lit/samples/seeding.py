"""Seeds derived from names, the same on every platform, process and library version."""

import hashlib


def hash_seed(*parts: object) -> int:
    """A 63-bit seed from the strings of `parts`; ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = str(part).encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> 1
