"""A service from afar: the verbs of this package over HTTP.

Asking, reporting and telling import neither SQL nor torch.
"""
