"""Which secrets verify which tokens: replicas, rotation, short secrets, and where secrets never show."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from structlog.testing import capture_logs

from proxy.app import create_app
from proxy.credentials import Credentials
from proxy.errors import Unauthorized
from proxy.sealing import derive, key_id
from proxy.tokens import Issued
from tests.application import NOWHERE, settings

OLD, NEW, THIRD = ("o" * 40), ("n" * 40), ("t" * 40)


class Replica:
    """One gateway with these secrets; it never needs its broker."""

    def __init__(self, **secrets: str) -> None:
        self.app = create_app(settings(secrets.pop("BROKER_URL", NOWHERE), **secrets))
        self.tokens = self.app.extensions["stations"].tokens

    def issue(self) -> Issued:
        """Tokens of a user."""
        issued: Issued = self.tokens.issue(Credentials("root", "open sesame"))
        return issued

    def takes(self, token: str, kind: Any) -> bool:
        """Whether it takes a token, and reads the credential in it."""
        with self.app.app_context():
            try:
                caller = self.tokens.verify(token, kind)
            except Unauthorized:
                return False
        assert (caller.credentials.user, caller.credentials.secret) == ("root", "open sesame")
        return True

    def takes_both(self, issued: Issued) -> tuple[bool, bool]:
        """Whether it takes the access token, and the refresh token."""
        return self.takes(issued.access, "access"), self.takes(issued.refresh, "refresh")


BOTH, NEITHER = (True, True), (False, False)


@pytest.mark.parametrize("secrets", [{"JWT_SECRET": OLD}, {"JWT_SECRET": OLD, "REFRESH_JWT_SECRET": NEW}])
def test_replicas_with_the_same_secrets_take_each_others_tokens(secrets: dict[str, str]) -> None:
    """A sender may log on at one and produce at another."""
    assert Replica(**secrets).takes_both(Replica(**secrets).issue()) == BOTH


def test_replicas_with_other_secrets_do_not() -> None:
    """A token of a stranger is refused."""
    assert Replica(JWT_SECRET=NEW).takes_both(Replica(JWT_SECRET=OLD).issue()) == NEITHER


def test_access_and_refresh_tokens_are_not_interchangeable() -> None:
    """Neither is taken for the other, even where both secrets are the same."""
    for secrets in ({"JWT_SECRET": OLD}, {"JWT_SECRET": OLD, "REFRESH_JWT_SECRET": OLD}):
        replica = Replica(**secrets)
        issued = replica.issue()
        assert not replica.takes(issued.access, "refresh")
        assert not replica.takes(issued.refresh, "access")


def test_the_refresh_secret_is_derived_where_none_is_set() -> None:
    """It differs from the access secret, and follows from it, so that replicas agree."""
    token = Replica(JWT_SECRET=OLD).issue().refresh
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, OLD, ["HS256"], audience="stations")
    assert jwt.decode(token, derive(OLD, "refresh").hex(), ["HS256"], audience="stations")["type"] == "refresh"


def test_at_a_memphis_broker_no_token_is_signed_with_the_secret_itself() -> None:
    """Memphis' own gateway may have the same one, and would take such a token for root's."""
    at_memphis = {"JWT_SECRET": OLD, "REFRESH_JWT_SECRET": OLD, "BROKER_URL": "memphis://127.0.0.1:1"}
    replica = Replica(**at_memphis)
    issued = replica.issue()
    assert Replica(**at_memphis).takes_both(issued) == BOTH
    for token in (issued.access, issued.refresh):
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(token, OLD, ["HS256"], audience="stations")
        assert jwt.decode(token, derive(OLD, "sign"), ["HS256"], audience="stations")["sub"] == "root"
        assert jwt.get_unverified_header(token)["kid"] == key_id(OLD)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"JWT_SECRET": OLD}, {"JWT_SECRET": NEW, "JWT_SECRET_PREVIOUS": OLD}),
        (
            {"JWT_SECRET": OLD, "REFRESH_JWT_SECRET": OLD},
            {
                "JWT_SECRET": NEW,
                "JWT_SECRET_PREVIOUS": OLD,
                "REFRESH_JWT_SECRET": NEW,
                "REFRESH_JWT_SECRET_PREVIOUS": OLD,
            },
        ),
        (
            {"JWT_SECRET": OLD, "REFRESH_JWT_SECRET": OLD},
            {"JWT_SECRET": OLD, "REFRESH_JWT_SECRET": NEW, "REFRESH_JWT_SECRET_PREVIOUS": OLD},
        ),
        (
            {"JWT_SECRET": OLD, "REFRESH_JWT_SECRET": THIRD},
            {"JWT_SECRET": OLD, "REFRESH_JWT_SECRET_PREVIOUS": THIRD},
        ),
    ],
    ids=["derived", "both", "refresh only", "refresh given up"],
)
def test_a_change_of_secrets_logs_nobody_off(before: dict[str, str], after: dict[str, str]) -> None:
    """Tokens of the secret before are taken while it is set as the previous one."""
    assert Replica(**after).takes_both(Replica(**before).issue()) == BOTH


def test_a_previous_secret_only_verifies() -> None:
    """New tokens are of the new secret: they are refused where that is not known."""
    after = Replica(JWT_SECRET=NEW, JWT_SECRET_PREVIOUS=OLD)
    assert Replica(JWT_SECRET=OLD).takes_both(after.issue()) == NEITHER
    assert Replica(JWT_SECRET=NEW).takes_both(after.issue()) == BOTH


def test_a_secret_two_changes_ago_is_forgotten() -> None:
    """The second change ends what the first one let live."""
    assert Replica(JWT_SECRET=THIRD, JWT_SECRET_PREVIOUS=NEW).takes_both(Replica(JWT_SECRET=OLD).issue()) == NEITHER


def test_a_short_secret_works_with_one_warning() -> None:
    """It is stretched; the log names the variable once, and does not show the secret."""
    with capture_logs() as lines:
        replica = Replica(JWT_SECRET="tiny!")
    assert replica.takes_both(replica.issue()) == BOTH
    (line,) = [line for line in lines if line["log_level"] == "warning"]
    assert line["variable"] == "JWT_SECRET"
    assert "tiny!" not in str(line)


def test_a_short_secret_does_not_sign_as_it_is() -> None:
    """Whoever tries short words against a token must stretch each of them first."""
    with pytest.raises(jwt.InvalidSignatureError), pytest.warns(jwt.InsecureKeyLengthWarning):
        jwt.decode(Replica(JWT_SECRET="tiny!").issue().access, "tiny!", ["HS256"], audience="stations")


@pytest.mark.parametrize("name", ["REFRESH_JWT_SECRET", "JWT_SECRET_PREVIOUS", "REFRESH_JWT_SECRET_PREVIOUS"])
def test_each_short_secret_is_warned_of(name: str) -> None:
    """The log names the one that is short."""
    with capture_logs() as lines:
        create_app(settings(**{name: "s" * 31}))
    assert [line["variable"] for line in lines if line["log_level"] == "warning"] == [name]


def test_a_long_secret_is_not_warned_of() -> None:
    """32 bytes are enough."""
    with capture_logs() as lines:
        create_app(settings(JWT_SECRET="s" * 32))
    assert lines == []


def test_nothing_shows_a_secret() -> None:
    """Neither settings, nor tokens, nor a caller show a secret, or a whole token, in their `repr`."""
    replica = Replica(JWT_SECRET=OLD, REFRESH_JWT_SECRET=NEW)
    issued = replica.issue()
    with replica.app.app_context():
        caller = replica.tokens.verify(issued.access)
    shown = [caller, issued, replica.app.extensions["stations"].config, replica.tokens, vars(replica.tokens)["_keys"]]
    assert not [secret for secret in (OLD, NEW, "open sesame", *issued[::2]) if secret in repr(shown)]
