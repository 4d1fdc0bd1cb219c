"""Where the contents of large files are: LFS uploads, in one piece or in parts, and downloads.

The addresses that the Hub hands out are at another origin, and need no token: real ones are signed.
"""

import hashlib
import secrets
from dataclasses import dataclass, field

from .access import writable_repository
from .http import HubError, Response, file_response, json_response


@dataclass
class PartedUpload:
    """An object of which some parts were sent."""

    sha256: str
    size: int
    parts: dict[int, bytes] = field(default_factory=dict)


def git_type(prefix):
    """The repository's type by the start of an address outside the API."""
    return prefix.removesuffix("s/") if prefix else "model"


def lfs_batch(hub, request, prefix, repo_id):
    """Where to send which objects: nowhere those that are there, in parts those that are large."""
    writable_repository(hub, request, git_type(prefix), repo_id)
    wanted = request.json()
    if wanted["operation"] != "upload":
        raise HubError(400, f"not an operation of this Hub: {wanted['operation']}")
    in_parts = "multipart" in wanted.get("transfers", ())
    objects = []
    for announced in wanted["objects"]:
        facts = {"oid": announced["oid"], "size": announced["size"]}
        if announced["oid"] not in hub.lfs_objects:
            upload = (
                parted_upload(hub, **facts)
                if in_parts and announced["size"] > hub.part_size
                else single_upload(hub, facts["oid"])
            )
            facts["actions"] = {
                "upload": upload,
                "verify": {"href": f"{hub.url}/{prefix}{repo_id}.git/info/lfs/verify"},
            }
        objects.append(facts)
    return json_response({"transfer": "multipart" if in_parts else "basic", "objects": objects})


def single_upload(hub, sha256):
    return {"href": f"{hub.storage_url}/lfs/{sha256}"}


def parted_upload(hub, oid, size):
    """The address of every part, by its number as a text, and where to say that all were sent."""
    number = secrets.token_hex(8)
    hub.parted_uploads[number] = PartedUpload(oid, size)
    count = -(-size // hub.part_size)
    addresses = {
        f"{part:05d}": f"{hub.storage_url}/lfs/{number}/{part}" for part in range(1, count + 1)
    }
    return {
        "href": f"{hub.url}/api/complete-multipart/{number}",
        "header": {"chunk_size": str(hub.part_size), **addresses},
    }


def lfs_upload(hub, request, sha256):
    keep_object(hub, sha256, request.body)
    return Response(headers={"ETag": part_etag(request.body)})


def keep_object(hub, sha256, content):
    if hashlib.sha256(content).hexdigest() != sha256:
        raise HubError(400, "the content does not have the announced SHA-256")
    hub.lfs_objects[sha256] = content


def upload_part(hub, request, number, part):
    """Takes one part; its ETag is what the client has to show in the end."""
    hub.parted_uploads[number].parts[int(part)] = request.body
    return Response(headers={"ETag": part_etag(request.body)})


def part_etag(content):
    return f'"{hashlib.md5(content).hexdigest()}"'


def complete_upload(hub, request, number):
    """Puts the parts together that the client lists."""
    upload, listed = hub.parted_uploads[number], request.json()
    sent = {part: part_etag(content) for part, content in upload.parts.items()}
    if (
        listed["oid"] != upload.sha256
        or {part["partNumber"]: part["etag"] for part in listed["parts"]} != sent
    ):
        raise HubError(400, "the parts are not those that were sent")
    keep_object(hub, upload.sha256, b"".join(upload.parts[part] for part in sorted(upload.parts)))
    del hub.parted_uploads[number]
    return json_response({})


def lfs_verify(hub, request, prefix, repo_id):
    writable_repository(hub, request, git_type(prefix), repo_id)
    announced = request.json()
    if len(hub.lfs_objects.get(announced["oid"], b"")) != announced["size"]:
        raise HubError(404, "the object was not uploaded")
    return json_response({})


def lfs_download(hub, request, sha256):
    if not hub.is_stored(sha256):
        raise HubError(404, "no such object")
    return file_response(request, hub.large_content(sha256), {"ETag": f'"{sha256}"'})
