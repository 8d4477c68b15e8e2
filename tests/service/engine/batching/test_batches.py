from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.manifest import TensorSpec
from service.engine.batching.batches import BatchBuffer, Request

PIXELS = TensorSpec(name="pixels", datatype="UINT8", shape=(-1, 3))
WEIGHTS = TensorSpec(name="weights", datatype="FP32", shape=(-1,))


def request(pixels: list[list[int]], weights: list[float], outputs: tuple[str, ...] = ("y",)) -> Request:
    payload = np.array(pixels, np.uint8).tobytes() + np.array(weights, np.float32).tobytes()
    return Request(len(weights), payload, outputs, 0.0, 1.0, lambda _request, _outcome: None)


def test_rows_of_several_inputs_land_in_their_own_arrays() -> None:
    batch = BatchBuffer([PIXELS, WEIGHTS], 4)

    batch.place(request([[1, 2, 3], [4, 5, 6]], [0.5, 0.25]))
    batch.place(request([[7, 8, 9]], [2.0]))

    assert batch.row_bytes == 7
    assert batch.arrays["pixels"][:3].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert batch.arrays["weights"][:3].tolist() == [0.5, 0.25, 2.0]


def test_inputs_of_different_types_keep_their_values_over_batches() -> None:
    label = TensorSpec(name="label", datatype="INT64", shape=(-1,))
    batch = BatchBuffer([PIXELS, WEIGHTS, label], 2)
    pixels, weights, labels = np.arange(9, dtype=np.uint8), np.array([0.5, -1e9, 3], np.float32), [2**40, -7, 1]
    payload = pixels.tobytes() + weights.tobytes() + np.array(labels, np.int64).tobytes()
    three = Request(3, payload, ("y",), 0.0, 1.0, lambda _request, _outcome: None)

    batch.place(three)
    assert batch.arrays["label"].tolist() == [2**40, -7]
    assert batch.arrays["weights"].tolist() == [0.5, -1e9]
    batch.clear()
    batch.place(three)

    assert (batch.num_rows, batch.row_bytes) == (1, 3 + 4 + 8)
    assert batch.arrays["label"][0] == 1
    assert batch.arrays["pixels"][0].tolist() == [6, 7, 8]


def test_a_request_is_placed_as_far_as_there_is_room() -> None:
    batch = BatchBuffer([PIXELS, WEIGHTS], 2)
    long = request([[i] * 3 for i in range(3)], [0.0, 1.0, 2.0])

    batch.place(long)
    assert (batch.num_rows, long.placed_rows) == (2, 2)
    batch.clear()
    batch.place(long)

    assert batch.arrays["weights"][0] == 2.0
    assert batch.arrays["pixels"][0].tolist() == [2, 2, 2]


def test_the_outputs_of_a_batch_are_those_that_anyone_wants() -> None:
    batch = BatchBuffer([PIXELS, WEIGHTS], 4)
    batch.place(request([[0, 0, 0]], [0.0], ("y",)))
    assert batch.output_names() == ("y",)

    batch.place(request([[0, 0, 0]], [0.0], ("z", "y")))

    assert batch.output_names() == ("y", "z")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_removing_a_request_keeps_the_others_in_order(counts: list[int], data: st.DataObject) -> None:
    batch = BatchBuffer([PIXELS, WEIGHTS], 32)
    requests = []
    for index, count in enumerate(counts):
        requests.append(request([[index] * 3] * count, [float(index)] * count))
        batch.place(requests[-1])
    victim = data.draw(st.integers(0, len(counts) - 1))

    removed = batch.remove(requests[victim])

    left = [float(i) for i, count in enumerate(counts) if i != victim for _ in range(count)]
    assert removed == counts[victim]
    assert batch.arrays["weights"][: batch.num_rows].tolist() == left
    assert batch.arrays["pixels"][: batch.num_rows, 0].tolist() == left
    for span in batch.spans:
        index = requests.index(span.request)
        assert set(batch.arrays["weights"][span.start : span.start + span.count]) == {float(index)}
