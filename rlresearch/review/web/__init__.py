"""The web page of `report` and `serve`: its data, and the server."""
