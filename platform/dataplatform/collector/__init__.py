"""The collector: takes events in over HTTP, says at once what is wrong with each, and answers when they are durable.

    connection → body (or segment) → door: judge → land → answer

`http.py` is the protocol, `bodies.py` and `segment.py` turn a request's body into events, `door.py` decides what happens
to them, `live_contracts.py` keeps the contracts current, `server.py` runs it all.
"""
