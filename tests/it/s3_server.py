"""Runs a real S3 server (moto) with one bucket, `lapo`, and a proxy in front of it that injects faults.

Prints the ports of the server and of the proxy, then serves until stdin is closed. Control requests to the proxy begin with /-/:

/-/faults/SEED/RATE  from now on, RATE of every 1,000 requests meet a fault; resets the counter
/-/count             returns the number of requests since then
"""

import http.client
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from moto.server import ThreadedMotoServer

FAULTS = ["error", "unavailable", "conflict", "slow", "cut", "lost", "half"]
plan = {"random": random.Random(0), "rate": 0, "count": 0}
lock = threading.Lock()


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def control(self):
        word, *numbers = self.path.split("/")[2:]
        with lock:
            if word == "faults":
                plan.update(random=random.Random(int(numbers[0])), rate=int(numbers[1]), count=0)
            self.answer(200, [], str(plan["count"]).encode())

    def fault(self):
        with lock:
            plan["count"] += 1
            drawn = plan["random"].randrange(1000), plan["random"].choice(FAULTS)
        return drawn[1] if drawn[0] < plan["rate"] else None

    def cut(self):
        self.close_connection = True
        self.connection.close()

    def answer(self, status, headers, body):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = dict((name.lower(), value) for name, value in headers).get("content-length") if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(body)

    def serve(self):
        if self.path.startswith("/-/"):
            return self.control()
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        fault = self.fault()
        if fault == "cut":
            return self.cut()
        if fault == "error":
            return self.answer(500, [], b"<Error><Code>InternalError</Code></Error>")
        if fault == "unavailable":
            return self.answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
        if fault == "conflict" and self.headers.get("if-none-match"):
            return self.answer(409, [], b"<Error><Code>ConditionalRequestConflict</Code></Error>")
        if fault == "slow":
            time.sleep(0.2)
        server = http.client.HTTPConnection("127.0.0.1", moto_port)
        server.request(self.command, self.path, body, dict(self.headers))
        reply = server.getresponse()
        data = reply.read()
        server.close()
        # The server has acted on the request; only its reply is lost.
        if fault == "lost":
            return self.cut()
        if fault == "half" and len(data) > 1:
            self.wfile.write(f"HTTP/1.1 {reply.status} OK\r\nContent-Length: {len(data)}\r\n".encode())
            for name, value in reply.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.wfile.write(f"{name}: {value}\r\n".encode())
            self.wfile.write(b"\r\n" + data[: len(data) // 2])
            self.wfile.flush()
            return self.cut()
        self.answer(reply.status, reply.getheaders(), data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve


moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
moto.start()
moto_port = moto.get_host_and_port()[1]
proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
threading.Thread(target=proxy.serve_forever, daemon=True).start()
credentials = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
boto3.client("s3", endpoint_url=f"http://127.0.0.1:{moto_port}", **credentials).create_bucket(Bucket="lapo")
print("ports", moto_port, proxy.server_address[1], flush=True)
sys.stdin.read()
