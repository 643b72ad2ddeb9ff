"""Checks at the doors of an application: decorators, ASGI, Flask. None imports its framework before it is used."""
