"""What the HTTP tests share: a real gunicorn with either worker class, and a client that sends just what it is told."""

import json
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

OURS = "proxy.server.Worker"
STOCK = "gevent"
_ROOT = Path(__file__).parent.parent

#: What gunicorn's own gevent worker does otherwise, and why that is so. A test that names one of these expects the
#: stock worker to behave as it says here, and ours as the test says.
DIFFERENCES = {
    "JSON errors": "answers malformed requests, and failures of the application, with an HTML page",
    "body limit": "has none; the application has to look at Content-Length",
    "body deadline": "has none; a slow body holds a greenlet for as long as its sender likes",
    "head deadline": "closes after `keepalive` seconds, without an answer",
    "head limit": "has limits for each header and for their number, none for all together",
    "Host": "leaves a missing Host to the application",
    "codings": "leaves a gzip coding under chunked to the application",
    "versions": "takes every HTTP/1.x",
    "huge lengths": "waits for as many bytes as any Content-Length or chunk size says",
    "CONNECT": "hands CONNECT to the application",
    "absolute form": "leaves Host as it is and takes user names when the request target is a URL",
    "100-continue": "sends 100 Continue although the body has arrived, or is too large",
    "read ahead": "calls the application before the body is here",
    "send deadline": "waits for ever for a client that takes nothing of its answer",
    "framing": "takes a body in chunks of one byte whatever its size",
    "pipeline": "takes any number of pipelined requests",
    "last answer": "tells who is being served when it stops that the connection stays",
}

HEAD = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

_CONFIG = """
bind = {bind!r}
worker_class = {worker!r}
control_socket_disable = True
worker_tmp_dir = "/dev/shm"
keepalive = 1
graceful_timeout = 3
limit_request_line = 500
limit_request_fields = 20
limit_request_field_size = 1000
errorlog = {errors!r}
accesslog = {access!r}
access_log_format = '%(h)s %(m)s %(U)s %(s)s %(B)s %({{x-user}}i)s %({{content-type}}o)s'

def post_fork(server, worker):
    worker.max_body_bytes = 100_000
    worker.max_head_bytes = 5_000
    worker.header_seconds = 0.6
    worker.body_seconds = 0.8
    worker.send_seconds = 1.0
    worker.sweep_seconds = 0.1

def when_ready(server):
    import sys
    open({modules!r}, "w").write(" ".join(sys.modules))

"""


@dataclass
class Answer:
    """A response: `status` is 0 when the connection ended without one, `whole` is False if it was cut off."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = True

    @property
    def json(self):
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def closes(self):
        """Whether the server says that it will close the connection."""
        return self.headers.get("connection", "").lower() == "close"


class Client:
    """One connection."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(5)
        self._file = sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Hang up."""
        self._file.close()
        self.sock.close()

    def send(self, data):
        """Send bytes as they are; the server may have hung up."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)
        return self

    def waits(self, seconds):
        """Whether the server says nothing for so long."""
        self.sock.settimeout(seconds)
        try:
            self.sock.recv(1)
        except TimeoutError:
            return True
        return False

    def line(self):
        """A line of the answer; empty at the end of the connection."""
        try:
            return self._file.readline()
        except ConnectionResetError:
            return b""

    def read(self, size):
        """That many bytes of the answer."""
        return self._file.read(size)

    def answer(self, method="GET"):
        """The next response, interim ones skipped."""
        while (answer := self.head()).status == 100:
            pass
        if answer.status and method != "HEAD" and answer.status not in (204, 304):
            self._read_body(answer)
        return answer

    def ended(self):
        """Whether the server has closed the connection."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def head(self):
        """Status and headers of the next response."""
        first = self.line()
        if not first:
            return Answer()
        answer = Answer(status=int(first.split()[1]))
        while (line := self.line().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            assert name.lower() not in answer.headers, f"two {name} headers"
            answer.headers[name.lower()] = value.strip()
        return answer

    def _read_body(self, answer):
        if answer.headers.get("transfer-encoding") == "chunked":
            answer.body, answer.whole = self._chunks()
        elif "content-length" in answer.headers:
            answer.body = self.read(int(answer.headers["content-length"]))
            answer.whole = len(answer.body) == int(answer.headers["content-length"])
        else:
            answer.body = self._file.read()

    def _chunks(self):
        body = b""
        while size := self.line():
            if int(size, 16) == 0:
                assert self.line() == b"\r\n"
                return body, True
            body += self.read(int(size, 16))
            if self.line() != b"\r\n":
                break
        return body, False


class Server:
    """A running gunicorn."""

    def __init__(self, worker, directory, *, bind=None, settings="", trust=None):
        self.worker = worker
        self.directory = Path(directory)
        self.port = _free_port()
        self.bind = bind or f"127.0.0.1:{self.port}"
        self.trust = trust
        self._write_config(settings)
        command = [*self._python(), "-m", "gunicorn", "-c", str(self.directory / "gunicorn.conf.py")]
        with (self.directory / "output").open("w") as output:
            self.process = subprocess.Popen([*command, "tests.http_app:app"], cwd=_ROOT, stdout=output, stderr=output)

    def connect(self):
        """A new connection."""
        if self.bind.startswith("unix:"):
            return Client(_connect_unix(self.bind.removeprefix("unix:")))
        sock = self.plain()
        if self.trust:
            sock = ssl.create_default_context(cafile=self.trust).wrap_socket(sock, server_hostname="localhost")
        return Client(sock)

    def plain(self):
        """A new connection without TLS, even if the server speaks it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def ask(self, request, method="GET"):
        """The answer to one request on a connection of its own."""
        with self.connect() as client:
            return client.send(request).answer(method)

    def differs(self, what):
        """Whether this is the stock worker, which does this otherwise."""
        assert what in DIFFERENCES
        return self.worker == STOCK

    def closed(self):
        """How many iterables the application has seen closed."""
        return int(self.ask(get("/counted")).body)

    def ask_slowly(self, client):
        """Send a request for /slow, and wait until the application works on it."""
        before = self.log().count("slow began")
        client.send(get("/slow"))
        wait_for(lambda: self.log().count("slow began") > before)

    def log(self, name="errors"):
        """What was logged so far."""
        path = self.directory / name
        return path.read_text() if path.exists() else ""

    def workers(self):
        """Process ids of the workers."""
        pid = self.process.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    def terminate(self):
        """Ask gunicorn to stop."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self):
        """Stop, and make sure of it."""
        self.terminate()
        try:
            assert self.process.wait(10) == 0
        finally:
            self.process.kill()
            self.process.wait()

    def _python(self):
        """Warnings are errors under our worker; what the stock one warns about is not ours to change."""
        return [sys.executable, "-W", "error"] if self.worker == OURS else [sys.executable]

    def _write_config(self, settings):
        names = {name: str(self.directory / name) for name in ("errors", "access", "modules")}
        config = _CONFIG.format(bind=self.bind, worker=self.worker, **names) + settings
        (self.directory / "gunicorn.conf.py").write_text(config)

    def wait_until_up(self):
        """Wait until it answers."""
        wait_for(self._answers, seconds=15)

    def _answers(self):
        assert self.process.poll() is None, self.log() + self.log("output")
        try:
            return self.ask(get("/up")).status == 200
        except OSError:
            return False


def is_error(server, answer):
    """Whether it is one of the server's own answers, in the shape of this worker."""
    if server.differs("JSON errors"):
        return answer.headers["content-type"] == "text/html"
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == json.dumps(answer.json, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return answer.json.keys() == {"error", "repeat", "request_id", "stored", "success"}


@contextmanager
def running(worker, **options):
    """A server in a directory of its own, stopped afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        server = Server(worker, directory, **options)
        try:
            server.wait_until_up()
            yield server
        finally:
            if server.process.poll() is None:
                server.stop()


def get(path="/", *headers, method="GET", version="1.1", host="Host: test"):
    """A request without a body."""
    lines = [f"{method} {path} HTTP/{version}", *([host] if host else []), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(body, *headers, path="/echo", version="1.1"):
    """A request with a body and its length."""
    return get(path, f"Content-Length: {len(body)}", *headers, method="POST", version=version) + body


def chunked(*chunks, path="/echo", trailers=""):
    """A request with a body in chunks."""
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = get(path, "Transfer-Encoding: chunked", method="POST")
    return head + framed + b"0\r\n" + trailers.encode() + b"\r\n"


def make_certificate(directory):
    """Write a self-signed certificate for localhost and its key, cert.pem and key.pem; returns the directory."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    encoding = serialization.Encoding.PEM
    (directory / "cert.pem").write_bytes(certificate.public_bytes(encoding))
    no_password = serialization.NoEncryption()
    (directory / "key.pem").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, no_password),
    )
    return directory


def wait_for(condition, seconds=5.0):
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def _connect_unix(path):
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def _free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
