"""Xet: transfers large files in chunks; the Hub only gives clients an address and a token.

Here the address is a folder: Xet's client accepts it in place of a server.
"""

import importlib
import shutil
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

from .access import readable_repository, writable_repository
from .http import HubError, json_response

SHARD_HEADER = RECORD = 48  # bytes
WITH_VERIFICATION, WITH_SHA256 = 1 << 31, 1 << 30
END = b"\xff" * 32


def xet_write_token(hub, request, repo_type, repo_id, revision):
    writable_repository(hub, request, repo_type, repo_id)
    return xet_token(hub)


def xet_read_token(hub, request, repo_type, repo_id, revision):
    readable_repository(hub, request, repo_type, repo_id)
    return xet_token(hub)


def xet_token(hub):
    """The same facts as JSON, which uploads read, and as headers, which downloads read."""
    if hub.xet_storage is None:
        raise HubError(404, "no Xet storage here")
    facts = {
        "casUrl": f"local://{hub.xet_storage}",
        "exp": int(time.time()) + 3600,
        "accessToken": "xet",
    }
    response = json_response(facts)
    names = ("X-Xet-Cas-Url", "X-Xet-Token-Expiration", "X-Xet-Access-Token")
    response.headers |= {
        name: str(value) for name, value in zip(names, facts.values(), strict=True)
    }
    return response


def xet_headers(hub, repository, commit_oid, sha256):
    """What tells a client that it can download a file by Xet."""
    if hub.xet_storage is None or sha256 not in (known := xet_hashes(hub.xet_storage)):
        return {}
    address = (
        f"{hub.url}/api/{repository.repo_type}s/{repository.repo_id}/xet-read-token/{commit_oid}"
    )
    return {"X-Xet-Hash": known[sha256], "Link": f'<{address}>; rel="xet-auth"'}


def xet_hashes(folder) -> dict[str, str]:
    """SHA-256 -> Xet hash of every uploaded file, read from Xet's shards.

    A shard holds records of one size. The first record of a file has its Xet hash, the last one its
    SHA-256.
    """
    hashes = {}
    for shard in Path(folder).rglob("*.mdb"):
        content, position = shard.read_bytes(), SHARD_HEADER
        while content[position : position + 32] != END:
            flags, segments = struct.unpack_from("<II", content, position + 32)
            name = hex_of(content, position)
            position += RECORD * (1 + segments * (2 if flags & WITH_VERIFICATION else 1))
            if flags & WITH_SHA256:
                hashes[hex_of(content, position)] = name
                position += RECORD
    return hashes


def hex_of(content, position):
    """A hash as Xet writes it: four little-endian words."""
    return "".join(f"{word:016x}" for word in struct.unpack_from("<4Q", content, position))


def read_by_xet(folder, name) -> bytes:
    """A file's content. Reads a copy: Xet's database can be opened only once, by a client."""
    # Imported only here: a Hub without Xet storage does not need it. hf_xet ships no type stubs.
    hf_xet: Any = importlib.import_module("hf_xet")

    with tempfile.TemporaryDirectory() as temporary:
        copy, target = Path(temporary) / "storage", Path(temporary) / "file"
        shutil.copytree(folder, copy)
        expiry = int(time.time()) + 3600
        with hf_xet.XetSession().new_file_download_group(
            endpoint=f"local://{copy}", token="xet", token_expiry_unix_secs=expiry
        ) as group:
            group.start_download_file(hf_xet.XetFileInfo(name, None), str(target))
        return target.read_bytes()
