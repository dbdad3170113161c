"""The REST API: routes over the history and the service. Only here is HTTP spoken by the server."""
