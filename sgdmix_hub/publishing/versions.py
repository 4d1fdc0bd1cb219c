"""A finished generation -> a version of a dataset on the Hub: one commit on top of what is there,
verified, then a tag that never moves.

    repo/ checked against its manifest -> files uploaded -> card merged, old shards taken away, all
    in one commit -> verified -> tag

Whatever fails, `repo/` is only read, `main` has moved by one whole commit or not at all, and no tag
has changed; the same call goes on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from sgdmix_hub.errors import UserError
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
from sgdmix_hub.hub.formats import read_manifest
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
from sgdmix_hub.settings.generation import check_config_name
from sgdmix_hub.settings.hub import HubSettings

from .card_merge import merge_cards, same_on_card
from .layout import EVALUATION, check_share_skipped, data_folder

CARD = "README.md"
DATASET = "dataset"


@dataclass(frozen=True)
class LocalVersion:
    """What a generation left to publish: its configuration's files by their names in the
    repository, and its card.
    """

    config_name: str
    manifest: dict
    files: dict[str, Path]
    digests: Digests
    card: str

    def is_own(self, name: str) -> bool:
        """Whether a file of the repository is one that only this configuration can have."""
        return fnmatch(name, f"{data_folder(self.config_name)}/train-*") or name.startswith(
            f"sgdmix/{self.config_name}/"
        )


def publish_version(
    folder: str | Path,
    settings: HubSettings,
    max_skipped: float,
    token: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Pin:
    """Publishes a generation as the version `settings.tag`, once: what is published already, and is
    the same, is left alone.

    Args:
        folder: output folder of a finished generation, or the repo folder in it.
        max_skipped: share of skipped rows above which nothing is published.
        token: one with write permission; that of HF_TOKEN or `hf auth login` when not given.
        timeout: seconds without a byte after which a call to the Hub is given up.

    Returns:
        The repository at the commit that the tag names.

    Raises:
        UserError: not finished or damaged files, no licence, local inputs, another content under
            this tag, no permission, a push by somebody else in between, or Hub out of reach.
        TooManySkipped: more rows were skipped than `max_skipped`.
    """
    local = read_version(Path(folder), settings, max_skipped)
    repo_id = settings.hub_dataset_id
    with hub_client(repo_id, token, timeout) as api:
        prepare_repository(api, repo_id, DATASET, settings.hub_private_repo)
        tags, branches = references(api, repo_id)
        if settings.tag in tags:
            check_same_content(api, settings, tags[settings.tag], local)
            return Pin(repo_id, tags[settings.tag])
        head = branch_head(api, settings, branches)
        commit = commit_version(api, settings, head, local)
        set_tag(api, repo_id, settings.tag, commit)
        return Pin(repo_id, commit)


def check_can_publish(settings: HubSettings, is_made: bool) -> None:
    """Fails now, in the first second of a long run, where `publish_version` would fail at its end.
    Raises `UserError`.

    Args:
        is_made: whether the generation is finished, and so may be what the tag holds already.
    """
    check_can_push(settings.hub_dataset_id, repo_type=DATASET, private=settings.hub_private_repo)
    with hub_client(settings.hub_dataset_id, None, TIMEOUT_SECONDS) as api:
        tags, branches = references(api, settings.hub_dataset_id)
    check_no_branch(settings, branches)
    if settings.tag in tags and not is_made:
        raise UserError(
            f"{settings.hub_dataset_id} has a version {settings.tag} already: give this one another --tag"
        )


def announcement(pin: Pin, tag: str) -> str:
    """What is said of a version that is on the Hub: its name, and the name under which nobody can
    ever put something else.
    """
    return f"published as {pin.name}@{tag}, commit {pin.revision}\nwho must be sure of these very rows names {pin}: a tag can be moved"


def check_inputs(pins: dict[str, str], allow_local: bool) -> None:
    """Raises `UserError` when inputs are local folders, which nobody else could make the dataset
    from again.
    """
    local = [f"{name} {pin.name}" for name, pin in parse_pins(pins).items() if pin.is_local]
    if local and not allow_local:
        raise UserError(
            f"made from local folders ({', '.join(local)}), so nobody else could make it again: push them to the Hub and generate from "
            "there, or publish it nevertheless with --allow_local_inputs"
        )


def read_version(folder: Path, settings: HubSettings, max_skipped: float) -> LocalVersion:
    """The generation in a folder, with every file read and compared with the manifest. Raises
    `UserError` and `TooManySkipped`.
    """
    repo = folder / "repo" if (folder / "repo").is_dir() else folder
    manifests = sorted(repo.glob("sgdmix/*/manifest.json"))
    if not manifests or not (repo / CARD).is_file():
        raise UserError(
            f"{folder} holds no finished generation: run sgdmix augment with this --output_dir to its end"
        )
    if len(manifests) > 1:
        raise UserError(
            f"{folder} holds several configurations: publish each from the output folder of its own run"
        )
    (path,) = manifests
    check_config_name(path.parent.name)
    manifest = read_manifest(path)
    if not (manifest["license"] or "").strip():
        raise UserError(
            f"{repo} states no licence: remove it and run the generation again with --license, finished shards are kept; "
            "without one nobody may use the dataset"
        )
    check_inputs(
        manifest["pins"] | manifest.get(EVALUATION, {}).get("pins", {}), settings.allow_local_inputs
    )
    check_share_skipped(manifest, max_skipped, path)
    files = {name: repo / name for name in [*manifest["files"], path.relative_to(repo).as_posix()]}
    missing = [name for name, file in files.items() if not file.is_file()]
    digests = {name: content_digests(file) for name, file in files.items() if name not in missing}
    damaged = missing + [
        name
        for name, facts in manifest["files"].items()
        if name in digests and facts["sha256"] not in digests[name]
    ]
    if damaged:
        raise UserError(
            f"{repo} is damaged ({', '.join(damaged[:3])} missing or not as the manifest states): remove it and run the generation again, "
            "finished shards are kept"
        )
    try:
        card = (repo / CARD).read_text(encoding="utf-8")
    except ValueError:
        raise UserError(
            f"{repo / CARD} is not UTF-8 text: remove {repo} and run the generation again, finished shards are kept"
        ) from None
    return LocalVersion(path.parent.name, manifest, files, digests, card)


def references(api: HfApi, repo_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """The commits of all tags and branches."""
    refs = patiently(lambda: api.list_repo_refs(repo_id, repo_type=DATASET))
    return tuple(
        {ref.name: ref.target_commit for ref in kind} for kind in (refs.tags, refs.branches)
    )


def check_no_branch(settings: HubSettings, branches: dict[str, str]) -> None:
    if settings.tag in branches:
        raise UserError(
            f"{settings.hub_dataset_id} has a branch called {settings.tag}: give the version another --tag"
        )


def branch_head(api: HfApi, settings: HubSettings, branches: dict[str, str]) -> str:
    """The commit at the head of the branch, which is made from `main` when it is missing."""
    check_no_branch(settings, branches)
    if settings.hub_branch in branches:
        return branches[settings.hub_branch]
    patiently(
        lambda: api.create_branch(
            settings.hub_dataset_id, branch=settings.hub_branch, repo_type=DATASET, exist_ok=True
        )
    )
    return patiently(
        lambda: api.repo_info(
            settings.hub_dataset_id, revision=settings.hub_branch, repo_type=DATASET
        )
    ).sha


def fetch_card(api: HfApi, repo_id: str, commit: str, known: dict[str, str]) -> str | None:
    """The card at a commit, or None. By hand: the client's cache checks no digest. Raises
    `UserError`.
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
    while len(contents) < 2:  # a reply may be cut off; two that are alike are what the Hub sends
        contents.append(patiently(ask))
        if known[CARD] in content_digests(contents[-1]):
            return contents[-1].decode("utf-8", errors="replace")
    if contents[0] != contents[1]:
        raise UserError(f"{CARD} of {repo_id}@{commit} did not arrive whole: {AGAIN}")
    raise UserError(
        f"the Hub lists {CARD} of {repo_id}@{commit} with another checksum than that of what it sends, twice the same: nothing was "
        "published; put that file there anew (`hf upload`), or tell who runs this Hub"
    )


def check_same_content(api: HfApi, settings: HubSettings, commit: str, local: LocalVersion) -> None:
    """Raises `UserError` unless a version that is there already holds this very generation."""
    repo_id, tag = settings.hub_dataset_id, settings.tag
    known = known_contents(api, repo_id, DATASET, commit)
    different = differing_files(known, local.digests)
    different += [name for name in known if local.is_own(name) and name not in local.files]
    theirs = fetch_card(api, repo_id, commit, known)
    if not different and not same_on_card(theirs, local.card, local.config_name, repo_id, tag):
        different = [f"the card of {local.config_name}"]
    if different:
        raise UserError(
            f"{repo_id}@{tag} is published already, with other content ({', '.join(different[:3])}): a version never changes, "
            "give this one another --tag"
        )


def commit_version(api: HfApi, settings: HubSettings, head: str, local: LocalVersion) -> str:
    """The commit that holds the version, and whatever the repository held besides; `head` itself
    where that does already.
    """
    repo_id = settings.hub_dataset_id
    known = known_contents(api, repo_id, DATASET, head)
    card = merge_cards(
        fetch_card(api, repo_id, head, known), local.card, local.config_name, repo_id, settings.tag
    ).encode()
    files = local.files | {CARD: card}
    digests = local.digests | {CARD: content_digests(card)}
    stale = [name for name in known if local.is_own(name) and name not in files]
    changed = differing_files(known, digests)
    if not changed and not stale:
        return head
    message = f"{settings.tag}: {local.manifest['rows']} images by SGD-Mix" + (
        "" if local.config_name == "default" else f" (configuration {local.config_name})"
    )
    return upload(
        api,
        repo_id,
        DATASET,
        {name: files[name] for name in changed},
        digests,
        head,
        message,
        deleted=stale,
        branch=settings.hub_branch,
    )


def set_tag(api: HfApi, repo_id: str, tag: str, commit: str) -> None:
    """Tags a commit, and looks whether the tag is there: a reply may be lost. Raises `UserError`
    when somebody else was faster.
    """
    for wait in attempts():
        failure = None
        try:
            api.create_tag(repo_id, tag=tag, revision=commit, repo_type=DATASET)
        except Exception as error:
            if status_of(error) != 409 and not is_passing(error):
                raise
            failure = error
        found = references(api, repo_id)[0].get(tag)
        if found == commit:
            return
        if found is not None:
            raise UserError(
                f"{repo_id}@{tag} was published by somebody else at the same moment, as {found}: run the same command again, it says "
                "whether that is the same content"
            )
        if failure is not None and (wait is None or status_of(failure) == 409):
            raise failure
        if wait is None:
            raise UserError(f"{repo_id} does not show the tag {tag} that it took: {AGAIN}")
        time.sleep(wait if failure is None else seconds_to_wait(failure, wait))
