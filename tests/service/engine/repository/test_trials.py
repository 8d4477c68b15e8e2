"""Graphs of which nothing is known are tried out: what they compute, and whether their rows are independent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from service.engine.repository import trials
from service.engine.repository.independence import Dependent, Proof
from service.engine.repository.row_mixing import mixing_operator
from service.engine.repository.trials import Question, Trial, Verdict, try_out
from tests.fake_models.bare_graphs import FLOAT, graph_bytes, one_node

INT = TensorProto.INT64
BOOL = TensorProto.BOOL
node = helper.make_node
ADD = node("Add", ["a", "b"], ["y"])
ROWS: list[Any] = [("x", FLOAT, ["N", 4])]


def graph(*nodes: Any, output: Any = ("y", FLOAT, ["M", 4]), inputs: Any = ROWS, **constants: Any) -> bytes:
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    return graph_bytes(list(nodes), inputs, [output], arrays)


def body(nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> Any:
    def infos(values: list[Any]) -> list[Any]:
        return [helper.make_tensor_value_info(*value) for value in values]

    return helper.make_graph(nodes, "body", infos(inputs), infos(outputs))


POSITIVE = body([node("Identity", ["x"], ["a"])], [], [("a", FLOAT, None)])
NEGATIVE = body([node("Neg", ["x"], ["b"])], [], [("b", FLOAT, None)])
COUNTING = body(
    [
        node("Add", ["v", "v"], ["w"]),
        node("ReduceMax", ["w"], ["top"], keepdims=0),
        node("Less", ["top", "limit"], ["again"]),
    ],
    [("i", INT, []), ("go", BOOL, []), ("v", FLOAT, ["N", 4])],
    [("again", BOOL, []), ("w", FLOAT, ["N", 4])],
)
DOUBLING = body(
    [node("Add", ["v", "v"], ["w"]), node("Identity", ["go"], ["again"])],
    [("i", INT, []), ("go", BOOL, []), ("v", FLOAT, ["N", 4])],
    [("again", BOOL, []), ("w", FLOAT, ["N", 4])],
)
ONE = helper.make_tensor("one", FLOAT, [1], [1])
ONE_AXIS = np.array([0], np.int64)
LAST_AXIS = np.array([-1], np.int64)

MIXING = {
    "Compress": graph(
        node("ReduceMax", ["x", "last"], ["m"], keepdims=0),
        node("Greater", ["m", "t"], ["c"]),
        node("Compress", ["x", "c"], ["y"], axis=0),
        last=LAST_AXIS,
        t=np.float32(-50),
    ),
    "NonZero": graph(node("NonZero", ["x"], ["y"]), output=("y", INT, [2, "K"])),
    "Unique": graph(node("Unique", ["x"], ["y"], axis=0)),
    "TopK": graph(node("TopK", ["x", "k"], ["y", "i"], axis=0), k=np.array([1], np.int64)),
    "CumSum": graph(node("CumSum", ["x", "axis"], ["y"]), axis=np.int64(0)),
    "Trilu": graph(node("Trilu", ["x"], ["y"])),
    "ScatterElements": graph(
        node("ArgMax", ["x"], ["i"], axis=1, keepdims=1), node("ScatterElements", ["x", "i", "one"], ["y"], axis=0),
        node("Identity", ["one"], ["unused"]), one=np.ones((1, 1), np.float32),
    ),
    "ScatterND": graph(
        node("ArgMax", ["x"], ["i"], axis=1, keepdims=1), node("ScatterND", ["x", "i", "x"], ["y"]),
    ),
    "ArgMax": graph(node("ArgMax", ["x"], ["y"], axis=0), output=("y", INT, [1, 4])),
    "Softmax": graph(node("Softmax", ["x"], ["y"], axis=0)),
    "Softmax after Transpose": graph(
        node("Transpose", ["x"], ["t"]), node("Softmax", ["t"], ["s"], axis=1), node("Transpose", ["s"], ["y"])
    ),
    "ReduceMax": graph(node("ReduceMax", ["x"], ["m"]), node("Sub", ["x", "m"], ["y"])),
    "ReduceMean": graph(node("ReduceMean", ["x", "axes"], ["m"]), node("Sub", ["x", "m"], ["y"]), axes=ONE_AXIS),
    "MeanVarianceNormalization": graph(node("MeanVarianceNormalization", ["x"], ["y"], axes=[0])),
    "DynamicQuantizeLinear": graph(
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])
    ),
    "If": graph(
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["c"]),
        node("If", ["c"], ["y"], then_branch=POSITIVE, else_branch=NEGATIVE),
        zero=np.float32(0),
    ),
    "Loop": graph(
        node("Loop", ["most", "yes", "x"], ["y"], body=COUNTING), most=np.int64(9), yes=np.array(True),
        limit=np.float32(1000),
    ),
    "RandomNormalLike": graph(node("RandomNormalLike", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])),
    "Gather": graph(node("Cast", ["x"], ["i"], to=INT), node("ArgMax", ["x"], ["j"], axis=1, keepdims=0),
                    node("Gather", ["x", "j"], ["y"], axis=0)),
    "OneHot": graph(
        node("ReduceMax", ["x"], ["m"], keepdims=0), node("OneHot", ["x", "m", "v"], ["y"]),
        output=("y", FLOAT, ["N", 4, "K"]), v=np.array([0, 1], np.float32),
    ),
}  # fmt: skip

INDEPENDENT = {
    "softmax of the last axis": graph(node("Softmax", ["x"], ["y"], axis=-1)),
    "softmax after a transposition and back": graph(
        node("Transpose", ["x"], ["t"]), node("Softmax", ["t"], ["s"], axis=0), node("Transpose", ["s"], ["y"])
    ),
    "a mean over columns": graph(
        node("ReduceMean", ["x", "axes"], ["m"]), node("Sub", ["x", "m"], ["y"]), axes=LAST_AXIS
    ),
    "a mask made from sizes": graph(
        node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["o"], value=ONE),
        node("NonZero", ["o"], ["nz"]), node("ReduceMax", ["o"], ["m"]), node("Mul", ["x", "m"], ["y"]),
    ),
    "a loop of a fixed number of turns": graph(
        node("Loop", ["most", "yes", "x"], ["y"], body=DOUBLING), most=np.int64(3), yes=np.array(True)
    ),
    "the largest of each row": graph(
        node("TopK", ["x", "k"], ["y", "i"], axis=-1), output=("y", FLOAT, ["N", 2]), k=np.array([2], np.int64)
    ),
    "columns that are dropped": graph(
        node("Compress", ["x", "c"], ["y"], axis=1), output=("y", FLOAT, ["N", 2]), c=np.array([1, 0, 1, 0], np.bool_)
    ),
}  # fmt: skip


def trial_of(tmp_path: Path, content: bytes, **question: Any) -> Trial:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    return Trial(Question(file=str(file), memory_bytes=2**30, **question))


def verdict_of(tmp_path: Path, content: bytes, **question: Any) -> Verdict:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    return try_out(Question(file=str(file), **{"memory_bytes": 2**30} | question))


@pytest.mark.parametrize("name", MIXING)
def test_an_operator_that_takes_rows_together_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.onnx").write_bytes(MIXING[name])

    assert mixing_operator(tmp_path / "model.onnx")


@pytest.mark.parametrize("name", INDEPENDENT)
def test_rows_that_are_independent_are_batched(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.onnx").write_bytes(INDEPENDENT[name])
    assert mixing_operator(tmp_path / "model.onnx") == ""

    trial = trial_of(tmp_path, INDEPENDENT[name])
    found = trial.find(is_batched=True)

    assert found is not None
    proof = Proof(trial, *found[:2])
    proof.check()
    assert proof.num_comparisons > 20


def test_a_file_that_is_no_onnx_gives_no_reason(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"ORTM something else")

    assert mixing_operator(tmp_path / "model.onnx") == ""


def test_operators_inside_a_function_are_found(tmp_path: Path) -> None:
    function = helper.make_function(
        "own", "Quantise", ["a"], ["b"],
        [node("DynamicQuantizeLinear", ["a"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    call = helper.make_graph(
        [node("Quantise", ["x"], ["y"], domain="own")],
        "g",
        [helper.make_tensor_value_info(*ROWS[0])],
        [helper.make_tensor_value_info("y", FLOAT, ["N", 4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(call, functions=[function], opset_imports=opsets, ir_version=8)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())

    assert "DynamicQuantizeLinear" in mixing_operator(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (MIXING["Compress"], "its output 'y' has the shape"),
        (MIXING["DynamicQuantizeLinear"], "who shares its batch"),
        (graph(node("Shape", ["x"], ["s"], end=1), node("Cast", ["s"], ["f"], to=FLOAT),
               node("Mul", ["x", "f"], ["y"])),
         "the size of the batch"),
        (graph(node("Shape", ["x"], ["s"], end=1), node("Squeeze", ["s"], ["n"]),
               node("Range", ["zero", "n", "one"], ["r"]), node("Unsqueeze", ["r", "last"], ["c"]),
               node("Cast", ["c"], ["f"], to=FLOAT), node("Add", ["x", "f"], ["y"]),
               zero=np.int64(0), one=np.int64(1), last=LAST_AXIS),
         "its place in the batch"),
    ],
)  # fmt: skip
def test_rows_that_depend_on_each_other_show_when_they_are_tried(tmp_path: Path, content: bytes, reason: str) -> None:
    trial = trial_of(tmp_path, content)
    found = trial.find(is_batched=True)

    assert found is not None
    with pytest.raises(Dependent, match=reason):
        Proof(trial, *found[:2]).check()


def test_rounding_in_batches_of_other_sizes_is_no_dependence(tmp_path: Path) -> None:
    sharp = graph(
        node("ReduceSum", ["x", "axis"], ["a"], keepdims=0), node("Mul", ["a", "k"], ["b"]), node("Sin", ["b"], ["y"]),
        inputs=[("x", FLOAT, ["N", 513, 64])], output=("y", FLOAT, ["N", 64]),
        axis=np.array([1], np.int64), k=np.float32(300),
    )  # fmt: skip

    assert verdict_of(tmp_path, sharp).is_batched


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (one_node("Neg", FLOAT, ["n"]), "one axis"),
        (
            graph(node("Add", ["a", "b"], ["y"]), inputs=[("a", FLOAT, [None, 4]), ("b", FLOAT, [None, 4])]),
            "need not be",
        ),
        (graph(node("Add", ["a", "b"], ["y"]), inputs=[("a", FLOAT, ["n", 4]), ("b", FLOAT, ["m", 4])]), "need not be"),
        (one_node("Neg", FLOAT, ["n", "n"]), "also the size of another axis"),
        (one_node("Neg", FLOAT, [2, 3]), "first axis of open size"),
    ],
)
def test_a_signature_without_an_axis_for_rows_is_not_batched(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in trial_of(tmp_path, content).obstacle()


def test_sizes_of_open_axes_are_found_one_by_one(tmp_path: Path) -> None:
    convolution = graph(
        node("Conv", ["x", "w"], ["y"], strides=[16, 16]),
        inputs=[("x", FLOAT, ["N", "C", "H", "W"])],
        output=("y", FLOAT, ["N", 2, "h", "w"]),
        w=np.ones((2, 3, 32, 32), np.float32),
    )

    verdict = verdict_of(tmp_path, convolution)

    assert verdict.is_batched
    assert verdict.shapes["x"][1] == 3
    assert min(verdict.shapes["x"][2:]) >= 32


def test_sizes_from_the_configuration_are_kept(tmp_path: Path) -> None:
    content = one_node("Neg", FLOAT, ["N", "L"])

    assert verdict_of(tmp_path, content, sizes={"L": 7}).shapes == {"x": (1, 7)}


def test_a_trial_that_takes_too_much_memory_says_what_would_settle_it(tmp_path: Path) -> None:
    huge = graph(
        node("ConstantOfShape", ["s"], ["z"]), node("ReduceSum", ["z"], ["t"]), node("Add", ["x", "t"], ["y"]),
        s=np.array([40_000, 40_000], np.int64),
    )  # fmt: skip

    problem = verdict_of(tmp_path, huge, memory_bytes=2**28).problem

    assert "--load-memory-bytes" in problem


def test_sizes_that_take_too_much_memory_are_named_with_what_to_set(tmp_path: Path) -> None:
    attention = graph(
        node("Shape", ["x"], ["s"]), node("Mul", ["s", "k"], ["t"]), node("ConstantOfShape", ["t"], ["z"]),
        node("ReduceSum", ["z"], ["r"]), node("Add", ["x", "r"], ["y"]),
        inputs=[("x", FLOAT, ["N", "L"])], output=("y", FLOAT, ["N", "L"]), k=np.int64(20_000),
    )  # fmt: skip

    problem = verdict_of(tmp_path, attention, memory_bytes=2**28).problem

    assert "take more than 268435456 bytes: put sizes that it takes into config.toml" in problem
    assert "--load-memory-bytes" in problem


@pytest.mark.parametrize(
    ("axes", "advised"),
    [(["N", "K"], "sizes = {K = 8}"), (["N", "a b"], 'sizes = {"a b" = 8}'), ([3, None], 'sizes = {"x[1]" = 8}')],
)
def test_a_graph_that_nothing_fits_says_what_to_put_into_its_configuration(
    tmp_path: Path, axes: list[Any], advised: str
) -> None:
    wide = graph(node("MatMul", ["x", "w"], ["y"]), inputs=[("x", FLOAT, axes)], w=np.ones((777, 4), np.float32))

    assert advised in verdict_of(tmp_path, wide).reason
    sizes = {("x[1]" if axes[1] is None else axes[1]): 777}
    assert verdict_of(tmp_path, wide, sizes=sizes).shapes["x"][1] == 777


def test_inputs_that_are_tried_are_bounded_in_bytes_and_small_ones_come_first(tmp_path: Path) -> None:
    trial = trial_of(tmp_path, one_node("Neg", TensorProto.DOUBLE, ["N", "A", "B", "C"]))

    num_bytes = [8 * int(np.prod(shapes["x"])) for shapes in trial.shapes(is_batched=True)]

    assert num_bytes[0] <= 64
    assert max(num_bytes) <= trials.MAX_BYTES


def test_a_trial_that_takes_too_long_leaves_the_graph_unbatched(tmp_path: Path) -> None:
    endless = graph(node("Loop", ["most", "yes", "x"], ["y"], body=DOUBLING), most=np.int64(2**62), yes=np.array(True))

    verdict = verdict_of(tmp_path, endless, seconds=0.5)

    assert not verdict.is_batched
    assert verdict.problem == ""
    assert "ended after" in verdict.reason


@pytest.mark.parametrize("is_batched", [True, False])
def test_the_configuration_has_the_last_word(tmp_path: Path, is_batched: bool) -> None:
    content = MIXING["DynamicQuantizeLinear"] if is_batched else INDEPENDENT["softmax of the last axis"]

    verdict = verdict_of(tmp_path, content, is_batched=is_batched)

    assert (verdict.is_batched, verdict.reason) == (is_batched, trials.SAID)


def test_what_cannot_be_batched_is_not_batched_by_the_configuration(tmp_path: Path) -> None:
    assert "batched = true, but" in verdict_of(tmp_path, one_node("Neg", FLOAT, [2, 3]), is_batched=True).problem
