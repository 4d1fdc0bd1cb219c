"""What an evaluation leaves."""

import json


def facts_of(output):
    return json.loads((output / "evaluation.json").read_text())
