"""What to do about a database that refuses."""

_RESTORE = "  hpo db restore BACKUP --force --storage {url}"
_ADVICE = {  # what SQLite, or we, say -> what a person can do
    "file is not a database": f"It is damaged, or was never a history. A backup replaces it, and it is kept aside:\n"
    f"{_RESTORE}",
    "malformed": f"The file is damaged. What is damaged, and how a backup replaces it (the file is kept aside):\n"
    f"  hpo db verify --storage {{url}}\n{_RESTORE}",
    "what is in it cannot be read": "Something in the database is damaged. What it is, and how a backup replaces it:\n"
    f"  hpo db verify --storage {{url}}\n{_RESTORE}",
    "database or disk is full": "What was recorded before is safe. Make room on its disk, and go on.",
    "readonly database": "You may read it (hpo studies, hpo show, hpo stats), but not change it: "
    "that takes the right to write both the file and its folder.",
    "unable to open database file": "It takes the right to read the file, and to write in its folder "
    "while somebody works with it.",
    "disk I/O error": "The disk failed, or is gone. Once it is back, look what is damaged:\n"
    "  hpo db verify --storage {url}",
}


def advised(reason: str, masked_url: str) -> str:
    """The database's own words, and what to do about it where that is known."""
    advice = next((advice for words, advice in _ADVICE.items() if words in reason), None)
    return reason if advice is None else f"{reason.rstrip()}\n{advice.format(url=masked_url)}"
