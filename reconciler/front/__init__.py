"""The front: HAProxy on the OpenAI port, and the router process that drives it.

    client -> HAProxy -> a replica's own HTTP server        a request that names a model which answers
                 |-----> desk                               lists, refusals, whatever no model answers
                 |-----> bodies -> HAProxy (inner) -> ...   a request whose body is longer than a buffer

Three processes, each of which may die and come back alone:

- **HAProxy** (`config`) holds every stream. It finds the model's name in the body, the model's slot in a map, and the
  least busy replica among the slot's servers. It starts from files alone, with the last table that was known.
- **bodies** is a second HAProxy with buffers as large as the longest body. It does nothing but name the model of a
  long request, and hands it back to the first (`inner`). While it is away the desk does the same, slower.
- **The router** (`router`) is rounds, a desk and figures. Each round (`driver`) reads the routing table from the board,
  gives each model that answers a slot (`slots`), writes both down (`state`), finds the steps from what HAProxy holds to
  what it should hold (`sync`) and takes them over the admin socket (`admin`). The **desk** (`desk`) answers; what is a
  model's all the same it passes on (`relay`). The figures (`metrics`) are for Prometheus; `listening` and `asgi` serve.

The files lie in `<home>/front` (`files`), readable by their owner alone: they hold the secret that replicas know fronts
by. `slots`, `sync` and the rendering in `config` and `metrics` are pure. Nothing here knows Ray, git or the loop.
"""
