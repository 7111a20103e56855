"""A page to look at, `/healthz` and `/metrics`.

`web = Web(config)`, `node = Node(…, sinks_for=web.sinks_for)`, `web.start(node)`; see `web.py`. The packages it needs
are in the extras `web` and `metrics`, and loaded where it is asked for.
"""
