"""What users see of the platform while it changes and while parts of it are broken on purpose.

    .venv/bin/python -m faults [--list] [--clients 8] [NAME...]

A real platform with real engines on the CPU, and clients that stream from one model all the time. Each act does one
thing, waits until what runs is what is wanted again, and has its expectation beside it; the command fails when one is
missed. Bounded: an act that does not heal within its limit is a failure.
"""
