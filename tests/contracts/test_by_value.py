"""What runs on nodes runs there without Argus: it is sent by value, with all that it needs of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SEND = """
import sys
sys.path.insert(0, {root!r})
from ray import cloudpickle
from reconciler.core import answers, log_lines, root_cause
from reconciler.core.routes import Route, RoutingTable, Target, Unavailable
from reconciler.shell import below, engine_log, ingress, load_watch, phases, pulse, ray_workers, replica_server, serve
from reconciler.shell.kv_board import KvReader
for module in (*serve.BY_VALUE, replica_server, pulse, phases, engine_log, log_lines, root_cause, below, ray_workers,
               load_watch):
    cloudpickle.register_pickle_by_value(module)
why = Unavailable("model_loading", "is still loading", 10)
route = Route("m", "key", "alice", 1, why, (Target("r", "127.0.0.1:9", "c1"),))
table = RoutingTable("secret", (route,))
sent = dict(table=table, answers=answers.decide, forward=answers.Forward, ingress=ingress.Ingress, reader=KvReader,
            whole=serve.ingress_class(1000, 10.0), root=ingress.EmptyRoot, server=replica_server.ReplicaServer,
            output=engine_log.ReplicaOutput, reader_of_logs=engine_log.LogReader, explain=root_cause.explain,
            keeper=pulse.Keeper, pulse=pulse.Pulse, rhythm=pulse.Rhythm, tell=phases.tell,
            watch=load_watch.LoadWatch, pace=load_watch.Pace, ended=load_watch.LoadEnded,
            below=below.processes_below, read=below.read_by, workers=ray_workers.ray_workers)
sys.stdout.buffer.write(cloudpickle.dumps(sent))
"""

RECEIVE = """
import asyncio, dataclasses, json, sys, threading
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "reconciler":
            raise ImportError(f"{name} is not on this node")
sys.meta_path.insert(0, Nowhere())
from ray import cloudpickle
got = cloudpickle.loads(sys.stdin.buffer.read())
table, decide = got["table"], got["answers"]
again = type(table).from_json(table.to_json())
assert again == table and hash(again.routes) == hash(table.routes)
assert dataclasses.replace(table, secret="other") != table
assert got["reader_of_logs"]().read([(1, 0, [("/etc/passwd", 0)])])[0][1][0][2]
output = object.__new__(got["output"])
output._files, output._from = ["/etc/passwd"], [0]
assert output.lines()
assert got["explain"]("no room", ["a line"]) == "the engine did not start: no room"
assert isinstance(decide(table, "POST", "/v1/completions", b'{"model": "m"}'), got["forward"])

async def ask(app, method, path, body=b""):
    said = []
    requests = [{"type": "http.request", "body": body}]
    async def receive():
        return requests.pop() if requests else await asyncio.sleep(60, {"type": "http.disconnect"})
    async def send(message):
        said.append(message)
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}
    await app(scope, receive, send)
    return said[0]["status"], json.loads(b"".join(message.get("body", b"") for message in said))

async def main():
    app = got["ingress"](lambda: table, 1000, 10.0)
    events = asyncio.Queue()
    events.put_nowait({"type": "lifespan.startup"})
    started = asyncio.Event()
    async def send(message):
        started.set()
    life = asyncio.create_task(app({"type": "lifespan"}, events.get, send))
    await asyncio.wait_for(started.wait(), 10)
    _, models = await ask(app, "GET", "/v1/models")
    status, lost = await ask(app, "POST", "/v1/completions", b'{"model": "m"}')
    print(json.dumps([models["data"][0]["id"], status, lost["error"]["code"]]))
    events.put_nowait({"type": "lifespan.shutdown"})
    await asyncio.wait_for(life, 10)

class Dead:
    def has_failed(self):
        return True

async def watch():
    ended = asyncio.Event()
    pulse = got["pulse"](Dead(), got["rhythm"](limit_s=1, look_s=0.001))
    keeper = got["keeper"](pulse, lambda limit_s: asyncio.sleep(0), ended.set)
    keeper.start()
    await asyncio.wait_for(ended.wait(), 10)
    assert keeper.why == "the engine died"

def load():
    ended = threading.Event()

    def signs():
        below = got["below"]()
        return got["read"](below) * 0 + len(got["workers"](below))

    try:
        with got["watch"](got["pace"](limit_s=0.01, look_s=0.001), signs, ended.set):
            assert ended.wait(10)
    except got["ended"] as why:
        return str(why)

asyncio.run(main())
asyncio.run(watch())
assert "loading weights" in load()
assert "reconciler" not in sys.modules
"""


def test_what_nodes_run_needs_no_argus_there() -> None:
    sent = subprocess.run(
        [sys.executable, "-c", SEND.format(root=str(ROOT))], capture_output=True, timeout=100, check=False
    )
    assert sent.returncode == 0, sent.stderr.decode()
    received = subprocess.run(
        [sys.executable, "-I", "-c", RECEIVE], input=sent.stdout, capture_output=True, timeout=100, check=False, cwd="/"
    )
    assert received.returncode == 0, received.stderr.decode()
    assert json.loads(received.stdout) == ["m", 503, "replica_lost"]
