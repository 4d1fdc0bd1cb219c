"""Pins: what the content hash of a folder covers, and what names are refused."""

import hashlib
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdmix_hub.errors import UserError
from sgdmix_hub.files import file_sha256
from sgdmix_hub.hub.pins import Pin, content_hash, local_folder, parse_pins, resolve

FILES = {
    "config.json": b"{}",
    "data/train.parquet": b"rows",
    "data/test.parquet": b"",
    "README.md": b"# Birds\n",
}


@pytest.mark.parametrize("name", ["org/birds", "birds", "birds@home"])
@pytest.mark.parametrize("revision", ["0" * 40, "sha256-" + "0" * 64])
def test_a_published_pin_is_read_back_and_knows_whether_the_hub_has_it(name, revision):
    pin = Pin.parse(f"{name}@{revision}")
    assert pin == Pin(name, revision) and pin.is_local == revision.startswith("sha256-")
    assert parse_pins({"dataset_name": str(pin)}) == {"dataset_name": pin}
    assert pin.holds_same_as(Pin("other", revision)) and not pin.holds_same_as(Pin(name, "1" * 40))


@pytest.mark.parametrize("name", ["folder/x.safetensors", "a/b/c/x.safetensors", "x.safetensors"])
def test_a_file_in_the_place_of_its_folder_is_told_without_asking_the_hub(name):
    with pytest.raises(UserError, match=r"give the folder .* --adapter_weight_name"):
        resolve(name)


def write_files(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path / "birds", FILES)


def test_copies_elsewhere_have_the_same_hash_whatever_the_order_of_writing(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "other place" / "copy")
    rewritten = write_files(tmp_path / "rewritten", dict(reversed(FILES.items())))
    assert content_hash(folder) == content_hash(copied) == content_hash(rewritten)


@given(data=st.data())
@settings(max_examples=40)
def test_any_byte_changes_the_hash(tmp_path_factory, data):
    content = data.draw(st.binary(min_size=1, max_size=64))
    position = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[position] ^= data.draw(st.integers(1, 255))
    folders = [
        write_files(tmp_path_factory.mktemp("bytes"), {"a/b.bin": bytes(value)})
        for value in (content, changed)
    ]
    assert content_hash(folders[0]) != content_hash(folders[1])


@pytest.mark.parametrize("name", FILES)
def test_a_name_changes_the_hash_and_so_does_a_missing_or_an_added_file(folder, name):
    before = content_hash(folder)
    renamed = (folder / name).rename(folder / f"{name}.bak")
    after_renaming = content_hash(folder)
    renamed.unlink()
    after_removal = content_hash(folder)
    write_files(folder, {name: FILES[name]})
    assert content_hash(folder) == before
    write_files(folder, {f"{name}.more": b""})
    assert len({before, after_renaming, after_removal, content_hash(folder)}) == 4


def test_moved_content_changes_the_hash(tmp_path):
    """Names and contents are hashed together: swapping two files' contents is another folder."""
    first = write_files(tmp_path / "first", {"a": b"1", "b": b"2"})
    second = write_files(tmp_path / "second", {"a": b"2", "b": b"1"})
    assert content_hash(first) != content_hash(second)


@pytest.mark.parametrize(
    "hidden", [".gitattributes", ".cache/huggingface/download.lock", "data/.part", ".git/HEAD"]
)
def test_hidden_files_do_not_count(folder, hidden):
    before = content_hash(folder)
    write_files(folder, {hidden: b"anything"})
    assert content_hash(folder) == before


def test_a_folder_below_a_hidden_one_is_hashed_like_any_other(folder, tmp_path):
    assert content_hash(folder) == content_hash(
        shutil.copytree(folder, tmp_path / ".hidden" / "birds")
    )


def test_file_sha256_is_that_of_hashlib(tmp_path):
    content = bytes(range(256)) * 9000  # more than two blocks
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_local_pin_holds_the_folder_and_publishes_no_path(folder):
    for spelling in (folder, f"{folder}/", folder / ".." / folder.name):
        pin = resolve(str(spelling))
        assert pin.is_local and str(pin) == f"{folder.name}@{content_hash(folder)}"
        assert "/" not in str(pin)
        assert local_folder(pin) == pin.path and content_hash(local_folder(pin)) == pin.revision


def test_the_pin_of_a_local_folder_is_no_name_for_it(folder):
    with pytest.raises(UserError, match="was a local folder: give its path"):
        resolve(str(resolve(str(folder))))


@pytest.mark.parametrize(
    "name",
    [
        "birds",
        "",
        "@main",
        "org/birds/train",
        "/no/such/folder",
        "org/",
        "/birds",
        "a b/c",
        "org@main",
    ],
)
def test_what_is_neither_a_folder_nor_a_repository_is_refused(name):
    with pytest.raises(UserError, match="no such folder"):
        resolve(name)


@pytest.mark.parametrize("name", ["./nothing", "org/..birds--", "-org/birds", "org/" + "b" * 200])
def test_names_the_hub_does_not_allow_are_refused(name):
    with pytest.raises(UserError, match="valid"):
        resolve(name)


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_without_the_hub_a_repository_cannot_be_pinned(repo_type):
    """A cached version must not be taken for the one that was asked for: offline is an error, not a
    guess.
    """
    with pytest.raises(UserError, match="org/birds"):
        resolve("org/birds@v1.0.0", repo_type)


def test_a_file_is_no_folder(folder):
    with pytest.raises(UserError):
        resolve(str(folder / "config.json"))
