"""What a page of another site can have a visitor's browser send to a service on that machine."""

from __future__ import annotations

import json
import re

from loadtests.attacks import wire
from loadtests.attacks.attack import Target, attack, require, require_status

_ROW = {"inputs": [{"name": "image", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": [0] * 784}]}
_INFER = "/v2/models/mnist/infer"
_LOAD, _UNLOAD = (f"/v2/repository/models/mnist/{verb}" for verb in ("load", "unload"))
_REFUSED = (400, 403, 415, 421)


@attack("an unload from a page of another site", stage="controlled")
def unload_from_elsewhere(target: Target) -> str:
    """What changes state is refused where a browser says that another site asks."""
    crossing = wire.JSON | {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    answer = target.ask("POST", _UNLOAD, b"{}", headers=crossing)
    target.ask("POST", _LOAD, b"{}", headers=wire.JSON, timeout_seconds=60)
    return require_status(answer, *_REFUSED)


@attack("an unload from a foreign origin", stage="controlled")
def unload_from_a_foreign_origin(target: Target) -> str:
    """Older browsers send the origin alone."""
    answer = target.ask("POST", _UNLOAD, b"{}", headers=wire.JSON | {"Origin": "https://evil.example"})
    target.ask("POST", _LOAD, b"{}", headers=wire.JSON, timeout_seconds=60)
    return require_status(answer, *_REFUSED)


@attack("an unload by a form", stage="controlled")
def unload_by_a_form(target: Target) -> str:
    """What a form can send is not JSON, so it changes nothing."""
    answers = []
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"):
        answers.append(target.ask("POST", _UNLOAD, b"{}", headers={"Content-Type": kind}))
    target.ask("POST", _LOAD, b"{}", headers=wire.JSON, timeout_seconds=60)
    for answer in answers:
        require_status(answer, *_REFUSED)
    return "refused"


@attack("a name that somebody points at loopback")
def rebound(target: Target) -> str:
    """A service on loopback answers to its own names only."""
    answers = [target.ask("GET", "/v1/models", headers={"Host": name}) for name in ("evil.example", "evil.example:80")]
    for answer in answers:
        require_status(answer, *_REFUSED)
    require_status(target.ask("GET", "/v1/models", headers={"Host": f"localhost:{target.port}"}), 200)
    return str(answers[0].status)


@attack("a name that somebody points at loopback, on a kept connection")
def rebound_on_a_kept_connection(target: Target) -> str:
    """Also where the connection answers known heads itself."""
    body = json.dumps(_ROW).encode()
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    good = wire.head(_INFER, *lines) + body
    evil = good.replace(f"Host: {wire.HOST}".encode(), b"Host: evil.example")
    with target.connect() as connection:
        for _ in range(3):
            connection.send(good)
            require_status(connection.answer(), 200)
        connection.send(evil)
        return require_status(connection.answer(), *_REFUSED)


@attack("scripts of others in the documentation")
def foreign_scripts(target: Target) -> str:
    """`/docs` comes from the service's own files, under a policy that allows no others."""
    answer = target.ask("GET", "/docs")
    require_status(answer, 200)
    foreign = re.findall(r"""(?:src|href)=["'](https?:)?//""", answer.text)
    require(not foreign and "cdn." not in answer.text, "the page loads files of other hosts")
    require("content-security-policy" in answer.headers, "the page has no policy")
    return "own files"
