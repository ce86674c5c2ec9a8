"""What should run, what runs, and how the one becomes the other.

Five nouns. The **spec repository** is a git repository, the only statement of what should run: one file a model,
`users/<user_id>/<suffix>.yaml`. A **model** is such a file with an identity that its commit gives it. The **ledger**
is a database of what was done and seen. The **runtime** is one Ray Serve application with a deployment a model; users
reach it through a **front**. An **event** is something that happened to a model, with the commit that caused it.

The loop (`loop.Reconciler.reconcile_once`) reads the repository, observes the runtime, decides, applies and records.
It is level-triggered: any pass from any state gives the same plan, so what was interrupted is finished by the next.

What may import what: `__main__ -> front -> (loop | shell) -> ports -> core -> spec -> (names | errors | ...)`. `core`
is pure: no input or output, no clock, no randomness, no logging. `shell` acts and does not decide. `front` is HAProxy
and the process beside it. Only the modules of `shell` that `pyproject.toml` lists import ray.
"""
