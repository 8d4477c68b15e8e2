"""The page's JavaScript, checked by ESLint and by TypeScript; the types are those of its JSDoc comments."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.playground.conftest import FOLDER

SCRIPTS = FOLDER.parent.parent / "service" / "playground" / "js"


def npm_run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["npm", "run", "--silent", script, "--", *arguments]
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.usefixtures("node_modules")
@pytest.mark.parametrize("script", ["types", "lint"])
def test_the_javascript_passes(script: str) -> None:
    done = npm_run(script)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("node_modules")
def test_a_property_that_an_element_lacks_is_a_type_error(tmp_path: Path) -> None:
    (tmp_path / "wrong.js").write_text(
        f'import {{ h }} from "{SCRIPTS / "dom.js"}";\nh("img", {{ source: "x.png" }});\n'
    )
    (tmp_path / "tsconfig.json").write_text(
        json.dumps({"extends": str(FOLDER / "tsconfig.json"), "include": ["wrong.js"]})
    )

    done = npm_run("types", "--project", str(tmp_path))

    assert done.returncode != 0
    assert "'source' does not exist in type 'Props<HTMLImageElement>'" in done.stdout
