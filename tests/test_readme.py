"""The README tells the truth: settings, statuses, curl lines and their answers, the configuration of NATS."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from proxy.errors import BatchFailed, GatewayError, TooLarge, to_response
from proxy.settings_table import settings_table
from tests.brokers.tools import Operator
from tests.clients import STORED, logged_on
from tests.servers import ROOT, Gateway, NatsServer

_README = (ROOT / "README.md").read_text()
_ADDRESS = "http://127.0.0.1:4444"
_NEXT = "--- next ---"


class Step(NamedTuple):
    """A command of the README, and the answer it shows; empty when it shows none."""

    command: str
    answer: str


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", _README, re.M | re.S)


def _steps() -> Iterator[Step]:
    for block in _blocks("console"):
        for step in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, answer = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*\n)(.*)", step, re.S).groups()  # type: ignore[union-attr]
            yield Step(command, answer.strip())


def _same(shown: Any, given: Any) -> bool:
    """Whether an answer is the one shown; `...` in a text stands for anything."""
    if isinstance(shown, dict):
        return (
            isinstance(given, dict) and shown.keys() == given.keys() and all(_same(shown[k], given[k]) for k in shown)
        )
    if isinstance(shown, list):
        return isinstance(given, list) and len(shown) == len(given) and all(map(_same, shown, given))
    if isinstance(shown, str) and "..." in shown:
        return isinstance(given, str) and re.fullmatch(re.escape(shown).replace(r"\.\.\.", ".+"), given) is not None
    return type(shown) is type(given) and bool(shown == given)


def _subclasses(kind: type[GatewayError]) -> set[type[GatewayError]]:
    return {kind}.union(*map(_subclasses, kind.__subclasses__()))


def test_the_settings_are_those_of_the_program() -> None:
    """The table is `settings_table()`, to the letter."""
    shown = re.search(r"<!-- settings: .*? -->\n(.*?)<!-- end of settings -->", _README, re.S)
    assert shown is not None
    assert shown[1] == settings_table()


def test_each_status_is_explained() -> None:
    """Those of all errors, with what the errors say of themselves."""
    rows = {
        int(row[0]): row for row in re.findall(r"^\| (\d{3}) \| .* \| `(\w+)`.* \| `([\w-]+)`.* \|$", _README, re.M)
    }
    errors = _subclasses(GatewayError)
    assert rows.keys() == {error.status for error in errors}
    for error in errors - {GatewayError}:
        if not issubclass(error, BatchFailed):  # its status and truth follow from its messages
            assert rows[error.status][1:] == (error.stored, error.repeat), error


def test_a_batch_that_fails_in_part_is_answered_as_shown() -> None:
    """The body of that error, field by field."""
    (shown,) = _blocks("json")
    failure = TooLarge("the message is larger than this station takes")
    _, _, body = to_response(BatchFailed(3, [(1, failure)]), request_id="r-1")
    assert _same(json.loads(shown), json.loads(body))


def test_links_lead_somewhere() -> None:
    """Files that exist, headings that exist."""
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", _README, re.M)
    }
    for target in re.findall(r"\]\((?!http)([^)]+)\)", _README):
        assert target[1:] in headings if target.startswith("#") else (ROOT / target).exists(), target


@pytest.mark.slow
def test_the_requests_are_answered_as_shown(gateway: Callable[..., Gateway]) -> None:
    """All curl lines in their order, in one shell, at a gateway without any settings."""
    running, steps = gateway().start(), list(_steps())
    script = f"echo {_NEXT!r}\n".join(f"{step.command.replace(_ADDRESS, running.url)}echo\n" for step in steps)
    assert script.count("curl") >= 8
    assert _ADDRESS not in script
    ran = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    answers = [answer.strip() for answer in ran.stdout.split(_NEXT)]
    assert len(answers) == len(steps)
    for step, answer in zip(steps, answers, strict=True):
        if step.answer:
            assert _same(json.loads(step.answer), json.loads(answer)), (step, answer)
        else:
            assert answer == "", step


@pytest.mark.slow
def test_the_user_of_the_nats_configuration_may_do_what_is_said(
    nats_server: Callable[..., NatsServer], gateway: Callable[..., Gateway]
) -> None:
    """Produce to one station, singles and batches, with exact answers; and nothing else."""
    (config,) = _blocks("conf")
    broker = nats_server(config.replace("jetstream {}", ""))
    operator = Operator(broker, "admin", "another token")
    operator.add("orders", allow_batched=True)
    operator.add("stock")
    running = gateway({"BROKER_URL": broker.url, "JWT_SECRET": "s" * 32}).start()
    with logged_on(running.host, "shop", "a connection token") as shop:
        assert shop.single("orders", b"1", Idempotency_Key="k").json == STORED
        assert shop.batch("orders", b"[2, 3]").json == STORED
        statuses = {
            "another message with the same key": shop.single("orders", b"4", Idempotency_Key="k").status,
            "another station": shop.single("stock", b"5").status,
            "a station that is not there": shop.single("nowhere", b"6").status,
        }
    assert statuses == {
        "another message with the same key": 422,
        "another station": 403,
        "a station that is not there": 403,
    }
    assert operator.payloads("orders") == [b"1", b"2", b"3"]
