"""Merges the card of one configuration into the card that a repository already has.

    ---
    YAML     configs, dataset_info and sgdmix are merged by configuration; other keys are kept
    ---
    # Title
    <!-- sgdmix:default:begin -->   this configuration's section, which is replaced
    <!-- sgdmix:default:end -->
    <!-- sgdmix:strong:begin -->    another configuration's section, which is kept
    <!-- sgdmix:strong:end -->
    <!-- sgdmix-versions:begin -->  a table of all versions
    <!-- sgdmix-versions:end -->

Text outside the marks, which people wrote, is kept. All functions work on text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sgdmix_hub.errors import UserError, one_line

from .card_yaml import read_card_yaml, write_card_yaml

SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
)

# Placeholders in a run's card, which cannot know yet where and as what it will be published.
UNPUBLISHED_NAME = "path/or/name/of/this/repository"
UNPUBLISHED_VERSION = "version-of-this-dataset"
MARK = "<!-- sgdmix"
FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
HISTORY = "history"  # key of the versions of a configuration
LICENSE_NAMES = ("license_name", "license_link")  # beside `license: other`
NO_SETTING = {"versions", "pins", "fingerprint", "trust_test", "rows", "license", HISTORY}


@dataclass(frozen=True)
class Card:
    """A README.md: its YAML and its Markdown body."""

    data: dict
    body: str

    def __str__(self) -> str:
        return f"---\n{write_card_yaml(self.data)}---\n\n{self.body.strip()}\n"


def read_card(text: str) -> Card:
    """Parses a README.md. Raises `UserError` if its YAML is invalid or not that of a card."""
    text = text.replace("\r\n", "\n")
    match = FRONT_MATTER.match(text)
    if match is None:
        return Card({}, text)
    try:
        data = read_card_yaml(match[1])
    except ValueError as error:
        raise UserError(
            one_line(f"the YAML of the repository's README.md cannot be read, fix it: {error}")
        ) from None
    return Card(data, text[match.end() :].strip("\n"))


def section(config_name: str, text: str) -> str:
    """The section of a configuration, between its marks."""
    return _marked(f"sgdmix:{config_name}", text)


def merge_cards(theirs: str | None, ours: str, config_name: str, repo_id: str, version: str) -> str:
    """The repository's card after a configuration is published there as `version`.

    Args:
        theirs: the repository's card; None if it has none.
        ours: the card that the configuration's run wrote.

    Merging the same card as the same version again changes nothing. Raises `UserError`.
    """
    new = published_card(ours, repo_id, version)
    part = _marked_part(f"sgdmix:{config_name}", new.body)
    if config_name not in _mapping(new.data, "sgdmix") or part is None:
        raise UserError(
            f"the run's README.md does not describe {config_name}, or has lost its marks: "
            "run the generation again"
        )
    old = read_card(theirs or "")
    data = _merged_data(old.data, new.data, config_name, version)
    body = _merged_body(old.body, new.body, new.body[part], config_name)
    versions = _marked("sgdmix-versions", _versions_table(data["sgdmix"]))
    return str(Card(data, f"{body}\n\n{versions}"))


def same_on_card(
    theirs: str | None, ours: str, config_name: str, repo_id: str, version: str
) -> bool:
    """Whether a repository's card describes a configuration as its run's card does.

    `theirs`, `ours`, `version`: as in `merge_cards`.
    """
    part = _own_part(read_card(theirs or ""), config_name)
    # the repository may have been renamed since: compare with the name that it had then
    named = re.search(r"hf://datasets/([^@\s]+)@", part[-1] or "")
    published = published_card(ours, named[1] if named else repo_id, version)
    return part == _own_part(published, config_name)


def newest_versions(card: str) -> set[str]:
    """The newest version of each configuration on a repository's card. Raises `UserError`."""
    methods = _mapping(read_card(card).data, "sgdmix")
    histories = [_listing(_mapping(methods, name).get(HISTORY)) for name in methods]
    return {history[-1]["version"] for history in histories if history}


def published_card(ours: str, repo_id: str, version: str) -> Card:
    """A run's card with its placeholders replaced."""
    card = read_card(ours)
    return Card(
        card.data,
        card.body.replace(UNPUBLISHED_NAME, repo_id).replace(UNPUBLISHED_VERSION, version),
    )


def size_category(num_rows: int) -> str:
    """The Hub's size category for a number of rows."""
    return next((name for limit, name in SIZES if num_rows < limit), "1B<n<10B")


def plain(text: str) -> str:
    """Untrusted text as one line of escaped Markdown."""
    one_line = " ".join(str(text).split())
    escaped = (
        one_line.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("{", "&#123;")
    )
    # not the # of the entity above
    return re.sub(r"([\\`*_\[\]|!~$]|(?<!&)#)", r"\\\1", escaped)


def _merged_data(old: dict, new: dict, config_name: str, version: str) -> dict:
    methods = _mapping(old, "sgdmix")
    shared = any(name != config_name for name in methods)
    now = new["sgdmix"][config_name]
    methods[config_name] = now | {HISTORY: _history(_mapping(methods, config_name), now, version)}
    licences = _distinct([_mapping(methods, name).get("license") for name in methods])
    infos = _by_configuration(_listing(old.get("dataset_info"))) | _by_configuration(
        _listing(new["dataset_info"])
    )
    rows = sum(
        split.get("num_examples") or 0
        for info in infos.values()
        for split in _listing(info.get("splits"))
    )
    listed = {
        name: _distinct([*_listing(old.get(name)), *_listing(new.get(name))])
        for name in ("task_categories", "source_datasets", "tags")
    }
    named = {}
    if "other" in licences:  # what the Hub shows for a license that it does not know
        known = old if shared else {}
        named = {name: new.get(name, known.get(name)) for name in LICENSE_NAMES}
    kept = {name: value for name, value in old.items() if name not in LICENSE_NAMES}
    return kept | {
        "license": licences[0] if len(licences) == 1 else licences,
        **{name: value for name, value in named.items() if value is not None},
        "pretty_name": (shared and old.get("pretty_name")) or new["pretty_name"],
        **{name: values for name, values in listed.items() if values},
        "size_categories": [size_category(rows)],
        "configs": _merged_configs(_listing(old.get("configs")), new["configs"][0]),
        "dataset_info": list(infos.values()) if len(infos) > 1 else next(iter(infos.values())),
        "sgdmix": methods,
    }


def _merged_configs(old: list[dict], new: dict) -> list[dict]:
    """All configurations, exactly one of them marked as default.

    The default is the one of that name, otherwise the one that was marked before.
    """
    configs = {config.get("config_name", "default"): dict(config) for config in old}
    before = next(
        (name for name, config in configs.items() if config.get("default")), new["config_name"]
    )
    configs[new["config_name"]] = dict(new)
    default = "default" if "default" in configs else before
    for name, config in configs.items():
        config.pop("default", None)
        if name == default:
            config["default"] = True
    return list(configs.values())


def _by_configuration(infos: list[dict]) -> dict[str, dict]:
    """`dataset_info` by configuration. A single entry may omit its name."""
    return {info.get("config_name", "default"): {"config_name": "default"} | info for info in infos}


def _history(before: dict, now: dict, version: str) -> list[dict]:
    """The versions of a configuration, oldest first.

    Each lists its changes from the version before: setting -> [old, new].
    """
    history = [dict(entry) for entry in _listing(before.get(HISTORY))]
    settings = _settings(before)
    if history and history[-1]["version"] == version:  # an earlier attempt that was never tagged
        settings |= {name: old for name, (old, _) in history[-1]["changed"].items()}
    history = [entry for entry in history if entry["version"] != version]
    changed = {}
    if history:
        current = _settings(now)
        names = [
            name for name in {**settings, **current} if settings.get(name) != current.get(name)
        ]
        changed = {name: [settings.get(name), current.get(name)] for name in names}
    return [*history, {"version": version, "rows": now["rows"], "changed": changed}]


def _settings(method: dict) -> dict:
    """Settings, pins and library versions of a configuration, flat."""
    flat = {name: value for name, value in method.items() if name not in NO_SETTING}
    if flat.get("foreground_strength") == flat.get("strength"):  # S everywhere
        flat.pop("foreground_strength", None)
    return flat | _mapping(method, "pins") | _mapping(method, "versions")


def _own_part(card: Card, config_name: str) -> tuple:
    """Everything about one configuration on a card, except its history."""
    method = {
        name: value
        for name, value in _mapping(_mapping(card.data, "sgdmix"), config_name).items()
        if name != HISTORY
    }
    info = _by_configuration(_listing(card.data.get("dataset_info"))).get(config_name)
    part = _marked_part(f"sgdmix:{config_name}", card.body)
    return method, info, part and card.body[part]


def _mapping(values: dict, name: str) -> dict:
    value = values.get(name)
    return dict(value) if isinstance(value, dict) else {}


def _listing(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _distinct(values: list) -> list:
    return [
        value
        for position, value in enumerate(values)
        if value is not None and value not in values[:position]
    ]


def _merged_body(old: str, new: str, ours: str, config_name: str) -> str:
    """The old body without its versions, with `ours`, a section of `new`, in its place."""
    mark = f"sgdmix:{config_name}"
    body = _without("sgdmix-versions", old).rstrip()
    part = _marked_part(mark, body)
    if not body.strip():
        return new.strip()
    if part is not None:
        return body[: part.start] + ours + body[part.stop :]
    if f"<!-- {mark}:" in body:
        raise UserError(
            f"the repository's README.md has lost one of the two marks of {config_name}: "
            "put it back or remove both"
        )
    return f"{body}\n\n{ours}"


def _marked(mark: str, text: str) -> str:
    return f"<!-- {mark}:begin -->\n\n{text.strip()}\n\n<!-- {mark}:end -->"


def _marked_part(mark: str, text: str, start: int = 0) -> slice | None:
    """Where the first part between two marks is, marks included. One pass over the text."""
    begin = _line(f"<!-- {mark}:begin -->").search(text, start)
    end = begin and _line(f"<!-- {mark}:end -->").search(text, begin.end())
    return slice(begin.start(), end.end()) if end else None


def _line(text: str) -> re.Pattern:
    return re.compile(f"^{re.escape(text)}$", re.MULTILINE)


def _without(mark: str, text: str) -> str:
    """The text without the parts between such marks."""
    kept, start = [], 0
    while part := _marked_part(mark, text, start):
        kept.append(text[start : part.start])
        start = part.stop
    return "".join([*kept, text[start:]])


def _versions_table(methods: dict) -> str:
    rows = []
    for config_name in methods:
        for place, entry in enumerate(_listing(_mapping(methods, config_name).get(HISTORY))):
            cells = (
                plain(entry["version"]),
                plain(config_name),
                str(entry["rows"]),
                _change_text(entry["changed"], place == 0),
            )
            rows.append((_natural(entry["version"]), " | ".join(cells)))
    lines = [
        "## Versions",
        "",
        "| Version | Configuration | Images | What changed |",
        "|---|---|---|---|",
    ]
    lines += [f"| {cells} |" for _, cells in sorted(rows)]
    lines += ["", "A version is a tag that sgdmix_hub never moves."]
    return "\n".join(lines)


def _change_text(changed: dict, first: bool) -> str:
    if not changed:
        return "first version" if first else "the same settings"
    return "; ".join(
        f"{plain(name)} {plain(_shown(old))} → {plain(_shown(new))}"
        for name, (old, new) in changed.items()
    )


def _shown(value) -> str:
    return "none" if value is None else str(value)


def _natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key that puts v1.10.0 after v1.9.0."""
    return [
        (1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", text)
    ]
