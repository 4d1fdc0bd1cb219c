"""Reads the YAML of a card with limits on size and nesting: anyone may have written it."""

from __future__ import annotations

import yaml

from sgdmix_hub.errors import first_line
from sgdmix_hub.forms import COUNT, TEXT, Form, listing, mapping, optional, record

# levels of lists and mappings; tens of thousands of them crash libyaml's composer
DEEPEST = 40
LONGEST = 2**24  # characters; 10,000 classes take 600,000
MOST_VALUES = 2_000_000  # with every alias expanded; 10,000 classes take 20,000
# libyaml, if PyYAML was built with it, is ten times as fast, and only it keeps U+0085 in a name
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def any_of(*forms: Form) -> Form:
    """Accepts what any of the forms accepts; otherwise reports the fault of the last form."""

    def check(value: object) -> str | None:
        faults = [form(value) for form in forms]
        return None if None in faults else faults[-1]

    return check


def one_or_more(form: Form) -> Form:
    """A value, a list of such values, or null."""
    return optional(any_of(form, listing(form)))


SPLIT = record({}, {"num_examples": optional(COUNT)})
PAIR = listing(lambda value: None, 2)
VERSION = record({"version": TEXT, "rows": COUNT, "changed": mapping(PAIR, TEXT)})

# The keys that merging reads; all others are copied unchanged.
CARD = record(
    {},
    {
        "configs": one_or_more(record({}, {"config_name": TEXT})),
        "dataset_info": one_or_more(
            record({}, {"config_name": TEXT, "splits": one_or_more(SPLIT)})
        ),
        "sgdmix": optional(mapping(record({}, {"history": one_or_more(VERSION)}), TEXT)),
    },
)


def write_card_yaml(values: dict) -> str:
    """Serialises a card's YAML."""
    return yaml.dump(values, Dumper=DUMPER, sort_keys=False, allow_unicode=True)


def read_card_yaml(text: str) -> dict:
    """Parses a card's YAML; returns an empty mapping if it is not a mapping.

    Raises `ValueError` if it cannot be parsed, is too large or too deep, or has a wrong form.
    """
    try:
        if len(text) > LONGEST:
            raise ValueError(f"longer than {LONGEST} characters")
        check_shape(text)
        data = yaml.load(text, Loader=LOADER)
    except Exception as error:  # YAML errors, and what invalid dates and numbers raise
        raise ValueError(" ".join(str(error).split()) or first_line(error)) from error
    if not isinstance(data, dict):
        return {}
    if size_of(data, {})[0] > MOST_VALUES:
        raise ValueError("its aliases expand to too many values")
    fault = CARD(data)
    if fault is not None:
        raise ValueError(fault)
    return data


def check_shape(text: str) -> None:
    """Raises `ValueError` before anything is built if a text is nested too deep or has merge keys.

    Merge keys (`<<`) can multiply mappings.
    """
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent) and event.value == "<<":
            raise ValueError("the merge key << is not supported in cards")
        if depth > DEEPEST:
            raise ValueError(f"nested deeper than {DEEPEST} levels")


def size_of(value: object, known: dict[int, tuple[int, int]], depth: int = 0) -> tuple[int, int]:
    """The number of values and of levels, with every alias expanded.

    `known`: results by object id. Raises `ValueError` for more than `DEEPEST` levels, as a list
    that contains itself has.
    """
    if not isinstance(value, (dict, list, tuple, set)):
        return 1, 0
    if id(value) not in known and depth <= DEEPEST:
        sizes = [
            size_of(part, known, depth + 1)
            for part in (value.values() if isinstance(value, dict) else value)
        ]
        known[id(value)] = (
            1 + sum(count for count, _ in sizes),
            1 + max((levels for _, levels in sizes), default=0),
        )
    if depth > DEEPEST or depth + known[id(value)][1] > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    return known[id(value)]
