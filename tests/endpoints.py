"""A local server that stands in for an OpenAI-compatible chat endpoint."""

import http.server
import json
import threading


class Server:
    """Replies to each request with what `reply(body)` returns, after the given failures; a context manager.

    Attributes:
      failures: (status, headers, body) of the next replies.
      seen: the path, the headers and the body of each request.
      most_at_once: the most requests that were under way.
      gate: a barrier at which requests wait, if there is one.
      url: the API's root.
    """

    def __init__(self, reply):
        self.failures, self.seen, self.most_at_once, self.gate = [], [], 0, None
        now, lock, outer = [0], threading.Lock(), self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                with lock:
                    now[0] += 1
                    outer.most_at_once = max(outer.most_at_once, now[0])
                    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                    outer.seen.append((self.path, dict(self.headers), body))
                    failure = outer.failures.pop(0) if outer.failures else None
                if outer.gate is not None:
                    outer.gate.wait(timeout=30)
                status, headers, text = failure or (
                    200,
                    {},
                    json.dumps({"choices": [{"message": {"content": reply(body)}}]}),
                )
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(text.encode()))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                with lock:
                    now[0] -= 1
                self.wfile.write(text.encode())

            def log_message(self, *args):
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()
