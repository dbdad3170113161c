"""What of a text that others wrote, such as a library's error, may be kept and shown? All but its URLs' secrets."""

import re

LONGEST_SECRET = 1_000  # characters that are looked through for the end of one
_BEFORE_HOST = re.compile(rf"://[^\s:/@]{{0,{LONGEST_SECRET}}}(?::\S{{0,{LONGEST_SECRET}}})?@")
_IN_QUERY = re.compile(r"(?i)([?&][\w-]*(?:password|passwd|token|secret|key)=)[^&\s'\"]*")


def without_secrets(text: str) -> str:
    """The text with `://user:password@` as `://***@`, and what a URL's query has for a password or a token as `***`.

    In doubt more is masked: a password may hold any character but a space.
    """
    return _IN_QUERY.sub(r"\1***", _BEFORE_HOST.sub("://***@", text))
