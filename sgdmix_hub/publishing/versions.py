"""Publishes a finished generation as one version of a dataset on the Hub.

    check repo/ against its manifest -> upload the files, the shards of a large version to a
    staging branch -> commit all of them with the merged card and without the old shards -> verify
    the commit -> tag it

On any failure `repo/` is untouched, `main` has moved by one whole commit or not at all, and no tag
has changed. The same call then finishes the work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitOperationCopy, CommitOperationDelete, HfApi, hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import in_threads
from sgdmix_hub.hub.client import (
    AGAIN,
    TIMEOUT_SECONDS,
    attempts,
    hub_client,
    is_passing,
    patiently,
    seconds_to_wait,
    status_of,
)
from sgdmix_hub.hub.manifests import read_manifest
from sgdmix_hub.hub.pins import Pin, parse_pins
from sgdmix_hub.hub.push import (
    Digests,
    check_can_push,
    content_digests,
    differing_files,
    known_contents,
    prepare_repository,
    upload,
)
from sgdmix_hub.hub.staging import end_staging, make_branch, needs_staging, stage
from sgdmix_hub.output_folder import repo_in
from sgdmix_hub.settings.generation import check_config_name
from sgdmix_hub.settings.hub import HubSettings
from sgdmix_hub.storage.stores import HERE, Store, StoredFile

from .card_merge import merge_cards, same_on_card
from .fetching import bring_metadata
from .layout import CARD, EVALUATION, SHARDS, RepoLayout, check_share_skipped, manifests_in

DATASET = "dataset"


@dataclass(frozen=True)
class LocalVersion:
    """A finished generation: its files by their names in the repository, and its card."""

    layout: RepoLayout
    manifest: dict
    files: dict[str, Path | StoredFile]
    digests: Digests
    card: str

    @property
    def shards(self) -> dict[str, Path | StoredFile]:
        """The files that are too many for one commit, if any are."""
        return {name: file for name, file in self.files.items() if fnmatch(name, SHARDS)}


@dataclass(frozen=True)
class Destination:
    """Where a version is published, and as which tag."""

    repo_id: str
    tag: str
    branch: str
    private: bool

    @classmethod
    def of(cls, settings: HubSettings) -> Destination:
        """The destination in the settings, which `validate_hub` has checked."""
        assert settings.hub_dataset_id is not None and settings.tag is not None
        return cls(
            settings.hub_dataset_id, settings.tag, settings.hub_branch, settings.hub_private_repo
        )

    @property
    def staging(self) -> str:
        return f"sgdmix-staging-{self.tag}"

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.tag}"


def publish_version(
    folder: str | Path,
    settings: HubSettings,
    max_skipped: float,
    token: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
    store: Store = HERE,
) -> Pin:
    """Publishes a generation as the version `settings.tag`; a no-op if it is published already.

    Args:
        folder: output folder of a finished generation, or the repo folder in it.
        max_skipped: share of skipped rows above which nothing is published.
        token: a token with write permission; by default that of HF_TOKEN or `hf auth login`.
        timeout: seconds without a byte after which a call to the Hub is given up.
        store: where the files are, if not in `folder`. Shards come from there in small groups, each
            compared with the manifest; `folder` is where they are meanwhile.

    Returns:
        The repository at the commit of the tag.

    Raises:
        UserError: the generation is unfinished or damaged, has no licence or local inputs; the tag
            has other content; no permission; someone else pushed meanwhile; Hub out of reach.
        TooManySkipped: more rows were skipped than `max_skipped` allows.
    """
    local = read_version(Path(folder), settings, max_skipped, store)
    destination = Destination.of(settings)
    repo_id, tag = destination.repo_id, destination.tag
    with hub_client(repo_id, token, timeout) as api:
        prepare_repository(api, repo_id, DATASET, destination.private)
        tags, branches = references(api, repo_id)
        if tag in tags:
            check_same_content(api, destination, tags[tag], local)
            commit = tags[tag]
        else:
            head = branch_head(api, destination, branches)
            is_staged = destination.staging in branches
            commit = commit_version(api, destination, head, local, is_staged)
            set_tag(api, destination, commit)
        if destination.staging in branches or needs_staging(local.shards):
            end_staging(api, repo_id, DATASET, destination.staging)
        return Pin(repo_id, commit)


def check_can_publish(settings: HubSettings, is_made: bool) -> None:
    """Raises `UserError` before a long run if its `publish_version` would fail at the end.

    Args:
        is_made: whether the generation is finished already, and so may be what the tag holds.
    """
    destination = Destination.of(settings)
    check_can_push(destination.repo_id, repo_type=DATASET, private=destination.private)
    with hub_client(destination.repo_id, None, TIMEOUT_SECONDS) as api:
        tags, branches = references(api, destination.repo_id)
    check_no_branch(destination, branches)
    if destination.tag in tags and not is_made:
        raise UserError(
            f"{destination.repo_id} has a version {destination.tag} already: choose another --tag"
        )


def announcement(pin: Pin, tag: str | None) -> str:
    """Tells the user the name of a published version, and the name that can never change."""
    return (
        f"published as {pin.name}@{tag}, commit {pin.revision}\n"
        f"a tag can be moved by the owner, a commit cannot: to be sure of these rows, use {pin}"
    )


def check_inputs(pins: dict[str, str], allow_local: bool) -> None:
    """Raises `UserError` if inputs are local folders: nobody else could regenerate the dataset."""
    local = [f"{name} {pin.name}" for name, pin in parse_pins(pins).items() if pin.is_local]
    if local and not allow_local:
        raise UserError(
            f"made from local folders ({', '.join(local)}), so nobody else could make it again: "
            "push them to the Hub and generate from there, or publish with --allow_local_inputs"
        )


def read_version(
    folder: Path, settings: HubSettings, max_skipped: float, store: Store = HERE
) -> LocalVersion:
    """Reads a finished generation and checks every file against the manifest. The shards of one in
    an object store are checked when they are uploaded.

    Raises `UserError` and `TooManySkipped`.
    """
    repo = bring_metadata(folder, store) if store.is_remote else repo_in(folder)
    path = _only_manifest(repo, folder)
    layout = RepoLayout(path.parent.name)
    check_config_name(layout.config_name)
    manifest = read_manifest(path)
    if not (manifest["license"] or "").strip():
        raise UserError(
            f"{repo} states no licence, so nobody may use the dataset: remove it and run the "
            "generation again with --license; finished shards are kept"
        )
    pins = manifest["pins"] | manifest.get(EVALUATION, {}).get("pins", {})
    check_inputs(pins, settings.allow_local_inputs)
    check_share_skipped(manifest, max_skipped, path)
    remote = {
        name: StoredFile(store, repo / name, facts["bytes"], facts["sha256"])
        for name, facts in manifest["files"].items()
        if store.is_remote and fnmatch(name, SHARDS)
    }
    here = {name: repo / name for name in (*manifest["files"], layout.manifest)}
    here = {name: path for name, path in here.items() if name not in remote}
    local = {name: facts for name, facts in manifest["files"].items() if name not in remote}
    digests = _checked_digests(repo, here, manifest | {"files": local})
    digests |= {name: {file.sha256} for name, file in remote.items()}
    return LocalVersion(layout, manifest, here | remote, digests, _read_card(repo))


def _only_manifest(repo: Path, folder: Path) -> Path:
    """The manifest of the only configuration in a repository. Raises `UserError`."""
    manifests = manifests_in(repo)
    if not manifests or not (repo / CARD).is_file():
        raise UserError(
            f"{folder} holds no finished generation: finish sgdmix augment with this --output_dir"
        )
    if len(manifests) > 1:
        raise UserError(
            f"{folder} holds several configurations: publish each from the output folder of its run"
        )
    return manifests[0]


def _checked_digests(repo: Path, files: dict[str, Path], manifest: dict) -> Digests:
    """The digests of the files. Raises `UserError` unless they are those of the manifest."""
    missing = {name: None for name, file in files.items() if not file.is_file()}
    here = {name: file for name, file in files.items() if name not in missing}
    digests = dict(zip(here, in_threads(content_digests, here.values()), strict=True))
    damaged = [*missing] + [
        name
        for name, facts in manifest["files"].items()
        if name in digests and facts["sha256"] not in digests[name]
    ]
    if damaged:
        raise UserError(
            f"{repo} is damaged ({', '.join(damaged[:3])} missing or not as in the manifest): "
            "remove it and run the generation again; finished shards are kept"
        )
    return digests


def _read_card(repo: Path) -> str:
    try:
        return (repo / CARD).read_text(encoding="utf-8")
    except ValueError:
        raise UserError(
            f"{repo / CARD} is not UTF-8 text: remove {repo} and run the generation again; "
            "finished shards are kept"
        ) from None


def references(api: HfApi, repo_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """The commits of all tags and of all branches."""
    refs = patiently(lambda: api.list_repo_refs(repo_id, repo_type=DATASET))
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    return tags, {ref.name: ref.target_commit for ref in refs.branches}


def check_no_branch(destination: Destination, branches: dict[str, str]) -> None:
    """Raises `UserError` if a branch has the name of the tag."""
    if destination.tag in branches:
        raise UserError(
            f"{destination.repo_id} has a branch called {destination.tag}: choose another --tag"
        )


def branch_head(api: HfApi, destination: Destination, branches: dict[str, str]) -> str:
    """The commit at the head of the branch; a missing branch is created from `main`."""
    check_no_branch(destination, branches)
    repo_id, branch = destination.repo_id, destination.branch
    if branch in branches:
        return branches[branch]
    return make_branch(api, repo_id, DATASET, branch)


def fetch_card(api: HfApi, repo_id: str, commit: str, known: dict[str, str]) -> str | None:
    """The card at a commit, or None if there is none. Raises `UserError`.

    huggingface_hub's own download goes through its cache, which checks no digest.
    """
    if CARD not in known:
        return None
    url = hf_hub_url(repo_id, CARD, repo_type=DATASET, revision=commit, endpoint=api.endpoint)

    def ask() -> bytes:
        response = get_session().get(
            url, headers=build_hf_headers(token=api.token), follow_redirects=True
        )
        hf_raise_for_status(response)
        return response.content

    contents = []
    while len(contents) < 2:  # one reply may be cut off; two equal ones are what the Hub holds
        contents.append(patiently(ask))
        if known[CARD] in content_digests(contents[-1]):
            return contents[-1].decode("utf-8", errors="replace")
    if contents[0] != contents[1]:
        raise UserError(f"{CARD} of {repo_id}@{commit} did not arrive whole: {AGAIN}")
    raise UserError(
        f"the Hub sends {CARD} of {repo_id}@{commit}, twice the same, with another checksum than "
        "it lists: nothing was published; upload that file again (`hf upload`), or tell whoever "
        "runs this Hub"
    )


def check_same_content(
    api: HfApi, destination: Destination, commit: str, local: LocalVersion
) -> None:
    """Raises `UserError` unless the published version equals this generation."""
    repo_id = destination.repo_id
    known = known_contents(api, repo_id, DATASET, commit)
    different = differing_files(known, local.digests)
    different += [name for name in known if local.layout.owns(name) and name not in local.files]
    theirs = fetch_card(api, repo_id, commit, known)
    config_name = local.layout.config_name
    if not different and not same_on_card(
        theirs, local.card, config_name, repo_id, destination.tag
    ):
        different = [f"the card of {config_name}"]
    if different:
        raise UserError(
            f"{destination} is published already, with other content "
            f"({', '.join(different[:3])}): a version never changes, choose another --tag"
        )


def commit_version(
    api: HfApi, destination: Destination, head: str, local: LocalVersion, is_staged: bool
) -> str:
    """Commits the version on top of `head`; returns `head` itself if it already holds the version.

    Files of other configurations are kept. `is_staged`: whether there is a staging branch already.
    """
    repo_id, config_name = destination.repo_id, local.layout.config_name
    known = known_contents(api, repo_id, DATASET, head)
    theirs = fetch_card(api, repo_id, head, known)
    card = merge_cards(theirs, local.card, config_name, repo_id, destination.tag).encode()
    files = local.files | {CARD: card}
    digests = local.digests | {CARD: content_digests(card)}
    stale = [name for name in known if local.layout.owns(name) and name not in files]
    changed = differing_files(known, digests)
    if not changed and not stale:
        return head
    message = f"{destination.tag}: {local.manifest['rows']} images by SGD-Mix"
    if config_name != "default":
        message += f" (configuration {config_name})"
    shards = {name: file for name, file in local.shards.items() if name in set(changed)}
    copies: list[CommitOperationCopy] = []
    if shards and (is_staged or needs_staging(shards)):
        copies = stage(api, repo_id, DATASET, shards, digests, head, destination.staging, message)
        changed = [name for name in changed if name not in shards]
    return upload(
        api,
        repo_id,
        DATASET,
        {name: files[name] for name in changed},
        digests,
        head,
        message,
        [*copies, *(CommitOperationDelete(name, is_folder=False) for name in stale)],
        destination.branch,
    )


def set_tag(api: HfApi, destination: Destination, commit: str) -> None:
    """Tags a commit and verifies the tag, because the Hub's reply may be lost.

    Raises `UserError` if someone else set the tag first.
    """
    repo_id, tag = destination.repo_id, destination.tag
    for wait in attempts():
        failure = None
        try:
            api.create_tag(repo_id, tag=tag, revision=commit, repo_type=DATASET)
        except Exception as error:
            if status_of(error) != 409 and not is_passing(error):
                raise
            failure = error
        tagged = references(api, repo_id)[0].get(tag)
        if tagged == commit:
            return
        if tagged is not None:
            raise UserError(
                f"{destination} was published by somebody else at the same moment, as {tagged}: "
                "run the same command again to see whether the content is the same"
            )
        if failure is not None and (wait is None or status_of(failure) == 409):
            raise failure
        if wait is None:
            raise UserError(f"{repo_id} accepted the tag {tag} but does not list it: {AGAIN}")
        time.sleep(wait if failure is None else seconds_to_wait(failure, wait))
