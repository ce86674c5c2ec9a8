"""Commit statuses and webhooks against real servers, held to what their makers publish of them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.announcements import STATUSES, Audience, StatusRules, Subscription, notifications, statuses
from reconciler.core.cases import Case, Stages, Verdict
from reconciler.core.delivery import Letter, Reply, asked_pause_s
from reconciler.core.entities import Commit, Event, EventType
from reconciler.shell.outbox.destination import Destination, Unready
from reconciler.shell.outbox.sending import Sender, is_public
from reconciler.shell.outbox.statuses import CommitStatuses
from reconciler.shell.outbox.webhooks import Webhook, signed
from tests.receivers import APIS, PREFIXES, TOKEN, Answer, Receiver, provider, receiver
from tests.remotes import certificates

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SHA = "5f3a" * 10
LIMIT_S = 10.0
KEY = b"0123456789abcdef0123456789abcdef"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
PROVIDERS = sorted(PREFIXES)


def deliver(destination: Destination, letter: Letter, limit_s: float = LIMIT_S) -> Reply:
    """Send one letter, as the courier does."""

    async def send() -> Reply:
        sender = Sender(destination)
        try:
            return await sender.send(letter, destination.request(letter, NOW), limit_s)
        finally:
            await sender.close()

    return asyncio.run(send())


def letter(body: Any) -> Letter:
    return Letter("st-1", 1, STATUSES, body, 1, NOW, NOW + timedelta(seconds=20))


def case(verdict: Verdict | None, message: str | None = None) -> Case:
    made = Commit(SHA, "Alice", NOW, "git", "Change it")
    return Case(made, "users/alice/qwen.yaml", "svc-alice-qwen", "alice", False, Stages(NOW), verdict, message)


def status(verdict: Verdict | None = None, message: str | None = None, **rules: Any) -> Letter:
    (made,) = statuses(StatusRules(**rules), {}, {SHA: [case(verdict, message)]})
    return letter(made.body)


def posting_to(kind: Any, url: str, **known: Any) -> CommitStatuses:
    known.setdefault("token", TOKEN)
    repository = "team/sub/specs" if kind == "gitlab" else "team/specs"
    return CommitStatuses(kind, f"{url}{PREFIXES[kind]}", repository, "main", **known)


@pytest.fixture(params=PROVIDERS)
def kind(request: pytest.FixtureRequest) -> str:
    """Give each provider in turn."""
    return str(request.param)


@pytest.fixture
def forge(kind: str) -> Iterator[Receiver]:
    """Run that provider."""
    with provider(kind) as running:
        yield running


class TestStatuses:
    """What each provider gets, and what is made of its answers."""

    @pytest.mark.parametrize("verdict", [None, *Verdict])
    def test_every_verdict_is_taken_by_every_provider(
        self, kind: str, forge: Receiver, verdict: Verdict | None
    ) -> None:
        told = status(verdict, "it says so", target_url="https://argus.example.org/{sha}")
        assert deliver(posting_to(kind, forge.url), told) == Reply(201)
        assert forge.problems == []
        (seen,) = forge.seen
        wanted = {"pending": "pending", "success": "success"}.get(told.body["state"], "bad")
        good = {"gitlab": {"bad": "failed"}}.get(kind, {"bad": told.body["state"]})
        assert seen.body["state"] == good.get(wanted, wanted)
        assert seen.body["target_url"] == f"https://argus.example.org/{SHA}"
        assert seen.body.get("context", seen.body.get("name")) == "argus"

    def test_the_address_names_repository_and_commit_and_no_secret(self, kind: str, forge: Receiver) -> None:
        deliver(posting_to(kind, forge.url), status())
        (seen,) = forge.seen
        paths = {
            "github": f"/repos/team/specs/statuses/{SHA}",
            "gitea": f"/api/v1/repos/team/specs/statuses/{SHA}",
            "gitlab": f"/api/v4/projects/team%2Fsub%2Fspecs/statuses/{SHA}",
        }
        assert seen.path == paths[kind]
        assert TOKEN.encode() not in seen.raw
        assert kind != "gitlab" or seen.body["ref"] == "main"

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (Answer(401, body={"message": "Bad credentials"}), "Bad credentials"),
            (Answer(403, body={"message": "Resource not accessible"}), "Resource not accessible"),
            (Answer(404, body={"message": "Not Found"}), "Not Found"),
            (Answer(422, body={"message": "No commit found for SHA", "errors": ["x"]}), "No commit found for SHA"),
            (Answer(422, body={"message": {"state": ["is invalid"]}}), '{"state": ["is invalid"]}'),
            (Answer(500, body=["no object"]), ""),
            (Answer(502, body=None), ""),
        ],
    )
    def test_an_answer_that_is_no_good_is_read_for_its_reason(
        self, kind: str, forge: Receiver, answer: Answer, said: str
    ) -> None:
        forge.script.append(answer)
        reply = deliver(posting_to(kind, forge.url), status())
        assert (reply.status, reply.said, reply.is_good) == (answer.status, said, False)

    def test_a_token_that_is_not_accepted_is_told(self, kind: str, forge: Receiver) -> None:
        assert deliver(posting_to(kind, forge.url, token="another"), status()).status == 401

    def test_a_token_that_an_answer_repeats_is_not_kept(self, kind: str, forge: Receiver) -> None:
        forge.script.append(Answer(401, body={"message": f"who is {TOKEN}?"}))
        assert deliver(posting_to(kind, forge.url), status()).said == "who is ***?"

    def test_a_rate_limit_says_until_when(self, kind: str, forge: Receiver) -> None:
        prefix = "RateLimit" if kind == "gitlab" else "X-RateLimit"
        reset = str(int((NOW + timedelta(minutes=7)).timestamp()))
        forge.script.append(
            Answer(403, {f"{prefix}-Remaining": "0", f"{prefix}-Reset": reset}, {"message": "API rate limit exceeded"})
        )
        forge.script.append(Answer(429, {"Retry-After": "33"}))
        to = posting_to(kind, forge.url)
        assert asked_pause_s(deliver(to, status()), NOW) == 420
        assert asked_pause_s(deliver(to, status()), NOW) == 33

    def test_a_redirect_is_not_followed_and_the_token_stays_here(self, kind: str, forge: Receiver) -> None:
        with receiver() as elsewhere:
            for code in (301, 302, 307, 308):
                forge.script.append(Answer(code, {"Location": f"{elsewhere.url}/repos/team/specs"}))
                assert deliver(posting_to(kind, forge.url), status()).status == code
            assert elsewhere.seen == []

    def test_a_server_that_is_not_there_is_told_without_its_address(self, kind: str, forge: Receiver) -> None:
        to = posting_to(kind, "http://127.0.0.1:1")
        assert deliver(to, status()).said == "no connection: Connection refused"
        # A resolver that is out of reach may take its time.
        said = deliver(posting_to(kind, "http://argus.invalid"), status(), 5).said
        assert said in {"its name is not known", "no answer within 5 s"}

    def test_a_token_in_a_file_counts_from_the_next_request_on(
        self, kind: str, forge: Receiver, tmp_path: Path
    ) -> None:
        file = tmp_path / "token"
        to = posting_to(kind, forge.url, token=None, token_file=file)
        with pytest.raises(Unready, match=r"token_file cannot be read: FileNotFoundError"):
            to.request(status(), NOW)
        file.write_text("line one\nline two of the secret\n")
        with pytest.raises(Unready, match="holds no token") as refused:
            to.request(status(), NOW)
        assert "secret" not in str(refused.value)
        file.write_text(f"{TOKEN}\n")
        assert deliver(to, status()).status == 201
        with pytest.raises(Unready, match="there is no token"):
            posting_to(kind, forge.url, token=None).request(status(), NOW)

    def test_a_request_shows_no_secret(self, kind: str) -> None:
        to = posting_to(kind, "http://127.0.0.1:1")
        assert TOKEN not in repr(to) + repr(to.request(status(), NOW))

    def test_a_server_is_trusted_by_its_own_authority_and_by_no_other(self, kind: str, tmp_path: Path) -> None:
        ca_file, chain = certificates(tmp_path)
        with provider(kind, tls=chain) as forge:
            assert deliver(posting_to(kind, forge.url, ca_file=ca_file), status()).status == 201
            assert deliver(posting_to(kind, forge.url), status()).said == "its certificate is not one that is trusted"
            assert len(forge.seen) == 1


def test_any_message_is_taken_by_every_provider() -> None:
    with ExitStack() as stack:
        forges = {kind: stack.enter_context(provider(kind)) for kind in PROVIDERS}

        @settings(max_examples=15, deadline=None)
        @given(message=st.text(max_size=2000))
        def check(message: str) -> None:
            for kind, forge in forges.items():
                assert deliver(posting_to(kind, forge.url), status(Verdict.FAILED, message)).status == 201
                assert forge.problems == []

        check()


@pytest.mark.parametrize(
    ("answer", "limit_s", "status_code", "said"),
    [
        (Answer(hang=True), 0.4, None, "no answer within 0.4 s"),
        (Answer(cut_off=True), LIMIT_S, None, "it closed the connection without an answer"),
        (Answer(500, drip=True), 2.0, 500, ""),
        (Answer(201, drip=True), LIMIT_S, 201, ""),
    ],
    ids=["says nothing", "hangs up", "a failure without an end", "taken, and without an end"],
)
def test_nothing_takes_longer_than_the_time_limit(
    answer: Answer, limit_s: float, status_code: int | None, said: str
) -> None:
    with provider("github") as forge:
        forge.script.append(answer)
        reply = deliver(posting_to("github", forge.url), status(), limit_s)
        assert (reply.status, reply.said, reply.is_good) == (status_code, said, status_code == 201)


GITLAB_REFUSES = {
    "message": "Cannot transition status via :enqueue from :pending (Reason(s): Status cannot transition)"
}


@pytest.mark.parametrize(("verdict", "is_done"), [(None, True), (Verdict.APPLIED, False)])
def test_gitlab_refusing_to_be_told_pending_twice_has_it_already(verdict: Verdict | None, is_done: bool) -> None:
    with provider("gitlab") as forge:
        forge.script.append(Answer(400, body=GITLAB_REFUSES))
        assert deliver(posting_to("gitlab", forge.url), status(verdict)).is_good == is_done


class TestWebhooks:
    """CloudEvents, signed."""

    @pytest.fixture
    def secret(self, tmp_path: Path) -> Path:
        file = tmp_path / "secret"
        file.write_text(SECRET + "\n")
        return file

    @pytest.fixture
    def chat(self) -> Iterator[Receiver]:
        with receiver() as running:
            yield running

    def hook(self, chat: Receiver, secret: Path, **known: Any) -> Webhook:
        known.setdefault("allow_private", True)
        return Webhook("hook:chat", f"{chat.url}/in/s3cret-path", secret, **known)

    def letters(self, payload: dict[str, Any], source: str = "urn:argus") -> list[Letter]:
        events = [Event(kind, "svc-alice-qwen", "alice", NOW, SHA, "Alice é", "git", payload) for kind in EventType]
        made = notifications(Audience(None, (Subscription("chat"),), source), events, [case(Verdict.REJECTED)], NOW)
        return [Letter(each.id, 1, each.destination, each.body, 1, NOW, NOW) for each in made]

    def test_every_event_is_a_cloudevent_by_the_projects_own_schema(self, chat: Receiver, secret: Path) -> None:
        schema = json.loads((APIS / "cloudevents.json").read_text())["schema"]
        check = jsonschema_rs.validator_for(schema, validate_formats=True)
        assert not check.is_valid({"specversion": "1.0", "id": "1", "source": "not a uri %", "type": "x"})
        for source in ("urn:argus", "https://argus.example.org"):
            for each in self.letters({"message": "no room ☃", "num_replicas": {"from": 1, "to": 2}}, source):
                assert deliver(self.hook(chat, secret), each).is_good
        assert len(chat.seen) == 2 * (len(EventType) + 1)
        for seen in chat.seen:
            check.validate(seen.body)
            assert seen.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
            assert seen.body["type"].startswith("io.argus.")
            assert set(seen.body) <= {
                "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"
            }  # fmt: skip

    def test_the_signature_is_that_of_the_reference_library(self) -> None:
        # Made with standardwebhooks 1.1.1 for JavaScript: new Webhook(secret).sign(id, new Date(1795380329000), body).
        key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        body = b'{"specversion":"1.0","id":"ev-5f3a"}'
        assert signed([key], "ev-5f3a", 1795380329, body) == {
            "webhook-id": "ev-5f3a",
            "webhook-timestamp": "1795380329",
            "webhook-signature": "v1,Kx11g0DvTDJk78lgwNqDZF1uqRpZwmwuxNsRW4vRjRg=",
        }

    def test_what_is_signed_is_what_arrives_and_every_key_signs(self, chat: Receiver, secret: Path) -> None:
        other = b"x" * 64
        secret.write_text(f"{SECRET}\nwhsec_{base64.b64encode(other).decode()}\n")
        (first, *_) = self.letters({"text": "é\u2028"})
        deliver(self.hook(chat, secret), first)
        (seen,) = chat.seen
        assert seen.headers["webhook-id"] == seen.body["id"]
        content = f"{seen.headers['webhook-id']}.{seen.headers['webhook-timestamp']}.".encode() + seen.raw
        signatures = [base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in (KEY, other)]
        assert seen.headers["webhook-signature"].split() == [f"v1,{each}" for each in signatures]

    def test_an_attempt_has_its_own_time_and_the_id_of_the_first(self, secret: Path, chat: Receiver) -> None:
        (first, *_) = self.letters({})
        hook = self.hook(chat, secret)
        one, two = hook.request(first, NOW), hook.request(first, NOW + timedelta(hours=1))
        assert one.headers["webhook-id"] == two.headers["webhook-id"]
        assert int(two.headers["webhook-timestamp"]) - int(one.headers["webhook-timestamp"]) == 3600
        assert one.body == two.body

    @pytest.mark.parametrize("text", ["", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_not/base64!", f"{SECRET}\nx"])
    def test_a_secret_that_is_none_is_told_without_being_shown(self, chat: Receiver, secret: Path, text: str) -> None:
        secret.write_text(text)
        (first, *_) = self.letters({})
        with pytest.raises(Unready, match="holds no signing secret") as refused:
            self.hook(chat, secret).request(first, NOW)
        assert "c2hvcnQ" not in str(refused.value)

    def test_a_receivers_words_are_not_kept(self, chat: Receiver, secret: Path) -> None:
        chat.always = Answer(500, body={"message": "the contents of some internal page"})
        (first, *_) = self.letters({})
        assert deliver(self.hook(chat, secret), first) == Reply(500)

    def test_a_private_address_is_not_talked_to_unless_that_is_allowed(self, chat: Receiver, secret: Path) -> None:
        (first, *_) = self.letters({})
        port = chat.url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254"):
            hook = Webhook("hook:chat", f"http://{host}:{port}/", secret)
            assert "private address" in deliver(hook, first, 5).said, host
        assert chat.seen == []
        assert deliver(self.hook(chat, secret), first).is_good

    def test_no_word_of_an_error_holds_the_address(self, secret: Path) -> None:
        (first, *_) = self.letters({})
        for url in ("http://127.0.0.1:1/s3cret-path", "http://argus.invalid/s3cret-path", "https://127.0.0.1:1/s3cret"):
            hook = Webhook("hook:chat", url, secret, allow_private=True)
            assert "s3cret" not in deliver(hook, first, 5).said + repr(hook)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("10.0.0.1", False),
        ("172.16.3.4", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:a00:1::1", False),
        ("ff02::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) == public
