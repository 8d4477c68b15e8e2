from __future__ import annotations

from pathlib import Path

import pytest

from models.importing.labels import find_labels, labels_in, read_labels
from models.importing.sources import ImportRefused


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\n",
        "\ufeffcat\r\ndog\r\n\r\n",
        "  cat \ndog",
        '["cat", "dog"]',
        '{"0": "cat", "1": "dog"}',
        '{"1": "dog", "0": "cat"}',
        '{"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}',
        '{"0": ["n02123045", "cat"], "1": ["n02084071", "dog"]}',
        "{0: 'cat', 1: 'dog'}",
        "{'names': 1, 'labels': ['cat', 'dog']}",
    ],
)
def test_labels_are_read_however_they_are_written(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.any").write_text(text, encoding="utf-8")

    assert read_labels(tmp_path / "labels.any") == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "there are none"),
        (b"cat\n\ndog\n", "label 1 is empty"),
        (b'{"0": "cat", "2": "dog"}', "the indices must be 0 to 1"),
        (b'{"cat": 0}', "the keys of the object must be indices"),
        (b'["cat",', "neither lines, nor JSON"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_what_is_no_list_of_labels_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "labels.txt").write_bytes(content)

    with pytest.raises(ImportRefused, match=reason):
        read_labels(tmp_path / "labels.txt")


def test_labels_beside_a_graph_are_found(tmp_path: Path) -> None:
    assert find_labels(tmp_path) == ()
    (tmp_path / "labels.json").write_text('["cat"]')
    assert find_labels(tmp_path) == ("cat",)


def test_a_graph_may_hold_its_labels() -> None:
    assert labels_in({"stride": "32", "names": "{0: 'cat', 1: 'dog'}"}) == ("cat", "dog")
    assert labels_in({"names": "{", "task": "detect"}) == ()
