"""HTTP: judges an event while a person waits.

`judge` decides (pure: catalogue, parameters, facts → decision), `answers` makes answers durable and repeatable, `bench` keeps
what is in force up to date, `service` puts these together, `http` is the door.
"""
