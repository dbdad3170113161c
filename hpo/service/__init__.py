"""The service without HTTP: what it runs, for whom, and how it goes on after a restart."""
