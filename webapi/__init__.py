"""The management API: HTTP, and nothing that is not HTTP.

It writes what is wanted into the spec repository (one request, at most one commit) and shows it joined with what the
ledger says was done and seen. It never talks to Ray, decides nothing and writes no event (`planning` shows what the
reconciler would decide); a nudge in the ledger asks the reconciler for a pass.

`app` puts it together. One blueprint a resource: `users`, `models`, `history`, `rollback`, `planning`, `logs`,
`status`, `health`, `readiness`, and `docs` for the OpenAPI document. `model_schemas`, `user_schemas` and so on hold
what goes over the wire, `schemas` what they have in common, `views` how git and ledger become it (pure), `problems`
what every error looks like, `auth` who is asking, `bodies` how bodies are read, `conditions` what `If-Match` asks,
`patching` and `yamltext` how a person's YAML is changed, `store` how a commit is made, `commit_objects` what it is made
of, `identities` under which keys and names history is read, `diffs` how a commit is shown.
"""
