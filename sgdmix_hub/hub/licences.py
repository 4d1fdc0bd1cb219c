"""The licences on the cards of a run's inputs, and the terms of those that base models have.

Nothing here is legal advice. `TERMS` holds what the texts say, where they were read; of all other
licences nothing is known, and nothing is refused for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, HfApi, ModelCard

from sgdmix_hub.errors import UserError, one_line, shown

from .client import hub_error
from .pins import Pin

SECONDS_TO_WAIT = 20.0


@dataclass(frozen=True)
class Terms:
    """What a licence of models says.

    `use`: of the model. `outputs`: of the images that it makes. `adapters`: licences that an
    adapter of the model may have besides this one (the text asks for its own terms to be passed
    on); None if any, or if the text was not read. `by_other`: whether a licence of one's own words
    can pass them on, too. `shares`: whether what is made from the model may be shared at all.
    """

    use: str
    outputs: str
    adapters: tuple[str, ...] | None = None
    by_other: bool = True
    shares: bool = True

    def allowed(self, name: str) -> tuple[str, ...] | None:
        """All licences that an adapter may have, if these terms are `name`'s; None if any."""
        if not self.shares:
            return ()
        if self.adapters is None:
            return None
        others = (OTHER,) if self.by_other else ()
        return tuple(dict.fromkeys((name, *self.adapters, *others)))


# A licence of one's own words: with it, the card's text can pass most terms on.
OTHER = "other"
OPENRAIL = ("creativeml-openrail-m", "openrail", "openrail++", "bigscience-openrail-m")
_RAIL = Terms(
    "any use but those that its attachment A forbids",
    "it claims no rights in them; what attachment A forbids is forbidden for them too",
    OPENRAIL,
)
_FREE = Terms("any use", "nothing is said")
_UNREAD = "its text was not read here"
_UNNAMED = "it does not name them"
_NO_PROFIT = "non-commercial use only"
_CC_VERSIONS = ("2.0", "3.0", "4.0")


def _creative_commons() -> dict[str, Terms]:
    """Of the kinds that restrict what is made from a work. A work made from one under NC must stay
    non-commercial; SA asks for the same licence in this version or a later one; ND forbids to share
    it (the licences' sections 3 and 4, and the chart of adapters' licences in their FAQ).
    """
    kinds = ("cc-by-nc", "cc-by-nc-sa", "cc-by-nc-nd")
    no_profit = tuple(f"{kind}-{version}" for kind in kinds for version in _CC_VERSIONS)
    found = {}
    for kind in (*kinds, "cc-by-sa", "cc-by-nd"):
        use = _NO_PROFIT if "-nc" in kind else "any use"
        for place, version in enumerate(_CC_VERSIONS):
            if kind.endswith("-nd"):
                terms = Terms(use, _UNNAMED, (), shares=False)
            elif kind.endswith("-sa"):
                later = tuple(f"{kind}-{other}" for other in _CC_VERSIONS[place + 1 :])
                terms = Terms(use, _UNNAMED, later, by_other=False)
            else:
                terms = Terms(use, _UNNAMED, no_profit)
            found[f"{kind}-{version}"] = terms
    return found


# `license` of a card, or its `license_name` where that is "other" -> the terms.
TERMS = {
    "apache-2.0": _FREE,
    "mit": _FREE,
    **dict.fromkeys(OPENRAIL, _RAIL),
    "flux-1-dev-non-commercial-license": Terms(
        _NO_PROFIT,
        "any use, also commercial, but not to train a model that competes with FLUX.1 [dev]",
        (),
    ),
    "stabilityai-ai-community": Terms(
        "any use below USD 1,000,000 of revenue a year",
        "yours, but not to make or improve a foundational generative model",
        (),
    ),
    "sai-nc-community": Terms(_NO_PROFIT, "they are not counted as derivative works", ()),
    # as reported of them; not read, so nothing is refused
    "flux-dev-non-commercial-license": Terms(_NO_PROFIT, _UNREAD),
    "flux-non-commercial-license": Terms(_NO_PROFIT, _UNREAD),
    **_creative_commons(),
}


@dataclass(frozen=True)
class Licence:
    """What a card states, in one line: `license`, with `license_name` in parentheses if given.

    `gated`: whether the Hub gives the files only to those who accepted the terms. `is_answered`:
    False if the card could not be read because the Hub did not answer.
    """

    text: str | None
    gated: bool = False
    is_answered: bool = True

    @property
    def name(self) -> str | None:
        """By which `TERMS` knows it."""
        if self.text is None:
            return None
        first, _, rest = self.text.partition(" (")
        return (rest.removesuffix(")") if first == OTHER and rest else self.text).lower()

    @property
    def terms(self) -> Terms | None:
        """Its terms, if they are known."""
        return None if self.name is None else TERMS.get(self.name)


def licence_of(pin: Pin, repo_type: str = "model") -> Licence:
    """The licence on an input's card at its commit.

    Without a text if there is none, or the Hub does not answer, which is no reason to end a run,
    but one not to publish: see `check_license`.
    """
    try:
        data, gated = _card(pin, repo_type)
    except Exception as error:  # no card, a card without YAML, or any of the client's errors
        unanswered = hub_error(error) is not None or isinstance(error, JSONDecodeError)
        return Licence(None, is_answered=not unanswered)
    if data is None:
        return Licence(None, gated)
    text, name = data.get("license"), data.get("license_name")
    if isinstance(text, list):
        text = ", ".join(map(str, text))
    if not isinstance(text, str) or not text.strip():
        return Licence(None, gated)
    if text.strip() == OTHER and isinstance(name, str) and name.strip():
        text = f"{OTHER} ({name})"
    return Licence(one_line(text), gated)


def stated_license(pin: Pin, repo_type: str = "model") -> str | None:
    """The text of `licence_of`."""
    return licence_of(pin, repo_type).text


def licence_line(pin: Pin, licence: Licence) -> str:
    """What a user should know of a base model's licence before a run, in one line."""
    gate = ", gated" if licence.gated else ""
    if licence.text is None:
        said = f"no licence is known{gate}: read its card"
    elif licence.terms is None:
        said = f"licence {shown(licence.text)}{gate}: read it, its terms are not known here"
    else:
        terms = licence.terms
        said = f"licence {shown(licence.text)}{gate}: {terms.use}; of outputs: {terms.outputs}"
        if not terms.shares:
            said += "; an adapter of it may not be published"
    return one_line(f"base model {pin.name}: {said}")


def conflict(base: str | None, chosen: str | None) -> str | None:
    """Why an adapter must not have the licence `chosen`, for the text of its base's; or None."""
    licence = Licence(base)
    if chosen is None or (terms := licence.terms) is None:
        return None
    allowed = terms.allowed(licence.name or "")
    if allowed is None or chosen.lower() in allowed:
        return None
    if not terms.shares:
        return f"the base's licence, {licence.name}, forbids to share what is made from the base"
    return (
        f"the base's licence, {licence.name}, allows {terms.use}, and an adapter must pass its "
        f"terms on, which {chosen} does not"
    )


def check_license(base: Licence, chosen: str | None, reason: str | None) -> None:
    """Raises `UserError` if an adapter is to be published with a licence that the base forbids, or
    if the base's is unknown because the Hub did not answer, unless a reason is given.
    """
    if reason is not None:
        return
    if not base.is_answered:
        raise UserError(
            "the Hub does not answer what licence the base model has: try again when it does, or "
            "say with --allow_license why the adapter may be published without knowing it"
        )
    fault = conflict(base.text, chosen)
    if fault is not None:
        allowed = base.terms.allowed(base.name or "") if base.terms else None
        advice = f"give --license {' or '.join(allowed)}" if allowed else "do not push it"
        raise UserError(
            f"license {shown(chosen)}: {fault}: {advice}, or say why it is right with "
            "--allow_license"
        )


def terms_table() -> str:
    """The licences whose terms are known, as a Markdown table, for docs/publishing.md."""
    rows = [
        f"| `{name}` | {terms.use} | {terms.outputs} | {_adapters(name, terms)} |"
        for name, terms in TERMS.items()
    ]
    head = "| licence | the model | its images | licences of an adapter |"
    return "\n".join([head, "|---|---|---|---|", *rows])


def _adapters(name: str, terms: Terms) -> str:
    allowed = terms.allowed(name)
    if allowed is None:
        return "any" if terms.outputs != _UNREAD else "not checked"
    return ", ".join(f"`{one}`" for one in allowed) or "none"


def _card(pin: Pin, repo_type: str) -> tuple[Any, bool]:
    """The YAML of an input's card, as huggingface_hub reads it, and whether it is gated.

    None for a card without YAML, or for a local folder that is elsewhere.
    """
    if pin.path is not None:
        card = DatasetCard if repo_type == "dataset" else ModelCard
        data = card.load(Path(pin.path) / "README.md", ignore_metadata_errors=True).data
        return data, False
    if pin.is_local:
        return None, False
    info: Any = HfApi().repo_info(
        pin.name, revision=pin.revision, repo_type=repo_type, timeout=SECONDS_TO_WAIT
    )
    return info.card_data, bool(info.gated)
