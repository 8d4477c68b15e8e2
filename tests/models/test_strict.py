"""JSON values become dataclasses, or an error that names the path and what would be valid."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest

from models.strict import StrictError, build


@dataclasses.dataclass(frozen=True)
class Leaf:
    size: int
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size is {self.size}; it must not be negative.")


@dataclasses.dataclass(frozen=True)
class Tree:
    name: str
    leaves: tuple[Leaf, ...]
    kind: Literal["oak", "fir"] = "oak"
    height: float | None = None
    by_name: dict[str, Leaf] = dataclasses.field(default_factory=dict)
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
    assert tree == Tree("a", (Leaf(1), Leaf(2, 1.0)), "fir", 3.0, {"x": Leaf(3)}, [1, {}], True)
    assert isinstance(tree.height, float)


def test_none_is_allowed_only_where_declared() -> None:
    assert build(Tree, {"name": "a", "leaves": [], "height": None}).height is None
    with pytest.raises(StrictError, match=r"\$\.name is None; it must be of type str\."):
        build(Tree, {"name": None, "leaves": []})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"name": 1}, r"\$\.name is 1; it must be of type str\."),
        ({"leaves": {}}, r"\$\.leaves is {}; it must be a list\."),
        ({"leaves": "ab"}, r"\$\.leaves is 'ab'; it must be a list\."),
        ({"leaves": [3]}, r"\$\.leaves\[0\] is 3; it must be an object\."),
        ({"leaves": [{"size": True}]}, r"\$\.leaves\[0\]\.size is True; it must be of type int\."),
        ({"leaves": [{"size": 1.0}]}, r"\$\.leaves\[0\]\.size is 1\.0; it must be of type int\."),
        ({"leaves": [{"size": 1, "share": True}]}, r"share is True; it must be of type float\."),
        ({"leaves": [{"size": 1, "share": "1"}]}, r"share is '1'; it must be of type float\."),
        ({"leaves": [{"size": 0}, {"size": -1}]}, r"\$\.leaves\[1\]: size is -1; it must not be negative\."),
        ({"leaves": [{}]}, r"\$\.leaves\[0\] lacks the keys \['size'\]\."),
        ({"kind": "elm"}, r"\$\.kind is 'elm'; valid are 'oak', 'fir'\."),
        ({"by_name": []}, r"\$\.by_name is \[\]; it must be an object\."),
        ({"by_name": {"x": {"size": "1"}}}, r"\$\.by_name\.x\.size is '1'"),
        ({"colour": "green"}, r"\$ has unknown keys \['colour'\]; known are \['by_name', 'height'"),
        ({"is_old": 1}, r"\$\.is_old is 1; it must be of type bool\."),
    ],
)
def test_what_does_not_fit_is_named_with_its_path(members: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictError, match=message):
        build(Tree, {"name": "a", "leaves": []} | members)


@pytest.mark.parametrize("value", [None, [], "tree", 3])
def test_only_an_object_becomes_a_dataclass(value: Any) -> None:
    with pytest.raises(StrictError, match="it must be an object"):
        build(Tree, value)


@dataclasses.dataclass(frozen=True)
class Grafted:
    leaf: dict[str, Any]

    def __post_init__(self) -> None:
        build(Leaf, self.leaf, "leaf")


def test_an_error_that_already_names_its_path_is_left_as_it_is() -> None:
    with pytest.raises(StrictError, match=r"^leaf lacks the keys \['size'\]\.$"):
        build(Grafted, {"leaf": {}})
