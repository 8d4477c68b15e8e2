"""JSON values become structs, or an error with the path and what would be valid."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest

from models.strict import Strict, StrictError, build


class Leaf(Strict, frozen=True, kw_only=True):
    size: int
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size is {self.size}; it must not be negative.")


class Tree(Strict, frozen=True, kw_only=True):
    name: str
    leaves: tuple[Leaf, ...]
    kind: Literal["oak", "fir"] = "oak"
    height: float | None = None
    by_name: dict[str, Leaf] = msgspec.field(default_factory=dict)
    notes: Any = None
    is_old: bool = False


def test_nested_values_are_built() -> None:
    value = {
        "name": "a",
        "leaves": [{"size": 1}, {"size": 2, "share": 1}],
        "kind": "fir",
        "height": 3,
        "by_name": {"x": {"size": 3}},
        "notes": [1, {}],
        "is_old": True,
    }
    tree = build(Tree, value)
    assert tree == Tree(
        name="a",
        leaves=(Leaf(size=1), Leaf(size=2, share=1.0)),
        kind="fir",
        height=3.0,
        by_name={"x": Leaf(size=3)},
        notes=[1, {}],
        is_old=True,
    )
    assert isinstance(tree.height, float)


def test_none_is_allowed_only_where_declared() -> None:
    assert build(Tree, {"name": "a", "leaves": [], "height": None}).height is None
    with pytest.raises(StrictError, match=r"\$\.name is None; expected `str`, got `null`\."):
        build(Tree, {"name": None, "leaves": []})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"name": 1}, r"\$\.name is 1; expected `str`, got `int`\."),
        ({"leaves": {}}, r"\$\.leaves is {}; expected `array`, got `object`\."),
        ({"leaves": "ab"}, r"\$\.leaves is 'ab'; expected `array`, got `str`\."),
        ({"leaves": [3]}, r"\$\.leaves\[0\] is 3; expected `object`, got `int`\."),
        ({"leaves": [{"size": True}]}, r"\$\.leaves\[0\]\.size is True; expected `int`, got `bool`\."),
        ({"leaves": [{"size": 1.0}]}, r"\$\.leaves\[0\]\.size is 1\.0; expected `int`, got `float`\."),
        ({"leaves": [{"size": 1, "share": True}]}, r"share is True; expected `float`, got `bool`\."),
        ({"leaves": [{"size": 1, "share": "1"}]}, r"share is '1'; expected `float`, got `str`\."),
        ({"leaves": [{"size": 0}, {"size": -1}]}, r"\$\.leaves\[1\]: size is -1; it must not be negative\."),
        ({"leaves": [{}]}, r"\$\.leaves\[0\]: Object missing required field `size`\."),
        ({"kind": "elm"}, r"\$\.kind: Invalid enum value 'elm'; valid are fir, oak\."),
        ({"by_name": []}, r"\$\.by_name is \[\]; expected `object`, got `array`\."),
        ({"by_name": {"x": {"size": "1"}}}, r"\$\.by_name\[\.\.\.\]\.size: Expected `int`, got `str`"),
        ({"colour": "green"}, r"\$: Object contains unknown field `colour`; known are name, leaves"),
        ({"is_old": 1}, r"\$\.is_old is 1; expected `bool`, got `int`\."),
    ],
)
def test_an_invalid_value_is_named_with_its_path(members: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictError, match=message):
        build(Tree, {"name": "a", "leaves": []} | members)


@pytest.mark.parametrize("value", [None, [], "tree", 3])
def test_only_an_object_becomes_a_struct(value: Any) -> None:
    with pytest.raises(StrictError, match="xpected `object`"):
        build(Tree, value)
