"""The front door: the command line, and `argus up`, which starts and supervises the platform's processes.

It holds no rules of its own: what should run and what is allowed is the reconciler's and the API's matter. They are met
through their commands, over HTTP, and, where there is no platform, by calling the very functions that decide. Nobody
imports this package.

    cli             the commands and what they print when the configuration is wrong
    up, down        the order in which things start and stop
    supervisor      children: started, restarted with backoff (`backoff`, pure), stopped, adopted, left to nobody
    processes       who a process is (pid and start time) and which processes belong to the platform
    ray_head        the embedded Ray: its command, ports, folder and token
    home            the state folder: its layout, its lock, the notes in run/
    commands        how the API, the reconciler and the demo model's building are started
    demo, client    the demo model through the API, as any user would do it
    remote          commands that speak to an API anywhere: server, token, model; `logs` is one of them
    waiting         waiting for something while looking after signals and children
    offline         the commands for spec repositories and code hosts' jobs, which need no platform here:
                    validate (reports: its formats), plan (planning, plan_text), comment (comments), schema
    console, ready  progress lines, and what is said in the end
"""
