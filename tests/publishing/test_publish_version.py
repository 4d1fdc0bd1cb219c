"""Generations published to the loopback Hub by the real client: once and completely, or not at all,
and read back as they were.
"""

import base64
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from generations import digests
from huggingface_hub import DatasetCard
from loopback_hub import READ_TOKEN, STRANGER_TOKEN, run_python
from published_versions import (
    LOAD,
    LOAD_AGAIN,
    LOAD_PUBLISHED,
    card_of,
    data_of,
    history,
    loaded,
    local_files,
    local_rows,
    pushed,
    repository,
)
from publishing import EVIL, NAMES, Publisher, another


@pytest.fixture(scope="module")
def published(publisher, first_version, second_version):
    """Two versions of one repository; tests only read it, or copy it with `another`."""
    before = digests(first_version), digests(second_version)
    publisher.published(first_version, "birds/published")
    publisher.published(second_version, "birds/published", tag="v1.1.0")
    # Publishing only reads, also in state/.
    assert (digests(first_version), digests(second_version)) == before
    return "birds/published"


# ---- one version, and the next ----


def test_every_version_is_one_commit_with_exactly_its_files(
    publisher, published, first_version, second_version
):
    hub = publisher.hub
    second, first, initial = history(hub, published)
    assert (second.parent, first.parent) == (first.oid, initial.oid)
    assert repository(hub, published).tags == {"v1.0.0": first.oid, "v1.1.0": second.oid}
    assert pushed(hub, published, "v1.0.0") == local_files(first_version)
    # The first version had 3 shards, this one has 2.
    assert pushed(hub, published, "v1.1.0") == local_files(second_version)
    assert first.title == "v1.0.0: 12 images by SGD-Mix"


def test_a_colleague_loads_every_version_with_its_own_rows(
    publisher, published, first_version, second_version
):
    for version, output in {"v1.0.0": first_version, "v1.1.0": second_version}.items():
        facts = loaded(publisher.hub, published, version)
        assert facts["rows"] == facts["streamed"] == local_rows(output)
        assert facts["names"] == NAMES and facts["sizes"] == [[32, 32]]


def test_load_published_never_gives_another_version_also_when_the_hub_fails(
    publisher, published, first_version, second_version, tmp_path
):
    hub, cache = publisher.hub, {"HF_HOME": str(tmp_path)}
    first, second = (
        [repository(hub, published).tags[tag], local_rows(o)]
        for tag, o in zip(("v1.0.0", "v1.1.0"), (first_version, second_version), strict=True)
    )
    assert loaded(hub, published, "v1.0.0", "main", code=LOAD_PUBLISHED, **cache) == [first, second]
    hub.fail("GET", f"/api/datasets/{published}", status=503, times=10**6)
    hub.fail("HEAD", f"/datasets/{published}", status=503, times=10**6)
    try:
        for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
            known, unknown, branch = loaded(
                hub,
                published,
                "v1.0.0",
                "v1.1.0",
                "main",
                code=LOAD_AGAIN,
                **cache | environment,
            )
            assert known == first
            assert "cannot reach the Hub" in unknown and "give the tag of a version" in branch
    finally:
        hub.faults.clear()


def test_the_card_tells_what_changed_and_what_is_in_it(publisher, published, first_version):
    card, data = card_of(publisher.hub, published), data_of(publisher.hub, published)
    versions = (
        "| v1.0.0 | default | 12 | first version |\n"
        "| v1.1.0 | default | 24 | num\\_candidates 3 → 5; num\\_variants 1 → 2 |"
    )
    assert versions in card
    method = data["sgdmix"]["default"]
    assert (method["strength"], method["num_candidates"], method["saliency_method"]) == (
        0.0,
        5,
        "spectral-residual",
    )
    assert data["license"] == "mit"
    assert data["size_categories"] == ["n<1K"]
    assert data["task_categories"] == ["image-classification"]
    assert data["dataset_info"]["splits"][0]["num_examples"] == 24
    assert f"hf://datasets/{published}@v1.1.0/sgdmix/default/config.yaml" in card
    assert 'revision="v1.1.0"' in card
    assert not re.search("path/or/name|version-of", card) and card.count("## How it was made") == 1
    pictures = re.findall(r"\]\((assets/[^)]+)\)", card)
    assert pictures and set(pictures) <= set(pushed(publisher.hub, published))


def test_the_cards_python_runs(publisher, published, evil_source):
    blocks = re.findall(r"```python\n(.*?)```", card_of(publisher.hub, published), re.DOTALL)
    code = "\n".join(blocks).replace("path/of/the/source", str(evil_source))
    code += (
        "\nmixed = RealAndSynthetic(p=1.0)\n"
        "print(len(mixed), sorted({mixed[i]['label'] for i in range(12)}), mixed[0]['image'].size)"
    )
    done = run_python(publisher.hub, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "12 [0, 1, 2] (32, 32)"


def test_a_hostile_class_name_arrives_and_changes_nothing(publisher, published, first_version):
    card = DatasetCard(card_of(publisher.hub, published))
    (label,) = [
        feature
        for feature in card.data.to_dict()["dataset_info"]["features"]
        if feature["name"] == "label"
    ]
    assert label["dtype"]["class_label"]["names"]["0"] == EVIL
    assert "<script>" not in card.text
    headings = re.findall(
        r"^#+ .*", re.sub(r"```.*?```", "", card.text, flags=re.DOTALL), re.MULTILINE
    )
    assert headings[0] == "# evil-birds SGD-Mix"
    assert all(line.startswith("## ") for line in headings[1:])
    assert "script" not in str(headings)


# ---- again ----


def test_the_same_version_again_is_left_alone(publisher, published, repo_id, first_version):
    hub = publisher.hub
    twin = another(hub, published, repo_id)
    head, tags = history(hub, repo_id)[0].oid, dict(twin.tags)
    pin = publisher.published(first_version, repo_id)
    assert pin == f"{repo_id}@{tags['v1.0.0']}"
    assert (history(hub, repo_id)[0].oid, twin.tags) == (head, tags)
    assert {call.method for call in hub.calls if "create" not in call.path} == {"GET"}


def test_another_content_under_a_tag_that_is_there_is_refused(
    publisher, published, repo_id, first_version, second_version, generation
):
    hub = publisher.hub
    twin = another(hub, published, repo_id)
    before = copy_of(twin)
    assert (
        f"{repo_id}@v1.0.0 is published already, with other content (assets/contact_sheet.png"
        in publisher.refused(second_version, repo_id)
    )
    other = generation("other-licence", num_candidates=3, license="cc-by-4.0")
    assert "with other content (sgdmix/default/manifest.json)" in publisher.refused(other, repo_id)
    assert copy_of(twin) == before and not hub.calls_of("POST", "/(preupload|commit|tag)/")


def copy_of(repository):
    return dict(repository.tags), dict(repository.branches), set(repository.commits)


def test_another_card_under_a_tag_that_is_there_is_refused(
    publisher, published, repo_id, first_version, tmp_path
):
    another(publisher.hub, published, repo_id)
    edited = shutil.copytree(first_version, tmp_path / "edited")
    card = edited / "repo" / "README.md"
    card.write_text(card.read_text().replace("## Limits", "## Limits and more"))
    assert "the card of default" in publisher.refused(edited, repo_id)


# ---- several configurations, branches ----


@pytest.fixture(scope="module")
def strong(generation):
    return generation("strong", config_name="strong", num_candidates=7, license="cc-by-4.0")


def test_configurations_share_a_repository_and_lose_nothing(
    publisher, published, repo_id, strong, first_version, second_version
):
    hub = publisher.hub
    another(hub, published, repo_id)
    publisher.published(strong, repo_id, tag="v1.2.0")
    assert pushed(hub, repo_id) == local_files(second_version) | local_files(strong)
    card, data = card_of(hub, repo_id), data_of(hub, repo_id)
    assert section_of(card, "default") == section_of(card_of(hub, repo_id, "v1.1.0"), "default")
    assert [(config["config_name"], config.get("default")) for config in data["configs"]] == [
        ("default", True),
        ("strong", None),
    ]
    assert [info["config_name"] for info in data["dataset_info"]] == ["default", "strong"]
    assert data["license"] == ["mit", "cc-by-4.0"] and list(data["sgdmix"]) == ["default", "strong"]
    assert "| v1.2.0 | strong | 12 | first version |" in card and "## Configuration strong" in card
    assert "assets/strong/contact_sheet.png" in section_of(card, "strong")
    publisher.published(first_version, repo_id, tag="v2.0.0")  # other shards of one configuration
    assert pushed(hub, repo_id) == local_files(first_version) | local_files(strong)
    assert section_of(card_of(hub, repo_id), "strong") == section_of(card, "strong")
    assert loaded(hub, repo_id, "v2.0.0", "strong")["rows"] == local_rows(strong)
    assert loaded(hub, repo_id, "v2.0.0")["rows"] == local_rows(first_version)
    assert loaded(hub, repo_id, "v1.2.0", "default")["rows"] == local_rows(second_version)


def section_of(card, config_name):
    return re.search(
        f"<!-- sgdmix:{config_name}:begin -->.*<!-- sgdmix:{config_name}:end -->", card, re.DOTALL
    )[0]


def test_a_version_goes_to_a_branch_when_asked_for(
    publisher, published, repo_id, first_version, second_version
):
    hub = publisher.hub
    twin = another(hub, published, repo_id)
    head = twin.branches["main"]
    publisher.published(first_version, repo_id, tag="v0.9.0", hub_branch="old")
    assert twin.branches["main"] == head and twin.tags["v0.9.0"] == twin.branches["old"] != head
    assert pushed(hub, repo_id, "v0.9.0") == local_files(first_version)
    assert "has a branch called old" in publisher.refused(second_version, repo_id, tag="old")


def test_what_people_wrote_and_other_files_stay(publisher, published, repo_id, second_version):
    """Also what makes a repository gated, which is in its card's YAML."""
    hub = publisher.hub
    twin = another(hub, published, repo_id)
    card = card_of(hub, repo_id, "v1.0.0").replace(
        "# evil-birds SGD-Mix\n", "# Our birds\n\nAsk Ada.\n"
    )
    card = (
        card.replace("license: mit\n", "\nlicense: mit\nextra_gated_prompt: Be nice.\n", 1)
        + "\n## Thanks\n\nTo all.\n"
    )
    lines = [{"key": "header", "value": {"summary": "by hand"}}]
    for name, content in {"README.md": card, "notes/a.txt": "a", "data/more.csv": "x"}.items():
        lines.append(
            {
                "key": "file",
                "value": {"path": name, "content": base64.b64encode(content.encode()).decode()},
            }
        )
    twin.commit("main", lines, "ada", hub.is_stored)
    publisher.published(second_version, repo_id, tag="v1.3.0")
    merged = card_of(hub, repo_id)
    assert "# Our birds\n\nAsk Ada." in merged
    assert "## Thanks\n\nTo all." in merged
    assert "evil-birds SGD-Mix\n" not in merged.split("---\n")[2][:60]
    assert data_of(hub, repo_id)["extra_gated_prompt"] == "Be nice."
    assert {"notes/a.txt", "data/more.csv"} <= set(pushed(hub, repo_id))


TOKENS = [
    (READ_TOKEN, "may not write to"),
    (STRANGER_TOKEN, "may not write to"),
    ("hf_unknown", "does not know the token"),
]


@pytest.mark.parametrize(("token", "reason"), TOKENS)
def test_without_permission_nothing_happens(
    publisher, published, repo_id, first_version, second_version, token, reason
):
    assert reason in publisher.refused(first_version, repo_id, token=token)
    assert ("dataset", repo_id) not in publisher.hub.repositories
    twin = another(publisher.hub, published, repo_id)
    before = copy_of(twin)
    assert reason in publisher.refused(second_version, repo_id, tag="v3.0.0", token=token)
    assert copy_of(twin) == before


def test_private_when_asked_for_and_never_public_by_mistake(
    publisher, published, repo_id, first_version
):
    publisher.published(first_version, repo_id, hub_private_repo=True)
    assert repository(publisher.hub, repo_id).private
    assert loaded(publisher.hub, repo_id, "v1.0.0")["rows"] == local_rows(first_version)
    assert run_python(publisher.hub, LOAD, repo_id, "v1.0.0", token=None).returncode == 1
    assert "is public" in publisher.refused(
        first_version, published, tag="v9", hub_private_repo=True
    )


# ---- somebody else at the same moment ----


def test_a_push_in_between_is_not_overwritten_and_the_same_command_finishes(
    publisher, published, repo_id, first_version
):
    hub = publisher.hub
    twin = another(hub, published, repo_id)

    def push_by_somebody(body):
        lines = [
            {"key": "header", "value": {"summary": "theirs"}},
            {"key": "file", "value": {"path": "x.txt", "content": "dGhlaXJz"}},
        ]
        twin.commit("main", lines, "bob", hub.is_stored)
        return body

    tags = dict(twin.tags)
    hub.fail("POST", f"{repo_id}/preupload/", rewrite=push_by_somebody)
    assert f"somebody else pushed to {repo_id}" in publisher.refused(
        first_version, repo_id, tag="v3.0.0"
    )
    assert history(hub, repo_id)[0].title == "theirs" and twin.tags == tags
    publisher.published(first_version, repo_id, tag="v3.0.0")
    assert pushed(hub, repo_id) == local_files(first_version) | {"x.txt": b"theirs"}


def test_of_two_publishers_one_wins_and_the_other_is_told_and_can_run_again(
    publisher, repo_id, first_version, strong
):
    """Two processes, one Hub: whoever loses repeats its command, and nothing of either is lost."""
    hub, rival = publisher.hub, Publisher(publisher.hub)
    try:
        publisher.published(first_version, repo_id)
        outputs = {"v2.0.0": first_version, "v2.1.0": strong}
        # By then both have read the head.
        hub.fail("POST", f"{repo_id}/preupload/", delay=0.5, times=2)
        with ThreadPoolExecutor() as pool:
            started = [
                pool.submit(who.publish, strong, repo_id, tag=tag)
                for who, tag in zip((publisher, rival), outputs, strict=True)
            ]
        ended = [future.result() for future in started]
        told = [outcome.error for outcome in ended if outcome.error]
        assert len(told) <= 1
        assert all(re.search("somebody else|published already", line) for line in told)
        for tag in outputs:
            publisher.published(strong, repo_id, tag=tag)
        assert set(repository(hub, repo_id).tags) == {"v1.0.0", "v2.0.0", "v2.1.0"}
        assert pushed(hub, repo_id) == local_files(first_version) | local_files(strong)
    finally:
        rival.close()


def test_a_tag_that_somebody_set_in_between_is_told(publisher, published, repo_id, first_version):
    hub = publisher.hub
    twin = another(hub, published, repo_id)

    def tag_by_somebody(body):
        twin.add_tag("v3.0.0", twin.tags["v1.1.0"])
        return body

    hub.fail("POST", f"{repo_id}/tag/", rewrite=tag_by_somebody)
    assert f"{repo_id}@v3.0.0 was published by somebody else" in publisher.refused(
        first_version, repo_id, tag="v3.0.0"
    )
    assert twin.tags["v3.0.0"] == twin.tags["v1.1.0"]
    assert "is published already, with other content" in publisher.refused(
        first_version, repo_id, tag="v3.0.0"
    )
