"""Results as the `model-index` of a model card, which the Hugging Face hub reads.

https://github.com/huggingface/hub-docs/blob/main/modelcard.md: of each result its task, data set and metrics, in the
hub's words. The setting is the `config` of the data set, the task's SHA-256 its revision.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from xbench.task import SETTINGS

# A category of the hub; it has none of its own for retrieval across languages.
TYPE, NAME = "text-retrieval", "Retrieval"


def model_index(name: str, scores: Sequence[Mapping[str, Any]]) -> str:
    """Lines of YAML, `model-index:` and below, for the front of a card.

    Args:
        name: of the model.
        scores: of each result its `task` (as in the result file) and `values`, setting -> measure -> macro mean.
    """
    lines = ["model-index:", f"- name: {quoted(name)}", "  results:"]
    for score in scores:
        task = score["task"]
        for setting in SETTINGS:
            values = score["values"].get(setting)
            if not values:
                continue
            lines += [
                "  - task:",
                f"      type: {quoted(TYPE)}",
                f"      name: {quoted(NAME)}",
                "    dataset:",
                f"      type: {quoted(task['name'])}",
                f"      name: {quoted(spelled(task))}",
                f"      config: {quoted(setting)}",
                *([f"      revision: {quoted(task['sha256'])}"] if "sha256" in task else []),
                "    metrics:",
            ]
            for measure, value in sorted(values.items()):
                lines += [
                    f"    - type: {quoted(measure)}",
                    f"      name: {quoted(f'{setting} {measure}')}",
                    f"      value: {number(value)}",
                ]
    return "\n".join(lines) + "\n"


def spelled(task: Mapping[str, Any]) -> str:
    """A task in words, with what of it was chosen: `xquad-r (version 1); languages: ar, de`."""
    chosen = [f"{key}: {', '.join(task[key])}" for key in ("languages", "settings") if key in task]
    return "; ".join([f"{task['name']} (version {task['version']})", *chosen, *(["context"] * ("context" in task))])


def number(value: float) -> str:
    """A number that YAML 1.1 reads as one: `1e-05` is text there, `1.0e-05` is not."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def quoted(text: str) -> str:
    """A double-quoted scalar of YAML; it has JSON's escapes, but knows no pairs of surrogates."""
    plain = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in plain)
