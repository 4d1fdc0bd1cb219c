"""The YAML at the top of a card, which anybody may have written: read with limits, its form checked
where cards are merged.
"""

from __future__ import annotations

import yaml

from sgdmix_hub.errors import first_line
from sgdmix_hub.forms import COUNT, TEXT, Form, listing, mapping, optional, record

DEEPEST = 40  # levels of lists and mappings: libyaml's composer ends the process where there are tens of thousands
LONGEST = 2**24  # characters; those of 10,000 classes are 600,000
MOST_VALUES = 2_000_000  # with every alias written out; 10,000 classes are 20,000
# libyaml's, where PyYAML was built with it: ten times as fast, and the only ones that keep U+0085
# in a name
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def any_of(*forms: Form) -> Form:
    """What one of the forms takes; else what the last one says."""

    def check(value: object) -> str | None:
        faults = [form(value) for form in forms]
        return None if None in faults else faults[-1]

    return check


def one_or_more(form: Form) -> Form:
    """A value, a list of such values, or a null."""
    return optional(any_of(form, listing(form)))


SPLIT = record({}, {"num_examples": optional(COUNT)})
PAIR = listing(lambda value: None, 2)
VERSION = record({"version": TEXT, "rows": COUNT, "changed": mapping(PAIR, TEXT)})

# What is read of a repository's card; everything else in it is kept as it stands.
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
    """The text of a card's YAML."""
    return yaml.dump(values, Dumper=DUMPER, sort_keys=False, allow_unicode=True)


def read_card_yaml(text: str) -> dict:
    """The mapping that a card's YAML holds; empty where it holds something else. Raises
    `ValueError` when it cannot be read, is nested too deep or too large, or has another form than
    cards have.
    """
    try:
        if len(text) > LONGEST:
            raise ValueError(f"longer than {LONGEST} characters")
        check_shape(text)
        data = yaml.load(text, Loader=LOADER)
    except (
        Exception
    ) as error:  # YAML's own errors, and whatever dates and numbers that are none raise
        raise ValueError(" ".join(str(error).split()) or first_line(error)) from error
    if not isinstance(data, dict):
        return {}
    if size_of(data, {})[0] > MOST_VALUES:
        raise ValueError("its aliases stand for too many values")
    fault = CARD(data)
    if fault is not None:
        raise ValueError(fault)
    return data


def check_shape(text: str) -> None:
    """Raises `ValueError` where a text is nested deeper than cards are, or asks for mappings to be
    merged, which multiplies them: before anything is built from it.
    """
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent) and event.value == "<<":
            raise ValueError("the merge key << is not read in cards")
        if depth > DEEPEST:
            raise ValueError(f"nested deeper than {DEEPEST} levels")


def size_of(value: object, known: dict[int, tuple[int, int]], depth: int = 0) -> tuple[int, int]:
    """How many values and how many levels there are with every alias written out. Raises
    `ValueError` for more than `DEEPEST` levels, of which a list that holds itself has no end.
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
