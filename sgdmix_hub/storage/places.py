"""Names of places: a local folder, or the URL of a folder in an object store."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from sgdmix_hub.errors import UserError, shown

SCHEME = "://"
LOCAL = ("file", "local")
BUCKETS = "hf://buckets/"


def is_url(place: str) -> bool:
    return SCHEME in place


def check_url(name: str, url: str) -> None:
    """Raises `UserError` unless `url`, the setting `name`, can name a folder in an object store.

    Credentials in it are refused: settings are printed and logged.
    """
    scheme, _, rest = url.partition(SCHEME)
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) or not re.fullmatch(r"/*[^/[\]]+.*", rest):
        raise UserError(f"{name} {shown(url)}: give a folder, or a URL such as s3://bucket/folder")
    if scheme in LOCAL:
        raise UserError(f"{name} {shown(url)}: give the folder itself, without {scheme}{SCHEME}")
    if "::" in url:
        raise UserError(f"{name} {shown(url)}: name one store, without ::")
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            f"{name} holds more than a bucket and a folder: credentials and options of a store "
            "come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, HF_TOKEN ...)"
        )
    if any(part in (".", "..") for part in rest.split("/")):
        raise UserError(f"{name} {shown(url)}: name the folder without . and ..")
    if scheme == "hf" and not re.fullmatch(rf"{BUCKETS}[^/]+/[^/]+(/.*)?", url):
        raise UserError(
            f"{name} {shown(url)}: on the Hub a run needs a bucket, {BUCKETS}org/name/folder; "
            "every file would be a commit in a repository"
        )


def refuse_url(name: str, place: str) -> None:
    """Raises `UserError` if a setting that must be a local folder is a URL."""
    if is_url(place):
        raise UserError(
            f"{name} {shown(place)}: this program needs a folder of this machine; only sgdmix "
            "augment and sgdmix evaluate write to an object store"
        )
