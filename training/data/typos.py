"""Slips of the keyboard: texts as they are typed in haste, made from texts that are right.

It owns what goes wrong and how often: a letter is replaced, left out, put in, or swapped with the next, which is what
four slips of five are (Damerau 1964), and a space is left out or typed too late. The shares are this project's choice.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Slip = Literal["neighbour", "drop", "swap", "double", "insert"]
SLIPS: dict[Slip, float] = {"neighbour": 0.3, "drop": 0.3, "swap": 0.2, "double": 0.1, "insert": 0.1}
# The space bar is hit more surely than any letter.
_SPACE_SHARE = 0.2
_ROWS = (("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))


def _neighbours() -> dict[str, str]:
    """The keys at most 1.2 key widths away from each, in either case."""
    keys = {
        key: (column + shift, float(row)) for row, (line, shift) in enumerate(_ROWS) for column, key in enumerate(line)
    }
    near = {
        key: "".join(other for other, (u, v) in keys.items() if other != key and (u - x) ** 2 + (v - y) ** 2 <= 1.2**2)
        for key, (x, y) in keys.items()
    }
    return near | {key.upper(): others.upper() for key, others in near.items()}


NEIGHBOURS = _neighbours()


def misspell(text: str, rate: float, generator: np.random.Generator) -> str:
    """Type `text` with slips at the share `rate` of its letters; digits and punctuation stay right.

    0.03 spoils about one word in eight.
    """
    draws = generator.random(len(text))
    characters = list(text)
    # From the end, so that a slip moves no later place.
    for place in np.flatnonzero(draws < rate)[::-1]:
        character = text[place]
        if character in NEIGHBOURS:
            _slip(characters, int(place), generator)
        elif character == " " and draws[place] < rate * _SPACE_SHARE:
            _slip_space(characters, int(place), generator)
    return "".join(characters)


def _slip(characters: list[str], place: int, generator: np.random.Generator) -> None:
    slip = generator.choice(list(SLIPS), p=list(SLIPS.values()))
    letter = characters[place]
    match slip:
        case "drop":
            del characters[place]
        case "double":
            characters.insert(place, letter)
        case "swap" if place + 1 < len(characters) and characters[place + 1] in NEIGHBOURS:
            characters[place : place + 2] = characters[place + 1], letter
        case "insert":
            characters.insert(place + 1, str(generator.choice(list(NEIGHBOURS[letter]))).lower())
        case _:
            characters[place] = str(generator.choice(list(NEIGHBOURS[letter])))


def _slip_space(characters: list[str], place: int, generator: np.random.Generator) -> None:
    """Leave out a space, or type it a letter too late."""
    if generator.random() < 0.5 or place + 2 >= len(characters) or characters[place + 1] not in NEIGHBOURS:
        del characters[place]
    else:
        characters[place : place + 2] = characters[place + 1], " "
