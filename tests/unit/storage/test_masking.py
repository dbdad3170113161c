"""What is masked in addresses and in the texts of others, and what stays."""

import time

import pytest

from storage.masking import without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("API request to http://bob:S3cret@h:9/api failed", "API request to http://***@h:9/api failed"),
        ("'https://bob@h/x'", "'https://***@h/x'"),
        ("postgresql+psycopg://u:a/b@c'd@h/db: refused", "postgresql+psycopg://***@h/db: refused"),
        ("mysql://:p@h and sqlite:///x.db", "mysql://***@h and sqlite:///x.db"),
        ("http://h/x?user=u&password=p&n=1", "http://h/x?user=u&password=***&n=1"),
        ("http://h/x?access_token=p", "http://h/x?access_token=***"),
        ("http://127.0.0.1:9/api is away; ask ann@example.org", "http://127.0.0.1:9/api is away; ask ann@example.org"),
        ("key=value, a: b", "key=value, a: b"),
        ("Bearer hpo_0123456789abcdef-_ and hpo_serve", "Bearer hpo_*** and hpo_serve"),
    ],
)
def test_secrets_of_urls_are_masked(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_a_text_made_to_take_long_does_not() -> None:
    begun = time.perf_counter()
    without_secrets("://a:" * 4_000)
    assert time.perf_counter() - begun < 2.0
