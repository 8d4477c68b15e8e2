"""The page of any network, on bare ONNX files as people bring them: what it sends, shows and writes as programs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper
from playwright.sync_api import Page, expect

from tests.fake_models.bare_graphs import graph_bytes, write_bare
from tests.playground import commands
from tests.playground.conftest import NARROW, Open, Watched
from tests.playground.test_modules import call
from tests.servers import RunningService

RNG = np.random.default_rng(7)
FLOAT, INT64, BOOL, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING
HOSTILE = 'It\'s "quoted" $HOME `id` \\ [ true ] 次'


def iris() -> bytes:
    nodes = [
        helper.make_node("MatMul", ["measurements", "w"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"]),
    ]
    weights = {"w": RNG.normal(size=(4, 3)).astype(np.float32)}
    return graph_bytes(nodes, [("measurements", FLOAT, ["N", 4])], [("p", FLOAT, ["N", 3])], weights)


def scene() -> bytes:
    """Pictures to pictures and to ten classes."""
    nodes = [
        helper.make_node("Mul", ["image", "half"], ["dark"]),
        helper.make_node("GlobalAveragePool", ["image"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["classes"]),
    ]
    outputs = [("dark", FLOAT, ["N", 3, 64, 64]), ("classes", FLOAT, ["N", 10])]
    weights = {"half": np.float32(0.5), "w": RNG.normal(size=(3, 10)).astype(np.float32)}
    return graph_bytes(nodes, [("image", FLOAT, ["N", 3, 64, 64])], outputs, weights)


def several() -> bytes:
    """A sequence of whole numbers, a scalar and a truth, each given back."""
    names: dict[str, tuple[int, list[Any]]] = {"ids": (INT64, ["N", "S"]), "scale": (FLOAT, []), "flip": (BOOL, [1])}
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in names]
    inputs = [(name, element, shape) for name, (element, shape) in names.items()]
    return graph_bytes(nodes, inputs, [(f"{name}_out", element, shape) for name, element, shape in inputs])


def identity(element: int, shape: list[Any]) -> bytes:
    return graph_bytes([helper.make_node("Identity", ["x"], ["y"])], [("x", element, shape)], [("y", element, shape)])


def pairs() -> bytes:
    shape = ["N", 2]
    return graph_bytes(
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        [("a", FLOAT, shape), ("b", FLOAT, shape)],
        [("sum", FLOAT, shape)],
    )


MODELS = {
    "iris": iris,
    "scene": scene,
    "several": several,
    "texts": lambda: identity(STRING, ["N", 1]),
    "half": lambda: identity(TensorProto.FLOAT16, ["N", 4]),
    "negative": lambda: identity(TensorProto.UINT8, ["N", "H", "W", 3]),
    "long": lambda: identity(FLOAT, ["N", 30, 40]),
    "pairs": pairs,
}


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Only a user's own networks."""
    folder = tmp_path_factory.mktemp("networks")
    for name, content in MODELS.items():
        write_bare(folder, name, content())
    with RunningService(folder, "--instances", "1") as running:
        yield running.wait_until_ready()


def send(page: Page) -> None:
    page.get_by_role("button", name="Send").click()


def program(page: Page, language: str) -> str:
    page.get_by_role("button", name=language, exact=True).click()
    return commands.copied(page)


def run(text: str, language: str, folder: Path) -> str:
    """What a program prints."""
    if language == "curl":
        return commands.run(text, folder)
    starts = {"Python": ("program.py", sys.executable), "JavaScript": ("program.mjs", "node")}
    name, interpreter = starts[language]
    (folder / name).write_text(text)
    done = subprocess.run([interpreter, name], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def infer(playground: RunningService, model: str, **inputs: tuple[str, list[int], list[Any]]) -> dict[str, Any]:
    sent = [{"name": n, "datatype": d, "shape": s, "data": data} for n, (d, s, data) in inputs.items()]
    answer = httpx.post(f"{playground.url}/v2/models/{model}/infer", json={"inputs": sent})
    return {one["name"]: one["data"] for one in answer.raise_for_status().json()["outputs"]}


def test_a_page_of_the_users_own_networks_leads_with_them(open_page: Open) -> None:
    page = open_page()

    expect(page.get_by_role("heading", level=1)).to_have_text(f"{len(MODELS)} models run here. Try each of them.")
    expect(page.get_by_role("main")).not_to_contain_text("digit")
    expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(["Models", "Tensors", "Watch"])
    expect(page.locator(".model[data-model='several'] dd")).to_have_text(
        ["ids, scale, flip", "ids_out, scale_out, flip_out", "cpu"]
    )
    page.get_by_role("link", name="iris", exact=True).press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Call iris")
    expect(page).to_have_title("Tensors · Hotplate")
    page.get_by_label("Model").select_option("texts")
    expect(page.get_by_role("heading", level=1)).to_have_text("Call texts")
    assert page.url.endswith("#/tensors/texts")


def test_fields_are_sent_and_the_likeliest_classes_shown(open_page: Open, playground: RunningService) -> None:
    page = open_page("#/tensors/iris")
    values = [5.1, 3.5, 1.4, 0.2]
    expect(page.get_by_text("0 of 4 numbers").first).to_be_visible()

    for index, value in enumerate(values):
        page.get_by_label(f"measurements {index}").fill(str(value))
    page.get_by_label("measurements 3").press("Enter")

    expected = infer(playground, "iris", measurements=("FP32", [1, 4], values))["p"]
    best = sorted(range(3), key=lambda index: -expected[index])
    expect(page.locator(".bar-label")).to_have_text([f"class {index}" for index in best])
    expect(page.locator(".bar-text")).to_have_text([f"{expected[index] * 100:.1f} %" for index in best])
    expect(page.get_by_text("in the service:")).to_contain_text("computing")


@pytest.mark.parametrize("values", ["random values", "zeros"])
def test_one_click_gives_an_answer(open_page: Open, values: str) -> None:
    page = open_page("#/tensors/iris")

    for model in MODELS:
        page.goto(f"/#/tensors/{model}")
        expect(page.get_by_role("heading", level=1)).to_have_text(f"Call {model}")
        page.get_by_role("button", name=f"Try {values}").click()
        expect(page.locator(".output").first).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)


FORMS: dict[str, dict[str, str]] = {
    "iris": {"measurements 0": "1", "measurements 1": "-.5", "measurements 2": "1e-3", "measurements 3": "4"},
    "several": {"ids": f"{2**53 + 1}, 2\n{-(2**63)} 4", "scale": "0.25"},
    "texts": {"x": HOSTILE},
}
SENT: dict[str, dict[str, tuple[str, list[int], list[Any]]]] = {
    "iris": {"measurements": ("FP32", [1, 4], [1, -0.5, 0.001, 4])},
    "several": {
        "ids": ("INT64", [2, 2], [2**53 + 1, 2, -(2**63), 4]),
        "scale": ("FP32", [], [0.25]),
        "flip": ("BOOL", [1], [True]),
    },
    "texts": {"x": ("BYTES", [1, 1], [HOSTILE])},
}


@pytest.mark.parametrize("model", FORMS)
def test_the_programs_do_what_the_form_does(
    open_page: Open, playground: RunningService, tmp_path: Path, model: str
) -> None:
    page = open_page(f"#/tensors/{model}")
    for label, text in FORMS[model].items():
        page.locator("fieldset").get_by_label(label).fill(text)
    if model == "several":
        page.get_by_label("flip").check()
    expected = infer(playground, model, **SENT[model])

    answer = json.loads(run(program(page, "curl"), "curl", tmp_path))
    assert {one["name"]: one["data"] for one in answer["outputs"]} == expected
    lines = run(program(page, "Python"), "Python", tmp_path).splitlines()
    assert [ast.literal_eval(line.split("] ", 1)[1]) for line in lines] == list(expected.values())
    script = program(page, "JavaScript").replace("console.log(name, shape, data)", "console.log(JSON.stringify(data))")
    printed = [json.loads(line) for line in run(script, "JavaScript", tmp_path).splitlines()]
    assert printed == [pytest.approx(values) if model == "several" else values for values in expected.values()]

    send(page)
    for name, values in expected.items():
        if model == "several":
            cells = page.get_by_role("region", name=f"{name} as a table").locator("tbody td")
            expect(cells).to_have_text([str(value).lower() for value in values])


def test_what_json_cannot_hold_goes_as_bytes_from_a_file(open_page: Open, tmp_path: Path) -> None:
    page = open_page("#/tensors/half")
    for index, value in enumerate(("0.1", "-65504", "6e-8", "1")):
        page.get_by_label(f"x {index}").fill(value)
    expected = np.array([0.1, -65504, 6e-8, 1], np.float16)

    python = program(page, "Python")
    commands.saved(page, "Save half-request.bin", tmp_path)
    assert run(python, "Python", tmp_path) == f"y [1, 4] {expected.tolist()}\n"
    run(program(page, "curl"), "curl", tmp_path)
    assert (tmp_path / "half-answer.bin").read_bytes().endswith(expected.tobytes())
    assert "{ binary_data_size: 8 }" not in run(program(page, "JavaScript"), "JavaScript", tmp_path)

    send(page)
    shown = page.locator(".output tbody td").all_inner_texts
    expect(page.locator(".output tbody td")).to_have_count(4)
    assert [float(text) for text in shown()] == pytest.approx(expected.tolist(), rel=1e-5)


def test_a_picture_is_fitted_scaled_and_laid_out(open_page: Open, tmp_path: Path) -> None:
    page = open_page("#/tensors/scene")
    page.get_by_role("button", name="Sample: cat.jpg").click()
    expect(page.get_by_role("img", name="dark as a picture")).to_be_visible()  # sent at once
    expect(page.get_by_text("cat.jpg, sent as 1")).to_be_visible()
    page.get_by_label("Scale of the pixels").select_option("imagenet")

    expect(page.get_by_text("black is -1, white is 1")).to_be_visible()
    command = program(page, "curl")
    commands.saved(page, "Save scene-request.bin", tmp_path)
    dark, classes = (one["data"] for one in json.loads(run(command, "curl", tmp_path))["outputs"])
    python = program(page, "Python")
    commands.saved(page, "Save cat.jpg", tmp_path)
    lines = run(python, "Python", tmp_path).splitlines()
    theirs = [ast.literal_eval(line.split("] ", 1)[1]) for line in lines]

    # Two programs resize a picture slightly differently.
    assert np.abs(np.array(dark) - theirs[0]).mean() < 0.05
    assert np.ptp(dark) > 1
    assert theirs[1] == pytest.approx(classes, abs=0.02)
    script = program(page, "JavaScript").replace("console.log(name, shape, data)", "console.log(JSON.stringify(data))")
    printed = run(script, "JavaScript", tmp_path).splitlines()
    assert [json.loads(line) for line in printed] == [dark, classes]


def test_bytes_of_a_picture_come_back_as_they_went(open_page: Open) -> None:
    page = open_page("#/tensors/negative")
    page.get_by_label("Height").fill("16")
    page.get_by_label("Width").fill("24")

    page.get_by_role("button", name="Sample: coffee.jpg").click()

    expect(page.get_by_role("img", name="y as a picture")).to_be_visible()
    pixels = "(canvas) => [...canvas.getContext('2d').getImageData(0, 0, 24, 16).data]"
    sent = page.get_by_role("img", name="x as it is sent").evaluate(pixels)
    assert page.get_by_role("img", name="y as a picture").evaluate(pixels) == sent
    assert len(set(sent)) > 20


def test_a_large_answer_is_bounded_and_says_what_it_leaves_out(open_page: Open) -> None:
    page = open_page("#/tensors/long")
    page.get_by_label("Size of axis 0").fill("3")

    page.get_by_role("button", name="Try random values").click()

    expect(page.locator(".output tbody tr")).to_have_count(20)
    expect(page.locator(".output p")).to_have_text(
        [
            "The first 16 of 40 columns.",
            "The first 20 of 30 rows.",
            "The first 1 of 3 tables of the last two axes.",
        ]
    )


def test_an_error_of_the_service_is_shown_in_its_words(
    open_page: Open, watched: Watched, playground: RunningService
) -> None:
    watched.expected = ("status of 400",)
    page = open_page("#/tensors/pairs")
    for name, text in (("a", "1 2\n3 4"), ("b", "1 2")):
        page.get_by_label(f"How to give {name}").select_option("Pasted numbers")
        page.get_by_label(f"{name}, apart by").fill(text)
    sent = [
        {"name": "a", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]},
        {"name": "b", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
    ]
    answer = httpx.post(f"{playground.url}/v2/models/pairs/infer", json={"inputs": sent})
    assert answer.status_code == 400

    send(page)

    expect(page.get_by_role("alert")).to_contain_text(answer.json()["error"])


# What is pasted for a shape, and the shape that it fills, or what the page says.
PASTED: list[tuple[list[int], str, list[int] | str]] = [
    ([-1, 4], "1 2 3 4 5 6 7 8", [2, 4]),
    ([-1, 4], "[[1, 2, 3, 4]]", [1, 4]),
    ([-1, -1], "1 2 3", [1, 3]),
    ([-1, -1], "1,2,3\n4,5,6\n", [2, 3]),
    ([-1, -1], "[[1],[2],[3]]", [3, 1]),
    ([2, 3], "1;2;3\n4;5;6", [2, 3]),
    ([], "7", []),
    ([-1], "1\n2\n3", [3]),
    ([-1, 2, 2], "[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]", [2, 2, 2]),
    ([2, 3], "1 2 3 4", "4 of 6 numbers."),
    ([-1, 4], "1 2 3", "3 numbers: not a multiple of 4."),
    ([-1], "", "No numbers yet."),
    ([-1], "[1, 2", "The brackets do not match."),
]


def test_pasted_numbers_fill_a_shape(open_page: Open) -> None:
    code = """a.map(([wanted, text]) => { try {
        const { words, shape } = m.wordsOf(text);
        return m.filledShape(wanted, { count: words.length, sizes: wanted.map(() => null), seen: shape });
    } catch (error) { return error.message; } })"""

    filled = call(open_page("playground/icon.svg"), "tensors/numbers", code, PASTED)

    assert filled == [shape for _, _, shape in PASTED]


WORDS: list[tuple[str, str, str | bool]] = [
    ("INT64", "9007199254740993", "9007199254740993"),
    ("INT32", "+5.0", "5"),
    ("FP32", ".5", "0.5"),
    ("FP64", "-inf", "-Infinity"),
    ("FP32", "nan", "NaN"),
    ("BOOL", "TRUE", True),
    ("UINT8", "256", '"256" is not from 0 to 255, as UINT8 holds.'),
    ("INT64", "1.5", '"1.5" is not a whole number, as INT64 holds.'),
    ("FP32", "1e999", '"1e999" is not a number.'),
    ("FP32", "sepal", '"sepal" is not a number.'),
    ("BOOL", "2", '"2" is not true, false, 1 or 0.'),
]


def test_a_word_becomes_an_element_or_is_quoted(open_page: Open) -> None:
    code = """a.map(([datatype, word]) => { try {
        return m.elementsOf({ datatype }, [word])[0];
    } catch (error) { return error.message; } })"""

    read = call(open_page("playground/icon.svg"), "tensors/numbers", code, WORDS)

    assert read == [element for _, _, element in WORDS]


def test_numbers_of_16_bits_are_rounded_as_numpy_rounds_them(open_page: Open) -> None:
    bits = RNG.integers(0, 2**16, 3000).astype(np.uint16)
    halves = bits.view(np.float16).astype(np.float64)
    ties = [
        0.0,
        -0.0,
        65504,
        65519,
        65520,
        1e9,
        2**-24,
        2**-25,
        3 * 2**-25,
        2**-14 - 2**-26,
        1 + 2**-11,
        1 + 3 * 2**-11,
    ]
    values = np.concatenate(
        [halves[np.isfinite(halves)] * (1 + RNG.normal(size=np.isfinite(halves).sum()) / 3000), ties]
    )
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    code = """(async () => {
        const LENGTH = "Inference-Header-Content-Length";
        const tensor = { name: "x", datatype: "FP16", shape: [a.length] };
        const filled = [{ spec: tensor, shape: tensor.shape, elements: a }];
        const request = m.inferRequest({ name: "n", inputs: [tensor], outputs: [tensor] }, filled);
        const bytes = new Uint8Array(await request.body.slice(request.headers[LENGTH]).arrayBuffer());
        const json = JSON.stringify({ outputs: [{ ...tensor, parameters: { binary_data_size: bytes.length } }] });
        const answer = new Response(new Blob([json, bytes]), { headers: { [LENGTH]: json.length } });
        return [[...bytes], [...(await m.outputsOf(answer))[0].elements].map(String)];
    })()"""

    sent, read = call(open_page("playground/icon.svg"), "tensors/request", code, values.tolist())

    assert bytes(sent) == expected.tobytes()
    assert [float(text) for text in read] == expected.astype(float).tolist()


def test_a_program_takes_the_key_from_the_environment(open_page: Open, tmp_path: Path) -> None:
    code = """['pythonProgram', 'javascriptProgram'].map((name) => m[name](
        { path: "/v2/models/n/infer", headers: {}, json: '{"inputs":[]}', tensors: [], outputs: null },
        { model: "n", needsKey: true },
    ))"""

    python, javascript = call(open_page("playground/icon.svg"), "tensors/programs", code)

    (tmp_path / "program.mjs").write_text(javascript)
    commands.run("node --check program.mjs", tmp_path)
    ast.parse(python)
    assert all("HOTPLATE_API_KEY" in program for program in (python, javascript))


def test_names_of_numbers_that_json_lacks_are_shown(open_page: Open) -> None:
    outputs = [{"name": "y", "datatype": "FP32", "shape": [3], "data": ["NaN", "-Infinity", 1.5]}]
    outputs.append({"name": "n", "datatype": "INT64", "shape": [1], "data": [2**53 + 1]})
    page = open_page("#/tensors/iris")
    page.route("**/infer", lambda route: route.fulfill(json={"outputs": outputs}))

    page.get_by_role("button", name="Try zeros").click()

    expect(page.locator(".output tbody td")).to_have_text(["NaN", "-Infinity", "1.5", str(2**53 + 1)])


@pytest.mark.parametrize("model", ["several", "scene"])
def test_the_page_is_accessible_and_fits(open_page: Open, looks_right: Callable[[Page, str], None], model: str) -> None:
    page = open_page(f"#/tensors/{model}")
    page.get_by_role("button", name="Try random values").click()
    expect(page.locator(".output").first).to_be_visible()

    looks_right(page, f"tensors-{model}")


def test_a_network_is_called_with_the_keyboard_alone(open_page: Open) -> None:
    page = open_page("#/tensors/iris", size=NARROW)
    page.get_by_label("measurements 0").focus()

    for value in "1234":
        page.keyboard.type(value)
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Send")).to_be_focused()
    page.keyboard.press("Enter")

    expect(page.locator(".bar")).to_have_count(3)
