"""A stand-in for the hub's HTTP API on loopback: HEAD and GET of files with ranges, model info, refusals."""

import json
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def safetensors_file(tensors, padding=0):
    """Return a file whose header lists {name: (dtype, shape, bytes)}, swollen by ``padding``; the data are zeros."""
    header, position = {"__metadata__": {"format": "pt", "padding": "x" * padding}}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * position


@dataclass
class HubState:
    """What the hub holds, and what it was asked."""

    files: dict = field(default_factory=dict)
    """{model id: {file name: content}}"""
    refusals: dict = field(default_factory=dict)
    """{model id: (status, X-Error-Code)}"""
    asked: list = field(default_factory=list)
    """(method, path, range or None, authorization or None)"""
    sent_bytes: int = 0


@contextmanager
def hub_standin():
    """Yield (endpoint, state) while the stand-in serves."""
    state = HubState()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, *, body):
            wanted = self.headers.get("Range")
            path = self.path.partition("?")[0]
            state.asked.append((self.command, path, wanted, self.headers.get("Authorization")))
            parts = path.strip("/").removeprefix("api/models/").split("/")
            model = "/".join(parts[:2])
            if model in state.refusals:
                status, code = state.refusals[model]
                return self.reply(status, b"{}", {"X-Error-Code": code} if code else {}, body=body)
            files = state.files.get(model)
            if files is None:
                return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=body)
            revision = parts[3] if len(parts) > 3 else "main"
            if revision not in ("main", COMMIT):
                return self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body=body)
            if path.startswith("/api/models/"):
                siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
                text = json.dumps({"id": model, "sha": COMMIT, "siblings": siblings}).encode()
                return self.reply(200, text, {"Content-Type": "application/json"}, body=body)
            content = files.get("/".join(parts[4:]))
            if content is None:
                return self.reply(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body=body)
            about = {"X-Repo-Commit": COMMIT, "ETag": f'"{hash(content):x}"', "Accept-Ranges": "bytes"}
            if wanted is None:
                return self.reply(200, content, about, body=body)
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            piece = content[int(first) : int(last) + 1]
            about["Content-Range"] = f"bytes {first}-{int(first) + len(piece) - 1}/{len(content)}"
            return self.reply(206, piece, about, body=body)

        def reply(self, status, content, headers, *, body):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                state.sent_bytes += len(content)
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
