"""Connections whose application offers to serve further requests with the same head."""

import socket

import gevent
import gevent.socket
import pytest

from tests.test_http1 import Talk, until

HEAD = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b"
ANSWER = b"HTTP/1.1 200 OK\r\nX-Of: again\r\nContent-Length: 2\r\nDate: "


def post(body):
    """A request with that body, always with the same head."""
    return HEAD % (len(body), body)


def later(function, *args):
    """Have a function called in the event loop, as answers are."""
    gevent.get_hub().loop.run_callback(function, *args)


def receive(client, size=1000):
    """What a client has received, once there is something."""
    gevent.socket.wait_read(client.fileno(), timeout=5)
    return client.recv(size)


class Offering:
    """An application that answers with what it was sent, and, after two requests, offers to serve them without WSGI."""

    def __init__(self, takes=True):
        self.takes = takes
        self.served, self.asked, self.heads = [], [], []

    def __call__(self, environ, start_response):
        """What WSGI calls; `more` is what was added to the environ of a declined request."""
        body = environ["wsgi.input"].read()
        self.served.append((body, environ.get("more")))
        start_response("200 OK", [])
        return [body]

    def again_for(self, environ):
        """What is asked for each head that is parsed."""
        self.heads.append(environ["PATH_INFO"])
        if len(self.served) < 2:
            return None

        def again(body, asker):
            """Takes a body, for the test to answer."""
            if self.takes:
                self.asked.append((body, asker, environ["HTTP_HOST"]))
            return self.takes

        return again


@pytest.fixture
def talk():
    """Makes services, and has each client's head known and offered."""
    made = []

    def make(application, **options):
        made.append(Talk(application, again_for=application.again_for, **options))
        client, connection = made[-1].connect()
        for body in (b"one", b"two"):
            made[-1].ask(client, post(body))
        return made[-1], client, connection

    yield make
    for one in made:
        one.end()


def test_a_known_head_is_asked_for(talk):
    """The body goes to what was offered, and its answer to the client; the application does not see the request."""
    application = Offering()
    service, client, _ = talk(application)
    for body in (b"three", b"four"):
        client.sendall(post(body))
        until(lambda: application.asked)
        taken, asker, _ = application.asked.pop()
        assert taken == body
        later(asker.answer, b"HTTP/1.1 200 OK\r\nX-Of: again\r\n", b"ok")
        data = receive(client)
        assert data.startswith(ANSWER)
        assert data.endswith(b" GMT\r\n\r\nok")
    assert [body for body, _ in application.served] == [b"one", b"two"]
    assert service.service.requests == 4


def test_a_head_is_asked_for_once(talk):
    """What was given for it serves all requests with that head, until it is forgotten."""
    application = Offering()
    _, client, connection = talk(application)
    for _ in range(3):
        client.sendall(post(b"three"))
        until(lambda: application.asked)
        later(application.asked.pop()[1].answer, b"HTTP/1.1 200 OK\r\n", b"ok")
        receive(client)
    asked_for = len(application.heads)
    connection.tidy()
    client.sendall(post(b"four"))
    until(lambda: application.asked)
    assert len(application.heads) == asked_for + 1


def test_what_was_given_for_one_head_serves_no_other(talk):
    """Clients behind one proxy take turns on a connection: each is served by what its own head says."""
    application = Offering()
    _, client, _ = talk(application)
    for host in (b"a", b"b", b"a", b"a", b"c", b"b", b"b", b"b", b"a", b"c") * 4:
        client.sendall(post(b"three").replace(b"Host: h", b"Host: " + host))
        until(lambda: application.asked)
        _, asker, served = application.asked.pop()
        assert served.encode() == host
        later(asker.answer, b"HTTP/1.1 200 OK\r\n", b"ok")
        receive(client)


@pytest.mark.parametrize("change", [(b"Host: h", b"Host: h\r\nConnection: close"), (b"HTTP/1.1", b"HTTP/1.0")])
def test_connections_that_end_take_the_whole_way(talk, change):
    """An answer that says so is a matter of WSGI."""
    application = Offering()
    service, client, _ = talk(application)
    assert service.ask(client, post(b"three").replace(*change)).endswith(b"three")


def test_a_refusal_takes_the_whole_way(talk):
    """What is not taken is served as any other request."""
    application = Offering(takes=False)
    service, client, _ = talk(application)
    assert service.ask(client, post(b"three")).endswith(b"three")


def test_what_is_declined_at_once_is_served_once(talk):
    """As for a bad body: it is asked about one time, whether its head is known or not, and counted one time."""
    application = Offering()
    service, client, connection = talk(application)

    def again(body, asker):
        """Declines what it takes."""
        application.asked.append(body)
        asker.decline({"more": len(application.asked)})
        return True

    again_for = application.again_for
    service.service.options.again_for = lambda environ: again_for(environ) and again
    connection.tidy()
    for count in (1, 2, 3):
        assert service.ask(client, post(b"bad")).endswith(b"bad")
        assert application.served[2:] == [(b"bad", n) for n in range(1, count + 1)]
    assert service.service.requests == 5


def test_what_is_refused_is_not_asked_about_twice(talk):
    """Under a known head; with the next request it is asked anew what suits it."""
    application = Offering()
    service, client, _ = talk(application)
    asked = []
    service.service.options.again_for = lambda environ: lambda body, asker: asked.append(body)
    for body in (b"three", b"four", b"five", b"six"):
        assert service.ask(client, post(body)).endswith(body)
    assert asked == [b"three", b"four", b"five", b"six"]


def test_what_is_declined_is_served_after_all(talk):
    """The application gets the request as it came, with what was added to its environ."""
    application = Offering()
    service, client, _ = talk(application)
    client.sendall(post(b"three"))
    until(lambda: application.asked)
    later(application.asked.pop()[1].decline, {"more": 7})
    until(lambda: len(application.served) == 3)
    assert application.served[-1] == (b"three", 7)
    assert receive(client).endswith(b"three")
    assert service.service.requests == 3


@pytest.mark.parametrize("hook", ["before", "after"])
def test_hooks_of_the_server_see_every_request(talk, hook):
    """gunicorn's hooks and access log want an environ for each request."""
    application, seen = Offering(), []
    service, client, _ = talk(application, **{hook: lambda *args: seen.append(1)})
    service.ask(client, post(b"three"))
    assert not application.asked
    assert len(seen) == 3


def test_a_client_that_goes_away_is_not_answered(talk):
    """Its answer goes nowhere, and a decline serves nothing."""
    application = Offering()
    service, client, _ = talk(application)
    client.sendall(post(b"three"))
    until(lambda: application.asked)
    asker = application.asked.pop()[1]
    service.service.abort()
    later(asker.answer, b"HTTP/1.1 200 OK\r\n", b"ok")
    later(asker.decline, {})
    assert len(application.served) == 2
    assert receive(client) == b""


def test_a_slow_reader_gets_all_of_a_large_answer(talk):
    """What the socket does not take at once is sent as the client reads, and the connection goes on."""
    application, large = Offering(), b"x" * 5_000_000
    _, client, _ = talk(application)
    client.sendall(post(b"three"))
    until(lambda: application.asked)
    later(application.asked.pop()[1].answer, b"HTTP/1.1 200 OK\r\n", large)
    received = 0
    while received < len(large):
        received += len(receive(client, 1 << 20))
    client.sendall(post(b"four"))
    until(lambda: application.asked)
    assert application.asked.pop()[0] == b"four"


def test_a_reader_that_is_gone_in_the_middle_closes_the_connection(talk):
    """The rest of a large answer has nowhere to go."""
    application = Offering()
    service, client, _ = talk(application)
    client.sendall(post(b"three"))
    until(lambda: application.asked)
    later(application.asked.pop()[1].answer, b"HTTP/1.1 200 OK\r\n", b"x" * 5_000_000)
    receive(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    until(lambda: not service.service.connections)


def test_the_next_request_waits_for_its_turn(talk):
    """A client that sends early is answered in order."""
    application = Offering()
    _, client, _ = talk(application)
    client.sendall(post(b"three"))
    until(lambda: application.asked)
    client.sendall(post(b"four"))
    for _ in range(10):
        gevent.sleep(0)
    assert len(application.asked) == 1
    later(application.asked.pop()[1].answer, b"HTTP/1.1 200 OK\r\n", b"ok")
    until(lambda: application.asked)
    assert application.asked[0][0] == b"four"


def test_a_stop_lets_what_was_asked_for_end(talk):
    """It is answered, and then the connection is closed; no further one is taken."""
    application = Offering()
    service, client, _ = talk(application)
    client.sendall(post(b"three"))
    until(lambda: application.asked)
    service.service.stop()
    gevent.sleep(0)
    later(application.asked.pop()[1].answer, b"HTTP/1.1 200 OK\r\n", b"ok")
    until(lambda: not service.service.connections)
    answer = receive(client)
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"ok")
    assert receive(client) == b""


def test_the_last_request_of_a_worker_says_so(talk):
    """Whoever is told does not send another one."""
    application = Offering()
    _, client, _ = talk(application, max_requests=3)
    client.sendall(post(b"three"))
    until(lambda: application.asked)
    later(application.asked.pop()[1].answer, b"HTTP/1.1 200 OK\r\n", b"ok")
    assert b"\r\nConnection: close\r\n" in receive(client)
    assert receive(client) == b""


def test_an_end_right_after_a_part_of_an_answer_is_one(talk, capsys):
    """The greenlet that would send the rest finds the connection closed."""
    application = Offering()
    service, client, connection = talk(application)
    client.sendall(post(b"three"))
    until(lambda: application.asked)
    asker = application.asked.pop()[1]

    def answer_and_abort():
        asker.answer(b"HTTP/1.1 200 OK\r\n", b"x" * 5_000_000)
        connection.abort()

    later(answer_and_abort)
    until(lambda: connection.closed)
    gevent.sleep(0.01)
    assert capsys.readouterr().err == ""
    assert not service.service.connections


def test_what_was_asked_for_does_not_expire(talk):
    """The client has sent all of it: it is the application's turn, however long that takes."""
    application = Offering()
    service, client, connection = talk(application)
    client.sendall(post(b"three"))
    until(lambda: application.asked)
    connection.deadline = 0.0
    service.service._sweep()
    assert not connection.closed
    later(application.asked.pop()[1].answer, b"HTTP/1.1 200 OK\r\n", b"ok")
    assert receive(client).endswith(b"ok")


def ask_in_two_pieces(application, client):
    """A request whose body comes after its head, served without WSGI."""
    head, _, body = post(b"three").partition(b"\r\n\r\n")
    client.sendall(head + b"\r\n\r\n")
    gevent.sleep(0.05)
    client.sendall(body)
    until(lambda: application.asked)
    later(application.asked.pop()[1].answer, b"HTTP/1.1 200 OK\r\n", b"ok")
    assert receive(client).endswith(b"ok")


def test_an_idle_connection_ends_without_a_word(talk):
    """Its last request came in pieces, and all of it: nothing is missing for which a client could be refused."""
    application = Offering()
    service, client, connection = talk(application)
    ask_in_two_pieces(application, client)
    connection.deadline = 0.0
    later(service.service._sweep)
    assert receive(client) == b""


def test_a_stop_closes_what_was_served_in_pieces(talk):
    """Nobody waits for a request that has been answered."""
    application = Offering()
    service, client, _ = talk(application)
    ask_in_two_pieces(application, client)
    service.service.stop()
    assert receive(client) == b""


def test_what_the_application_found_out_about_the_client_stays(talk):
    """It looks behind trusted proxies when it is asked for a head, and not a second time."""
    application, seen = Offering(), []

    def again_for(environ):
        """As the edge, where it trusts a proxy."""
        environ["REMOTE_ADDR"] = f"behind {environ['REMOTE_ADDR']}"

    def serve(environ, start_response):
        """What WSGI calls."""
        seen.append(environ["REMOTE_ADDR"])
        return Offering.__call__(application, environ, start_response)

    serve.again_for = again_for
    talk(serve)
    assert [address.partition(" ")[0] for address in seen] == ["behind", "behind"]
