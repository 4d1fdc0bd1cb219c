"""Facts for cards of models, and what a card holds."""

import re

from huggingface_hub import ModelCard

COMMIT = "0123456789" * 4
SCORES = {
    "by_class": [[0, 1, 2], [1, 2, 2], [2, 2, 2], [3, 2, 2]],
    "accuracy": 0.5,
    "interval": [0.2, 0.8],
    "images": 8,
    "confused": [[0, 1, 3], [1, 0, 1]],
}
ARMS = ("mixed", "noise, base", "mixed, base", "noise, adapter", "mixed, adapter")


def judged(judge="birds/judge@" + COMMIT):
    arms = dict.fromkeys(ARMS, SCORES)
    return {
        "fidelity": {
            "judge": judge,
            "per_class": 2,
            "strength": 0.7,
            "judge_accuracy": 0.875,
            "arms": arms,
        }
    }


def grouped(names):
    return {"groups": [[name, name, 2, 0.5] for name in names]}


def subset_of(card_facts, dataset):
    return {"subset": card_facts["subset"] | {"dataset": dataset}}


def table_of(card):
    return dict(re.findall(r"^\| ([^|\n]+) \| ([^|\n]+) \|$", ModelCard(card).text, re.MULTILINE))


def code_of(card, language):
    return re.search(rf"```{language}\n(.*?)```", card, re.DOTALL)[1]


def outside_code(card):
    return re.sub(r"```.*?```", "", card, flags=re.DOTALL)
