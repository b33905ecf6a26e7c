"""The Xet store on disk: hf_xet's own `local://` backend writes it, and here the hash of a file is looked up in it."""

import struct
from pathlib import Path

_HEADER, _HASH, _ENTRY = 48, 32, 48
_HAS_VERIFICATION, _HAS_METADATA = 0x80000000, 0x40000000
_END = b"\xff" * _HASH


def find_xet_hash(folder: Path, sha256: str) -> str | None:
    """Returns the Xet hash of the file with that sha256: shards list both, as the real store registers them."""
    for path in sorted(folder.rglob("shards/*.mdb")):
        shard, offset = path.read_bytes(), _HEADER
        while shard[offset : offset + _HASH] != _END:
            found = _hex(shard[offset : offset + _HASH])
            flags, segments, _ = struct.unpack("<IIQ", shard[offset + _HASH : offset + _ENTRY])
            offset += _ENTRY * (1 + segments * (2 if flags & _HAS_VERIFICATION else 1))
            if flags & _HAS_METADATA:
                if _hex(shard[offset : offset + _HASH]) == sha256:
                    return found
                offset += _ENTRY
    return None


def _hex(digest: bytes) -> str:
    """Four numbers of 64 bits, little-endian."""
    return "".join(digest[start : start + 8][::-1].hex() for start in range(0, _HASH, 8))
