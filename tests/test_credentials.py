"""Who a caller is to the broker."""

from __future__ import annotations

from proxy.credentials import Credentials


def test_credentials_show_no_secret() -> None:
    """Neither their `repr` nor their identity holds the secret."""
    credentials = Credentials("root", "memphis", "7")
    assert repr(credentials) == "Credentials(user='root', account='7')"
    assert "memphis" not in repr(credentials.identity)


def test_the_identity_is_that_of_user_account_and_secret() -> None:
    """The same three are the same; a difference in any makes another."""
    same = [Credentials("root", "memphis", "7").identity for _ in range(2)]
    others = [
        Credentials(*three).identity for three in (("r", "memphis", "7"), ("root", "m", "7"), ("root", "memphis"))
    ]
    assert same[0] == same[1]
    assert len({same[0], *others}) == 4
