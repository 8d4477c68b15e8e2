"""Finds the chat template in the folder of a tokenizer: a Jinja program that writes a conversation as a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHAT_TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"


def read_chat_template(folder: Path) -> str | None:
    """The template in `chat_template.jinja` or `tokenizer_config.json`, the one called `default` of several.

    Raises: ValueError; OSError.
    """
    path = folder / CHAT_TEMPLATE_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    path = folder / TOKENIZER_CONFIG_FILE
    config: Any = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    given = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(given, list):
        named = {each.get("name"): each.get("template") for each in given if isinstance(each, dict)}
        given = named.get("default")
    if not isinstance(given, str | None):
        raise ValueError(f"{path.name} has a chat_template that is no text.")
    return given
