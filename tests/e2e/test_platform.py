"""The main job from end to end, on real Ray and real vLLM: `argus up`, two users, REST and push, chat, scale, break,
delete, kill, stop and start again. One platform serves all tests of this file, which tell one story in order.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from reconciler.shell.ledger import SqlBoard, open_ledger
from tests.e2e.platform import BODIES, HAPROXY, ROOT, ROUTER, Listener, Platform, descendants, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

GREETING = "Hello"
ALICE_SPEC = """\
# Alice's model, as she wrote it
model_id: qwen-0.5b
model_source: $HOME/common/hf/demo  # the shared folder
engine_kwargs:
  max_model_len: 2048
  enable_auto_tool_choice: true
  tool_call_parser: hermes
"""
BOB_SPEC = """\
model_id: vectors
model_source: $HOME/common/hf/demo
engine_kwargs:
  runner: pooling
  convert: embed
  max_model_len: 256
"""


class Story:
    """What one test of the story leaves to the next."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.demo_key = ""
        self.demo = ""
        self.alice: httpx.Client
        self.alice_key = ""
        self.bob: httpx.Client
        self.bob_key = ""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    platform = Platform(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("logs"))
    try:
        platform.start()
        yield Story(platform)
    finally:
        if platform.process is not None and platform.process.poll() is None:
            platform.stop()


def _is_running(detail: dict[str, Any]) -> bool:
    model = detail["model"]
    return bool(model["state"] == "RUNNING" and model["serving_commit"] == model["commit"])


def test_a_newcomer_is_answered_by_the_demo_model(story: Story) -> None:
    platform = story.platform
    (demo,) = platform.admin.get("/serve/models", params={"all": "true"}).json()["items"]
    story.demo, story.demo_key = demo["model_id"], demo["model_key"]
    assert demo["state"] == "RUNNING"
    assert demo["endpoint"] == {"openai_base_url": f"http://127.0.0.1:{platform.openai_port}/v1", "model": story.demo}
    assert [model.id for model in platform.openai.models.list()] == [story.demo]
    answer = platform.say(story.demo, GREETING)
    assert "Argus" in answer
    assert answer.isprintable()
    text = platform.openai.completions.create(model=story.demo, prompt="Hello", max_tokens=4)
    assert text.choices[0].finish_reason == "length"


def test_models_come_by_rest_and_by_push_while_others_stream(story: Story, tmp_path: Path) -> None:
    platform = story.platform
    demo_processes, front = platform.replicas(story.demo_key), platform.front()
    assert (len(demo_processes), len(front)) == (1, 3)
    listeners = [Listener(platform, story.demo) for _ in range(2)]

    story.alice = platform.user("alice")
    answer = story.alice.post(
        "/serve/models", content=ALICE_SPEC.encode(), headers={"Content-Type": "application/yaml"}
    )
    assert answer.status_code == 202, answer.text
    story.alice_key = answer.json()["model_key"]
    assert platform.git("show", "main:users/alice/qwen-0.5b.yaml") == ALICE_SPEC

    checkout = tmp_path / "specs"
    _git(tmp_path, "clone", "-q", str(platform.home / "specs.git"), str(checkout))
    (checkout / "users" / "bob").mkdir(parents=True)
    (checkout / "users" / "bob" / "vectors.yaml").write_text(BOB_SPEC)
    _push(checkout, "Serve vectors for search")
    wait_until(lambda: "bob" in _users(platform), 60, lambda: str(_users(platform)))
    story.bob = platform.client(platform.token("bob"))
    (bobs,) = story.bob.get("/serve/models").json()["items"]
    story.bob_key = bobs["model_key"]

    alice = platform.until(story.alice, story.alice_key, _is_running)
    bob = platform.until(story.bob, story.bob_key, _is_running)
    for listener in listeners:
        listener.stop()

    assert [failure for listener in listeners for failure in listener.failures] == []
    assert all(listener.requests for listener in listeners)
    assert platform.replicas(story.demo_key) == demo_processes
    assert platform.front() == front
    events = [event["event_type"] for event in alice["events"]]
    assert events == ["DEPLOY_REQUESTED", "DEPLOY_STARTED", "DEPLOY_SUCCEEDED"]
    assert {event["source"] for event in alice["events"]} == {"api"}
    assert {(event["source"], event["author"]) for event in bob["events"]} == {("git", "Bob Builder")}


def test_each_model_answers_in_its_own_way(story: Story) -> None:
    platform = story.platform
    alice = platform.detail(story.alice, story.alice_key)["model"]["model_id"]
    bob = platform.detail(story.bob, story.bob_key)["model"]["model_id"]
    assert "Argus" in platform.say(alice)
    chunks = platform.openai.chat.completions.create(
        model=alice, messages=[{"role": "user", "content": GREETING}], stream=True, temperature=0
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == platform.say(alice)
    vector = platform.openai.embeddings.create(model=bob, input="Hello").data[0].embedding
    assert len(vector) > 1
    assert platform.admin.get(f"/serve/models/{story.bob_key}").status_code == 200
    assert story.alice.get(f"/serve/models/{story.bob_key}").status_code == 404


def test_the_official_client_gets_tools_schemas_logprobs_and_responses(story: Story) -> None:
    platform = story.platform
    alice = platform.detail(story.alice, story.alice_key)["model"]["model_id"]
    messages: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}},
        "required": ["city"],
        "additionalProperties": False,
    }
    create = platform.openai.chat.completions.create
    # A schema allows white space without end between its parts, and so tiny a model would write nothing else.
    blank = {
        str(token): -100
        for text in (" ", "\n", "\r", "\t")
        for token in platform.post("/tokenize", model=alice, prompt=text, add_special_tokens=False).json()["tokens"]
    }
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    choice: Any = {"type": "function", "function": {"name": "weather"}}
    called = create(model=alice, messages=messages, tools=[tool], tool_choice=choice, max_tokens=200, logit_bias=blank)
    assert called.choices[0].message.tool_calls is not None
    (call,) = called.choices[0].message.tool_calls
    assert call.type == "function"
    assert call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"city"}

    form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}}
    formed = create(model=alice, messages=messages, response_format=form, max_tokens=200, logit_bias=blank)
    assert set(json.loads(formed.choices[0].message.content or "")) == {"city"}

    seen = create(model=alice, messages=messages, max_tokens=3, logprobs=True, top_logprobs=2)
    assert seen.choices[0].logprobs is not None
    assert [len(token.top_logprobs) for token in seen.choices[0].logprobs.content or []] == [2, 2, 2]

    said = platform.openai.responses.create(model=alice, input=GREETING, max_output_tokens=16)
    assert said.output_text
    usage = list(
        create(model=alice, messages=messages, max_tokens=3, stream=True, stream_options={"include_usage": True})
    )
    assert usage[-1].usage is not None
    assert usage[-1].usage.completion_tokens <= 3


def test_langchain_works_unchanged(story: Story) -> None:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    platform = story.platform
    alice = platform.detail(story.alice, story.alice_key)["model"]["model_id"]
    base = f"http://127.0.0.1:{platform.openai_port}/v1"
    chat = ChatOpenAI(model=alice, base_url=base, api_key=SecretStr("none"), temperature=0, max_retries=0)
    assert "Argus" in str(chat.invoke(GREETING).content)
    assert "Argus" in "".join(str(chunk.content) for chunk in chat.stream(GREETING))


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_plain_curl_streams(story: Story) -> None:
    platform = story.platform
    alice = platform.detail(story.alice, story.alice_key)["model"]["model_id"]
    url = f"http://127.0.0.1:{platform.openai_port}/v1/chat/completions"
    body = json.dumps({"model": alice, "messages": [{"role": "user", "content": GREETING}], "stream": True})
    curl = ["curl", "-sN", "--max-time", "60", url, "-H", "Content-Type: application/json", "-d", body]
    lines = subprocess.run(curl, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line for line in lines if line][-1] == "data: [DONE]"
    assert sum(line.startswith("data: {") for line in lines) > 3


def test_an_answer_says_which_model_and_commit_it_came_from(story: Story) -> None:
    platform = story.platform
    model = platform.detail(story.alice, story.alice_key)["model"]
    answer = platform.post("/v1/completions", model=model["model_id"], prompt="Hello", max_tokens=1)
    assert answer.headers["x-argus-model-key"] == story.alice_key
    assert answer.headers["x-argus-commit"] == model["serving_commit"]
    figures = httpx.get(f"http://127.0.0.1:{platform.metrics_port}/metrics", timeout=10).text
    assert f'model_key="{story.alice_key}"' in figures


def test_nothing_that_administers_an_engine_is_within_reach(story: Story) -> None:
    platform = story.platform
    model = platform.detail(story.alice, story.alice_key)["model"]["model_id"]
    for path in ("/pause", "/update_weights", "/invocations", "/v1/load_lora_adapter", "/start_profile", "/metrics"):
        refused = platform.post(path, model=model)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
    read = SqlBoard(open_ledger(f"sqlite:///{platform.home / 'ledger.sqlite'}", timeout_s=5)).read(0)
    assert read is not None
    route = read[1].named(model)
    assert route is not None
    url, body = (
        f"http://{route.targets[0].address}/v1/completions",
        {"model": model, "prompt": "Hello", "max_tokens": 1},
    )
    assert httpx.post(url, json=body, timeout=30).status_code == 403
    assert httpx.post(url, json=body, headers={"x-argus-front": read[1].secret}, timeout=30).status_code == 200


def test_a_changed_model_is_replaced_without_a_failed_request_or_a_cut_stream(story: Story) -> None:
    platform = story.platform
    name = platform.detail(story.alice, story.alice_key)["model"]["model_id"]
    # Four GPUs, and three models on one each: the new version starts beside the last one on the fourth.
    before = platform.replicas(story.alice_key)
    listeners = [Listener(platform, name, tokens_each=200) for _ in range(4)]
    changed = story.alice.patch(f"/serve/models/{story.alice_key}", json={"engine_kwargs": {"max_num_seqs": 24}})
    assert changed.status_code == 200, changed.text
    platform.until(story.alice, story.alice_key, _is_running)
    wait_until(lambda: not before & platform.replicas(story.alice_key), 120, lambda: "the old replicas stay")
    for listener in listeners:
        listener.stop()
    assert [failure for listener in listeners for failure in listener.failures] == []
    assert all(listener.requests > 1 for listener in listeners)
    after = platform.post("/v1/completions", model=name, prompt="Hello", max_tokens=1)
    assert after.headers["x-argus-commit"] == changed.json()["commit"]


def test_scaling_adds_a_replica_and_keeps_the_first(story: Story) -> None:
    platform = story.platform
    before = platform.replicas(story.alice_key)
    answer = story.alice.patch(f"/serve/models/{story.alice_key}", json={"num_replicas": 2})
    assert (answer.status_code, answer.json()["state"]) == (200, "QUEUED")
    platform.until(story.alice, story.alice_key, _is_running)
    after = platform.replicas(story.alice_key)
    assert before < after
    assert len(after) == 2
    text = platform.git("show", "main:users/alice/qwen-0.5b.yaml")
    assert "# Alice's model, as she wrote it" in text
    assert "# the shared folder" in text


def test_a_broken_spec_breaks_nothing_that_runs(story: Story, tmp_path: Path) -> None:
    platform = story.platform
    before = platform.replicas(story.bob_key)
    checkout = tmp_path / "specs"
    _git(tmp_path, "clone", "-q", str(platform.home / "specs.git"), str(checkout))
    spec = checkout / "users" / "bob" / "vectors.yaml"
    spec.write_text(BOB_SPEC + "  trust_remote_code: true\n")
    _push(checkout, "Trust strangers")
    refused = platform.until(story.bob, story.bob_key, lambda detail: detail["model"]["error_summary"] is not None)
    assert refused["model"]["state"] == "RUNNING"
    assert "trust_remote_code" in refused["model"]["error_summary"]
    assert refused["model"]["serving_commit"] != refused["model"]["commit"]
    assert platform.replicas(story.bob_key) == before
    spec.write_text(BOB_SPEC)
    _push(checkout, "Do not trust strangers")
    platform.until(story.bob, story.bob_key, _is_running)
    assert platform.replicas(story.bob_key) == before


def test_a_deleted_model_is_unknown_at_once_and_its_neighbours_stay(story: Story) -> None:
    platform = story.platform
    neighbours = platform.replicas(story.demo_key) | platform.replicas(story.alice_key) | platform.front()
    name = platform.detail(story.bob, story.bob_key)["model"]["model_id"]
    answer = story.bob.delete(f"/serve/models/{story.bob_key}")
    assert (answer.status_code, answer.json()["state"]) == (200, "DELETING")
    gone = platform.until(story.bob, story.bob_key, lambda detail: detail["model"]["state"] == "DELETED")
    assert gone["events"][-1]["event_type"] == "DELETED"
    assert gone["events"][-1]["commit"] == answer.json()["commit"]
    asked = platform.post("/v1/embeddings", model=name, input="x")
    assert (asked.status_code, asked.json()["error"]["code"]) == (404, "model_not_found")
    assert platform.replicas(story.demo_key) | platform.replicas(story.alice_key) | platform.front() == neighbours


def test_git_tells_who_asked_for_what_and_every_event_names_a_commit(story: Story) -> None:
    platform = story.platform
    log = platform.git("log", "--format=%an|%cn|%s", "main").splitlines()
    assert "alice|Argus|Create qwen-0.5b" in log
    assert "Bob Builder|Bob Builder|Serve vectors for search" in log
    for client, key in ((story.alice, story.alice_key), (story.bob, story.bob_key)):
        for event in platform.detail(client, key)["events"]:
            platform.git("cat-file", "-e", f"{event['commit']}^{{commit}}")


AROUND = (r"argus reconciler", r"gunicorn: worker \[argus-api\]", r"gunicorn: master \[argus-api\]", BODIES, ROUTER)


@pytest.mark.parametrize("victims", [AROUND, (HAPROXY,)], ids=["around", "haproxy"])
def test_whatever_is_killed_around_the_models_is_back_and_they_answer_without_help(
    story: Story, victims: tuple[str, ...]
) -> None:
    platform = story.platform
    killed = {min(platform.processes(victim)) for victim in victims}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)

    def all_are_back() -> bool:
        there = [platform.processes(victim) for victim in victims]
        return all(there) and not killed & set[int]().union(*there)

    wait_until(lambda: all_are_back() and _all_answer(platform), 300, lambda: platform.log.read_text()[-2000:])


def test_replicas_and_engines_that_die_or_hang_are_replaced_without_help(story: Story) -> None:
    platform = story.platform
    (demo,), (first, second) = platform.replicas(story.demo_key), sorted(platform.replicas(story.alice_key))
    hung, dead = _engine_of(platform, demo), _engine_of(platform, second)
    os.kill(hung, signal.SIGSTOP)  # it neither works nor ends
    os.kill(first, signal.SIGKILL)
    os.kill(dead, signal.SIGKILL)

    def all_are_replaced() -> bool:
        there = platform.replicas(story.demo_key) | platform.replicas(story.alice_key)
        return len(there) == 3 and not {demo, first, second} & there

    wait_until(lambda: all_are_replaced() and _all_answer(platform), 400, lambda: platform.log.read_text()[-2000:])
    assert not Path(f"/proc/{hung}").exists(), "a stopped engine outlived its replica"


def _engine_of(platform: Platform, replica: int) -> int:
    (engine,) = platform.processes("VLLM::EngineCore") & descendants(replica)
    return engine


def _all_answer(platform: Platform) -> bool:
    try:
        names = [model.id for model in platform.openai.models.list()]
        said = [platform.say(name) for name in names]
        items = platform.admin.get("/serve/models", params={"all": "true"}).json()["items"]
    except Exception:  # that is what is waited for to end
        return False
    return len(said) == 2 and all(item["state"] == "RUNNING" for item in items)


def test_after_all_that_the_loop_still_does_what_is_asked(story: Story) -> None:
    platform = story.platform
    answer = story.alice.patch(f"/serve/models/{story.alice_key}", json={"num_replicas": 1})
    assert answer.status_code == 200
    platform.until(story.alice, story.alice_key, _is_running)
    wait_until(lambda: len(platform.replicas(story.alice_key)) == 1, 120, lambda: "a replica is left over")


def test_a_stopped_platform_leaves_no_process_and_starts_again_with_the_same_models_on_the_other_front(
    story: Story, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _stop_while_users_stream(story, 1)
    platform = story.platform
    platform.config = tmp_path_factory.mktemp("config") / "argus.yaml"
    settings = yaml.safe_load((ROOT / "dev.yaml").read_text())
    settings["serving"] |= {"front": "ray", "stop_grace_s": 90}
    platform.config.write_text(yaml.safe_dump(settings))
    platform.start()
    platform.until(story.alice, story.alice_key, _is_running)
    names = {model.id for model in platform.openai.models.list()}
    assert names == {story.demo, platform.detail(story.alice, story.alice_key)["model"]["model_id"]}
    assert "Argus" in platform.say(story.demo)
    assert platform.front() == set()


def test_rays_own_front_ends_what_it_has_begun_before_the_platform_stops(story: Story) -> None:
    """So many that their streams outlast Ray, which ends within six seconds and would cut them."""
    _stop_while_users_stream(story, 6)


def _stop_while_users_stream(story: Story, users: int) -> None:
    platform = story.platform
    assert platform.process is not None
    below = descendants(platform.process.pid)
    assert below
    name = platform.detail(story.alice, story.alice_key)["model"]["model_id"]
    listeners = [Listener(platform, name, tokens_each=1600) for _ in range(users)]
    wait_until(lambda: all(listener.tokens for listener in listeners), 60, lambda: str(listeners))
    for listener in listeners:
        threading.Thread(target=listener.stop, daemon=True).start()
    assert platform.stop() == 0
    for listener in listeners:
        listener.stop()
    assert [(listener.requests, listener.failures) for listener in listeners] == [(1, [])] * users
    assert {pid for pid in below if Path(f"/proc/{pid}").exists()} == set()


def _users(platform: Platform) -> list[str]:
    return [user["user_id"] for user in platform.admin.get("/users").json()["items"]]


def _git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def _push(checkout: Path, subject: str) -> None:
    author = ("-c", "user.name=Bob Builder", "-c", "user.email=bob@example.org")
    _git(checkout, "add", "-A")
    _git(checkout, *author, "commit", "-q", "-m", subject)
    _git(checkout, "push", "-q", "origin", "HEAD:main")
