"""A server on this machine that speaks as much of the hub's protocol as fetching weights needs."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "1" * 40


@contextmanager
def hub(folder: Path, repo_id: str, sizes: dict[str, int] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve the files of a folder as one repository.

    Args:
        sizes: to claim for some files, instead of their own.
    Yields:
        The address, and the list of the requests that came so far.
    """
    requests: list[str] = []

    def entry(file: Path) -> dict:
        size = (sizes or {}).get(file.name, file.stat().st_size)
        digest = hashlib.sha1(file.read_bytes()).hexdigest()
        return {"type": "file", "path": file.name, "size": size, "oid": digest}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args) -> None:
            pass

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            requests.append(f"{self.command} {path}")
            files = {file.name: file for file in sorted(folder.iterdir())}
            if path.startswith(f"/api/models/{repo_id}/tree/"):
                self.reply([entry(file) for file in files.values()])
            elif path in (f"/api/models/{repo_id}", f"/api/models/{repo_id}/revision/main"):
                siblings = [{"rfilename": name} for name in files]
                self.reply({"id": repo_id, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
            elif path.startswith(f"/{repo_id}/resolve/") and path.rsplit("/", 1)[1] in files:
                self.reply(files[path.rsplit("/", 1)[1]])
            else:
                self.reply({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET

        def reply(self, content, status: int = 200, headers: dict[str, str] | None = None) -> None:
            body = content.read_bytes() if isinstance(content, Path) else json.dumps(content).encode()
            self.send_response(status)
            if isinstance(content, Path):
                facts = entry(content)
                headers = {"ETag": facts["oid"], "X-Repo-Commit": COMMIT, "X-Linked-Size": str(facts["size"])}
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
