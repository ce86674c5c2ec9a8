"""The live API against its own OpenAPI document, operation by operation, with requests that Schemathesis makes up."""

from __future__ import annotations

import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks

from tests.webapi.client import HOOK_SECRET, MODELS, SPEC, Api
from webapi.openapi import SPEC_EXAMPLE

OPERATIONS = {
    "read_health", "read_readiness", "read_status",
    "create_user", "list_users", "issue_token", "list_tokens", "revoke_token",
    "write_model", "list_models", "read_model", "patch_model", "delete_model", "roll_model_back",
    "list_model_history", "read_logs", "plan_change", "list_commits", "read_commit",
    "list_removals", "allow_removals", "override_freeze", "suspend_models", "resume_models",
    "list_outbox", "retry_announcement",
    "receive_push",
}  # fmt: skip
OPEN = {"read_health", "read_readiness"}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_the_live_api_keeps_what_its_document_says(api: Api, name: str) -> None:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", api.app)
    rejection = schema.config.checks.negative_data_rejection
    # A condition is looked at before a body, and so is a body's size: one with too many commits may be too large.
    rejection.expected_statuses = [*rejection.expected_statuses, "412", "413"]
    operation = schema.find_operation_by_id(name)
    # What a valid request may ask for, the document cannot say in full (folders, cursors): a 4xx is no violation then.
    beyond = [checks.CHECKS.get_one("positive_data_acceptance")]

    of_a_user = any(word in name for word in ("model", "logs", "change", "commit"))
    headers = {"Authorization": f"Bearer {api.token('alice' if of_a_user else 'admin')}"}
    if name == "receive_push":
        headers = {"X-Gitlab-Token": HOOK_SECRET}
        # One proof of several will do: one that is made up beside it opens nothing and closes nothing.
        beyond.append(checks.CHECKS.get_one("ignored_auth"))

    @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=_requests(api, operation))
    def check(case: Any) -> None:
        case.call_and_validate(headers=headers, excluded_checks=beyond)

    check()


def _requests(api: Api, operation: Any) -> st.SearchStrategy[Any]:
    """Give requests that fit the document and some that do not, on things that are there and on others."""
    there = {
        "user_id": "alice",
        "token_id": api.token("alice").split("_")[1],
        "model_key": api.created(),
        "sha": api.head(),
        "announcement_id": "st-1",
    }
    named = {parameter.name: there[parameter.name] for parameter in operation.path_parameters}
    kinds = [operation.as_strategy(), operation.as_strategy(path_parameters=named or None)]
    if operation.body or operation.query:
        kinds.append(operation.as_strategy(GenerationMode.NEGATIVE, path_parameters=named or None))
    if operation.definition.raw["operationId"] == "write_model":
        kinds[0] = kinds[0].map(_of_a_folder_that_is_allowed)
    if operation.definition.raw["operationId"] == "read_commit":
        kinds[:2] = [kind.map(_without_waiting) for kind in kinds[:2]]
    return st.one_of(*kinds)


def _of_a_folder_that_is_allowed(case: Any) -> Any:
    """Make a spec acceptable where the document cannot say what that is."""
    if isinstance(case.body, dict):
        case.body["model_source"] = "$HOME/common/hf/demo"
        case.query = {}
    return case


def _without_waiting(case: Any) -> Any:
    """Ask for an answer at once: nobody is there to judge the commit."""
    case.query = {**(case.query or {}), "wait": 0}
    return case


def test_the_document_is_openapi_31_and_names_every_operation(api: Api) -> None:
    document = api.get("/openapi.json", None)
    assert re.match(r"3\.1\.", document["openapi"])
    operations = {
        operation["operationId"]: operation for address in document["paths"].values() for operation in address.values()
    }
    assert set(operations) == OPERATIONS
    assert all("security" in operation for name, operation in operations.items() if name not in OPEN)
    routes = {rule.endpoint.split(".")[1] for rule in api.app.url_map.iter_rules() if rule.rule.startswith("/api")}
    assert routes == OPERATIONS


def test_every_reference_in_the_document_leads_somewhere(api: Api) -> None:
    answer = api.call("GET", "/openapi.json", None)
    there = set(answer.json["components"]["schemas"])
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', answer.text)) <= there


def test_the_document_describes_the_yaml_body_with_an_example_that_is_accepted(api: Api) -> None:
    body = api.get("/openapi.json", None)["paths"][MODELS]["post"]["requestBody"]["content"]
    assert set(body) == {"application/yaml", "application/x-yaml", "text/yaml", "application/json"}
    assert body["application/yaml"]["example"] == SPEC_EXAMPLE
    assert api.post(SPEC_EXAMPLE).status_code == 202


def test_every_answer_that_is_an_error_is_described_with_the_one_body(api: Api) -> None:
    for address in api.get("/openapi.json", None)["paths"].values():
        for operation in address.values():
            errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
            if operation["operationId"] == "read_readiness":
                del errors["503"]  # no error, but what was asked for: it has the form of the good answer
            assert {"500"} <= set(errors)
            for answer in errors.values():
                assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")


def test_the_page_for_people_needs_nothing_from_the_network(api: Api) -> None:
    assert api.call("GET", "/", None).headers["Location"] == "/docs"
    page = api.call("GET", "/docs", None)
    assert page.mimetype == "text/html"
    needed = re.findall(r'(?:src|href|url)(?:=|: )"([^"]+)"', page.text)
    assert len(needed) >= 3
    for address in needed:
        assert address.startswith("/")
        answer = api.call("GET", address, None)
        assert answer.status_code == 200, address
        assert len(answer.data) > 100


def test_the_key_of_a_model_reads_like_the_document_says(api: Api) -> None:
    assert re.fullmatch(r"svc-alice-\d{8}-\d{6}-[0-9a-f]{4,}", api.created(SPEC))
