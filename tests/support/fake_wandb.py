"""A W&B server on the loopback address that answers as much as its client asks for, or misbehaves as told.

It keeps what a server keeps: a run's configuration, its history by line number, its files, and how it ended.
"""

import json
import re
import socket
import struct
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

KEY = "0123456789abcdef" * 2 + "01234567"  # of the length that the client expects; nobody's


class FakeWandb:
    """The server. manner: ok, hang, reset, garbage, an HTTP status (429, 500), or gone; may be changed at any time.

    runs: by their ids, each with config, history {line number: row}, written (how often each line was sent), files
    {name: bytes}, events (machine statistics), output, and exit_code. requests: every path and body that came.
    """

    def __init__(self):
        self.manner, self.runs, self.requests = "ok", {}, []
        self.lock = threading.Lock()
        self.port, self._server = 0, None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def environment(self, home):
        """What a process needs to talk to this server, and to nobody else's account."""
        return {
            **{"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_ENTITY": "lab", "HOME": str(home)},
            **{"WANDB_CONFIG_DIR": str(home), "WANDB_CACHE_DIR": str(home), "WANDB_ERROR_REPORTING": "false"},
        }

    def history(self, run):
        """The rows of a run in their order."""
        return [row for _, row in sorted(self.runs[run]["history"].items())]

    def start(self):
        self._server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()
        return self

    def stop(self):
        """Nobody listens any more; what is known stays."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, query, given):
        """What GraphQL answers."""
        name = re.search(r"(?:query|mutation)\s+(\w+)", query)[1]
        about = getattr(self, f"_{name}", None)
        return {"data": about(given) if about else {}}

    def _Viewer(self, _):
        teams = {"edges": [{"node": {"name": "lab"}}]}
        return {"viewer": {"id": "1", "entity": "lab", "username": "me", "email": "", "flags": "{}", "teams": teams}}

    def _ServerFeaturesQuery(self, _):
        return {"serverInfo": {"features": []}}

    def _RunResumeStatus(self, given):
        run, where = self.runs.get(given["name"]), {"id": "p", "name": given.get("project"), **_ENTITY}
        if run is None:
            return {"model": {**where, "bucket": None}}
        rows = self.history(given["name"])
        tail = json.dumps([json.dumps(row) for row in rows[-1:]])
        return {
            "model": {
                **where,
                "bucket": {
                    **{"id": run["id"], "name": given["name"], "displayName": given["name"], "tags": run["tags"]},
                    **{"historyLineCount": len(rows), "historyTail": tail, "eventsLineCount": 0, "eventsTail": "[]"},
                    **{"logLineCount": 0, "config": json.dumps(run["config"]), "notes": ""},
                    **{"summaryMetrics": json.dumps(rows[-1] if rows else {}), "wandbConfig": json.dumps({"t": 1})},
                },
            }
        }

    def _UpsertBucket(self, given):
        name, inserted = given["name"], given["name"] not in self.runs
        run = self.runs.setdefault(
            name,
            {
                **{"id": f"id-{name}", "config": {}, "history": {}, "written": {}, "files": {}, "events": []},
                **{"output": [], "exit_code": None, "tags": [], "about": {}},
            },
        )
        run["config"] = json.loads(given["config"]) if given.get("config") else run["config"]
        run["tags"] = given.get("tags") or run["tags"]
        run["about"] |= {key: given[key] for key in given if key not in ("config",) and given[key] is not None}
        project = {"id": "p", "name": given.get("project") or "uncategorized", **_ENTITY}
        bucket = {"id": run["id"], "name": name, "displayName": name, "description": "", "sweepName": None}
        bucket |= {"config": json.dumps(run["config"]), "project": project, "historyLineCount": len(run["history"])}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _CreateRunFiles(self, given):
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": f"id-{given['run']}", "uploadHeaders": [], "files": files}}

    def _RunHistoryKeys(self, given):
        last = max((row["_step"] for row in self.history(given["name"])), default=-1)
        return {"project": {"run": {"historyKeys": {"lastStep": last}}}}

    def stream(self, name, body):
        """A part of a run's rows: each line replaces what stood at its number."""
        run = self.runs[name]
        for file, part in (body.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                for number, line in enumerate(part["content"], start=part["offset"]):
                    run["history"][number] = json.loads(line)
                    run["written"][number] = run["written"].get(number, 0) + 1
            elif file == "wandb-events.jsonl":
                run["events"] += part["content"]
            elif file == "output.log":
                run["output"] += part["content"]
        if body.get("complete"):
            run["exit_code"] = body.get("exitcode")
        return {"exitcode": None, "limits": {}}


_ENTITY = {"entity": {"id": "e", "name": "lab"}}


@contextmanager
def fake_wandb(manner="ok"):
    """A server for as long as the block runs. manner: `gone` for a port that nobody listens at."""
    server = FakeWandb().start()
    server.manner = manner
    if manner == "gone":
        server.stop()
    try:
        yield server
    finally:
        server.manner = "ok"
        server.stop()


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, *_):
        """A client that goes away is no error here."""


def _handler(fake):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with fake.lock:
                fake.requests.append((self.path, dict(self.headers), body))
            if not self.misbehaves():
                self.serve(body)

        do_PUT = do_GET = do_POST

        def misbehaves(self):
            manner = fake.manner
            if manner == "ok":
                return False
            self.close_connection = True
            if manner == "hang":
                while fake.manner == "hang":
                    time.sleep(0.05)
            elif manner == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            elif manner == "garbage":
                self.reply(200, b"\x00<html>{]" * 20)
            else:
                self.reply(int(manner), b'{"errors":[{"message":"no"}]}')
            return True

        def serve(self, body):
            streamed = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
            uploaded = re.fullmatch(r"/upload/([^/]+)/(.+)", self.path)
            with fake.lock:
                if self.path == "/graphql":
                    asked = json.loads(body)
                    answer = fake.answer(asked["query"], asked.get("variables") or {})
                elif streamed:
                    answer = fake.stream(unquote(streamed[1]), json.loads(body))
                elif uploaded:
                    fake.runs[unquote(uploaded[1])]["files"][unquote(uploaded[2])] = body
                    answer = {}
                else:
                    return self.reply(404, b"{}")
            self.reply(200, json.dumps(answer).encode())

        def reply(self, status, body):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def main():
    """A server in a process of its own: prints its port, then obeys lines: a manner, `start`, `stop`, or `rows`."""
    with fake_wandb() as fake:
        print(fake.port, flush=True)
        for line in sys.stdin:
            word = line.strip()
            if word == "rows":
                positions = {name: [row["_step"] for row in fake.history(name)] for name in fake.runs}
                print(json.dumps(positions), flush=True)
            elif word in ("start", "stop"):
                getattr(fake, word)()
            else:
                fake.manner = word


if __name__ == "__main__":
    main()
