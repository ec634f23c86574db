"""A small Hugging Face hub on this machine: what its client asks for to write and read files."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40


class _Hub(BaseHTTPRequestHandler):
    """Repositories of regular files; each is at one commit."""

    repos: dict[str, dict[str, bytes]]
    refuses: int

    def do_HEAD(self) -> None:
        self._read(body=False)

    def do_GET(self) -> None:
        self._read(body=True)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        path = unquote(urlsplit(self.path).path)
        if self.refuses:
            self._json({"error": "refused"}, status=self.refuses)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            owner = asked.get("organization") or "me"
            self.repos.setdefault(f"{owner}/{asked['name']}", {})
            self._json({"url": f"http://{self.headers['Host']}/{owner}/{asked['name']}"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif "/commit/" in path:
            name = "/".join(path.split("/")[3:5])
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.repos[name][value["path"]] = base64.b64decode(value["content"])
            url = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
            self._json({"commitUrl": url, "commitOid": COMMIT})
        else:
            self._json({"error": path}, status=404)

    def _read(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        repo = self.repos.get(name)
        if path == "/":
            self._send(b"", {})
        elif repo is None:
            missing = {"X-Error-Code": "RepoNotFound"}
            self._json({"error": "Repository not found"}, status=401, headers=missing)
        elif parts[0] == "api" and "tree" in parts:
            self._json([self._entry(file, content) for file, content in repo.items()])
        elif parts[0] == "api":
            files = [{"rfilename": file} for file in repo]
            self._json({"id": name, "sha": COMMIT, "siblings": files, "private": False})
        else:
            content = repo["/".join(parts[4:])]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self._send(content, {"ETag": etag, "X-Repo-Commit": COMMIT}, body=body)

    @staticmethod
    def _entry(file: str, content: bytes) -> dict[str, Any]:
        oid = hashlib.sha256(content).hexdigest()[:40]
        return {"type": "file", "path": file, "size": len(content), "oid": oid}

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, content: Any, *, status: int = 200, headers: Any = None) -> None:
        kind = {"Content-Type": "application/json", **(headers or {})}
        self._send(json.dumps(content).encode(), kind, status=status)

    def _send(
        self, content: bytes, headers: dict[str, str], *, status: int = 200, body: bool = True
    ) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def local_hub(*, refuses: int = 0) -> Iterator[tuple[str, dict[str, dict[str, bytes]]]]:
    """Serve an empty hub.

    Args:
        refuses: a status with which every request to write is answered.

    Yields:
        Its address, and the files of each repository.
    """
    repos: dict[str, dict[str, bytes]] = {}
    handler = type("Hub", (_Hub,), {"repos": repos, "refuses": refuses})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", repos
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
