"""What of a text may be kept and shown, be it an address or what a library says of one? All but its secrets."""

import re

LONGEST_SECRET = 1_000  # characters that are looked through for the end of one
_BEFORE_HOST = re.compile(rf"://[^\s:/@]{{0,{LONGEST_SECRET}}}(?::\S{{0,{LONGEST_SECRET}}})?@")
_IN_QUERY = re.compile(r"(?i)([?&][\w-]*(?:password|passwd|token|secret|key)=)[^&\s'\"]*")
_TOKENS = re.compile(r"hpo_[\w-]{16,}")  # of the service


def without_secrets(text: str) -> str:
    """The text with `://user:password@` as `://***@`, what its query has for a password or token as `***`.

    In doubt more is masked: a password may hold any character but a space, and what stands before the host may be a
    token itself.
    """
    return _TOKENS.sub("hpo_***", _IN_QUERY.sub(r"\1***", _BEFORE_HOST.sub("://***@", text)))
