"""Which function answers which call."""

import re
from urllib.parse import unquote

from sgdmix_hub.demo.loopback_hub import access, api, storage, xet

from .http import HubError, error_response

API = r"/api/(?P<repo_type>model|dataset|space)s/(?P<repo_id>[^/]+/[^/]+)"
GIT = r"/(?P<prefix>(?:datasets|spaces)/)?(?P<repo_id>[^/]+/[^/]+)"
REVISION = "(?P<revision>[^/]+)"
BRANCH = "(?P<branch>[^/]+)"
ROUTES = (
    ("GET", "/api/whoami-v2", access.whoami),
    ("POST", "/api/repos/create", api.create_repository),
    ("DELETE", "/api/repos/delete", api.delete_repository),
    ("POST", "/api/validate-yaml", api.validate_yaml),
    ("GET", "/api/(?P<repo_type>model|dataset|space)s", api.list_repositories),
    ("GET", API, api.info),
    ("GET", f"{API}/revision/{REVISION}", api.info),
    ("GET", f"{API}/auth-check", access.check_read),
    ("GET", f"{API}/auth-check/write", access.check_write),
    ("PUT", f"{API}/settings", api.change_settings),
    ("GET", f"{API}/tree/(?P<revision_and_folder>.+)", api.list_tree),
    ("POST", f"{API}/paths-info/{REVISION}", api.paths_info),
    ("GET", f"{API}/refs", api.refs),
    ("GET", f"{API}/commits/(?P<revision>.+)", api.commits),
    ("POST", f"{API}/preupload/{REVISION}", api.preupload),
    ("POST", f"{API}/commit/{BRANCH}", api.create_commit),
    ("POST", f"{API}/super-squash/{BRANCH}", api.super_squash),
    ("POST", f"{API}/tag/{REVISION}", api.create_tag),
    ("DELETE", f"{API}/tag/(?P<tag>[^/]+)", api.delete_tag),
    ("POST", f"{API}/branch/{BRANCH}", api.create_branch),
    ("DELETE", f"{API}/branch/{BRANCH}", api.delete_branch),
    ("GET", f"{API}/xet-write-token/{REVISION}", xet.xet_write_token),
    ("GET", f"{API}/xet-read-token/{REVISION}", xet.xet_read_token),
    ("GET", f"{GIT}/resolve/{REVISION}/(?P<path>.+)", api.resolve),
    ("GET", f"{GIT}/raw/{REVISION}/(?P<path>.+)", api.raw),
    ("POST", rf"{GIT}\.git/info/lfs/objects/batch", storage.lfs_batch),
    ("POST", rf"{GIT}\.git/info/lfs/verify", storage.lfs_verify),
    ("PUT", "/lfs/(?P<sha256>[0-9a-f]{64})", storage.lfs_upload),
    ("PUT", r"/lfs/(?P<number>[0-9a-f]{16})/(?P<part>\d+)", storage.upload_part),
    ("POST", "/api/complete-multipart/(?P<number>[0-9a-f]{16})", storage.complete_upload),
    ("GET", "/lfs/(?P<sha256>[0-9a-f]{64})", storage.lfs_download),
)


def answer(hub, request):
    """The response to a request, errors included."""
    method = "GET" if request.method == "HEAD" else request.method
    try:
        if request.headers.get("authorization") and request.account is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        for routed, pattern, function in ROUTES:
            if routed == method and (match := re.fullmatch(pattern, request.path)):
                return function(
                    hub,
                    request,
                    **{name: unquote(value or "") for name, value in match.groupdict().items()},
                )
        raise HubError(404, f"no such call: {request.method} {request.path}")
    except HubError as error:
        return error_response(error)
