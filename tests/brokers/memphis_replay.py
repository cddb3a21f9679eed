"""Plays the broker's side of a recorded conversation with a Memphis broker to a client of ours.

A recorded answer is given to the request that it answered: the same subject, station and user, in the recorded order,
the last one again and again. A message is answered as the recorded one with the same payload to the same station was.
Whoever logs on is let in if somebody was with the same name and secret. Nothing else is answered.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.brokers.fakes import FakeServer
from tests.servers import ROOT

TRANSCRIPTS = ROOT.parent / "shared" / "memphis" / "transcripts"
_FINAL = re.compile(r"(.+?)(?:\$(\d+))?\.final")
Row = dict[str, Any]


class Sent(NamedTuple):
    """What a client has published, ours or the recorded one; `body` is the payload as it stands in the recording."""

    subject: str
    headers: dict[str, str]
    body: Any
    payload: bytes


class Recording:
    """A transcript, read."""

    def __init__(self, name: str) -> None:
        (path,) = TRANSCRIPTS.glob(f"{name}-*.jsonl")
        self.rows: list[Row] = [row for row in map(json.loads, path.read_text().splitlines()) if "op" in row]
        self.answers: dict[str, list[Row]] = {}
        for row in self.rows:
            if row["op"] in ("MSG", "HMSG") and row["dir"] == "broker->client":
                self.answers.setdefault(row["subject"], []).append(row)

    def connects(self) -> list[tuple[Row, bool]]:
        """What clients said when they connected, and whether they were let in."""
        refused = {row["conn"] for row in self.rows if row.get("text") == "'Authorization Violation'"}
        return [(row["payload"], row["conn"] not in refused) for row in self.rows if row["op"] == "CONNECT"]

    def published(self, *subjects: str) -> list[tuple[Sent, list[Row]]]:
        """What clients published on these subjects (all stations' without any), each with what was answered."""
        found = []
        for row in self.rows:
            if row["op"] not in ("PUB", "HPUB") or row["dir"] != "client->broker":
                continue
            if row["subject"] in subjects if subjects else _FINAL.fullmatch(row["subject"]):
                sent = Sent(row["subject"], dict(row.get("headers") or ()), row.get("payload"), payload_of(row))
                found.append((sent, self.answers.get(row.get("reply", ""), [])))
        return found

    def subscribed(self) -> set[str]:
        """What clients subscribed to, but for their inboxes."""
        subjects = {row["subject"] for row in self.rows if row["op"] == "SUB"}
        return {subject for subject in subjects if not subject.startswith("_INBOX")}

    def news(self) -> list[Row]:
        """What the broker told without being asked, in order."""
        told = ("$memphis_schema_updates_", "$memphis_sdk_clients_updates")
        return [row for row in self.rows if row["op"] == "MSG" and row["subject"].startswith(told)]

    def refused_subscriptions(self) -> Counter[str]:
        """How often the subscription to a subject was refused: the refusals come in the order of what they refuse."""
        refused: Counter[str] = Counter()
        for number, row in enumerate(self.rows):
            if row["op"] == "-ERR" and "Permissions" in row["text"]:
                before = [one for one in self.rows[:number] if one["conn"] == row["conn"]]
                recent = [one for one in before if row["t_ms"] - one["t_ms"] < 1.0 and one["op"] == "SUB"]
                if len(recent) > sum(refused.values()):
                    refused[recent[sum(refused.values())]["subject"]] += 1
        return refused


def payload_of(row: Row) -> bytes:
    """The bytes of a recorded payload; JSON with the blanks that Python's client and broker agree on."""
    payload = row.get("payload")
    if row.get("payload_encoding") == "base64":
        return base64.b64decode(payload)
    if row.get("payload_encoding") == "json":
        return json.dumps(payload, ensure_ascii=False).encode()
    return (payload or "").encode()


class Replay(FakeServer):
    """The broker of a recording. `sent` is what our client published, `subscribed` what it subscribed to, and `names`
    are those under which it connected.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.sent: list[Sent] = []
        self.subscribed: list[str] = []
        self.connected: list[Row] = []
        self._clients_now: list[socket.socket] = []
        self._sids: dict[str, tuple[socket.socket, str]] = {}
        self._refused = recording.refused_subscriptions()
        self._requests: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
        for name in ("producer_creations", "station_creations", "producer_destructions"):
            for sent, answers in recording.published(f"$memphis_{name}"):
                if isinstance(sent.body, dict) and answers:
                    self._requests[_request(sent.subject, sent.body)].append(answers[0])
        self._acks: dict[tuple[str, bytes], list[Row]] = defaultdict(list)
        for sent, answers in recording.published():
            self._acks[_station(sent.subject), sent.payload] += answers[:1]
        super().__init__()

    @property
    def url(self) -> str:
        """Its address."""
        return f"memphis://127.0.0.1:{self.port}"

    def tell(self, row: Row) -> None:
        """Sends recorded news to whoever listens to its subject."""
        client, sid = self._sids[row["subject"]]
        payload = payload_of(row)
        client.sendall(b"MSG %b %b %d\r\n%b\r\n" % (row["subject"].encode(), sid.encode(), len(payload), payload))

    def hang_up(self) -> None:
        """Ends all connections, as when a user is removed."""
        for client in self._clients_now:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def serve(self, client: socket.socket, number: int) -> None:
        """Speaks as the recorded broker did."""
        info = next(row["payload"] for row in self.recording.rows if row["op"] == "INFO")
        client.sendall(b"INFO " + json.dumps(info).encode() + b"\r\n")
        with client.makefile("rb") as stream:
            for line in stream:
                words = line.decode().split()
                if words[0] == "CONNECT":
                    connect = json.loads(line.partition(b" ")[2])
                    self.connected.append(connect)
                    if not self._lets_in(connect):
                        client.sendall(b"-ERR 'Authorization Violation'\r\n")
                        return
                    self._clients_now.append(client)
                elif words[0] == "PING":
                    client.sendall(b"PONG\r\n")
                elif words[0] == "SUB":
                    client.sendall(self._on_sub(client, words))
                elif words[0] in ("PUB", "HPUB"):
                    content = stream.read(int(words[-1]) + 2)[:-2]
                    client.sendall(b"".join(self._on_publish(words, content)))

    def _lets_in(self, connect: Row) -> bool:
        """By what was recorded for the same user, secret and named user."""
        same = [good for recorded, good in self.recording.connects() if _who(recorded) == _who(connect)]
        return bool(same) and same[-1]

    def _on_sub(self, client: socket.socket, words: list[str]) -> bytes:
        subject = words[1]
        self.subscribed.append(subject)
        self._sids[subject] = client, words[-1]
        if self._refused[subject] <= 0:
            return b""
        self._refused[subject] -= 1
        text = next(row["text"] for row in self.recording.rows if row["op"] == "-ERR" and "Permissions" in row["text"])
        return f"-ERR {text}\r\n".encode()

    def _on_publish(self, words: list[str], content: bytes) -> Iterator[bytes]:
        subject, reply = words[1], words[2] if not words[2].isdecimal() else ""
        size = int(words[-2]) if words[0] == "HPUB" else 0
        headers = dict(line.split(":", 1) for line in content[:size].decode().split("\r\n")[1:-2])
        payload = content[size:]
        body: Any = payload
        with contextlib.suppress(ValueError):
            body = json.loads(payload)
        self.sent.append(Sent(subject, {name: value.strip() for name, value in headers.items()}, body, payload))
        if reply:
            yield from self._answer(subject, reply, body, payload)

    def _answer(self, subject: str, reply: str, body: Any, payload: bytes) -> Iterator[bytes]:
        if subject == "$JS.API.STREAM.NAMES":
            known = {_station(sent.subject) for sent, _ in self.recording.published()}
            known |= {station.lower().replace(".", "#") for _, station, _ in self._requests}
            there = _station(body["subject"]) in known
            yield _message(reply, json.dumps({"streams": [body["subject"][:-6]] if there else None}).encode())
            return
        key: Any = _request(subject, body) if subject.startswith("$memphis_") else (_station(subject), payload)
        answers = (self._requests if subject.startswith("$memphis_") else self._acks).get(key, [])
        if answers:
            row = answers.pop(0) if len(answers) > 1 else answers[0]
            if row.get("status"):
                head = f"NATS/1.0 {row['status']}\r\n\r\n".encode()
                yield b"HMSG %b 1 %d %d\r\n%b\r\n" % (reply.encode(), len(head), len(head), head)
            else:
                yield _message(reply, payload_of(row))


def _message(reply: str, payload: bytes) -> bytes:
    return b"MSG %b 1 %d\r\n%b\r\n" % (reply.encode(), len(payload), payload)


def _request(subject: str, body: Row) -> tuple[str, str, str]:
    station = body.get("station_name", body.get("name", ""))
    return subject, station.lower(), body.get("username", "")


def _station(subject: str) -> str:
    match = _FINAL.fullmatch(subject)
    return match[1] if match else ""


def _who(connect: Row) -> tuple[Any, ...]:
    named = connect.get("name", "").partition("::")[2]
    return connect.get("user"), connect.get("pass"), connect.get("auth_token"), named
