"""`dataplatform cdc …`: capture, status, snapshots, reconciliation, repair."""

import logging
import signal
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import msgspec

from ..contracts.collections import CollectionContract, Collections, load_collections_leniently
from ..errors import PlatformError
from ..settings import Settings, get_settings
from ..times import Time


@click.group()
def cdc() -> None:
    """Change data capture from MongoDB."""


@cdc.command()
@click.option(
    "--once", is_flag=True, help="Take what there is (snapshots of new collections, the stream up to now), then end."
)
@click.option(
    "--until", type=Time(), help="Capture up to this time of the source (UTC unless it says otherwise), then end."
)
@click.option("--connection", help="Only this connection.")
@click.option(
    "--standby", is_flag=True, help="Wait for connections that another capture has, and take them over when it ends."
)
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="Serve /metrics on this port of 127.0.0.1.")
def capture(
    once: bool, until: datetime | None, connection: str | None, standby: bool, metrics_port: int | None
) -> None:
    """Read change streams and land what changed."""
    from .service import capture_always, capture_once

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    settings = get_settings()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if metrics_port is not None:
        _serve_metrics(settings, metrics_port)
    if once or until is not None:
        for name, state in sorted(capture_once(settings, _say, connection=connection, until=until, stop=stop).items()):
            rows = sum(one.ended[-1].rows for one in state.collections.values() if one.ended)
            click.echo(
                f"{name}: {state.changes} changes and {rows} snapshot rows landed, up to {state.passed_at:%Y-%m-%d %H:%M:%S} UTC"
            )
        return
    capture_always(settings, _say, connection=connection, standby=standby, stop=stop)


@cdc.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def status(as_json: bool) -> None:
    """How far every collection is."""
    from .status import status_of

    settings = get_settings()
    found = status_of(settings, _collections(settings).contracts)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    if not found:
        click.echo(f"no collections: {settings.schemas_dir / 'collections'} has no contracts")
    for one in found:
        lag = "-"
        if one.lag_seconds is not None:
            lag = f"landed {one.lag_seconds:.0f} s behind, in the tables {one.table_lag_seconds:.0f} s"
        left = "" if one.oplog_seconds_left is None else f", {one.oplog_seconds_left / 3600:.1f} h of oplog left"
        through = "" if one.complete_through is None else f", complete to {one.complete_through:%Y-%m-%d %H:%M}"
        rate = "" if one.changes_per_second is None else f", {one.changes_per_second:.0f} a second"
        at = "" if one.position is None else f" up to {one.position}"
        click.echo(f"{one.collection:<28} {one.state:<12} {lag}{left}{through}, {one.changes} changes{at}{rate}")
        if one.snapshot is not None:
            rest = one.snapshot["seconds_left"]
            click.echo(
                f"    snapshot {one.snapshot['generation']} ({one.snapshot['reason']}): {one.snapshot['rows']} of about "
                f"{one.snapshot['estimated_rows']} documents" + (f", {rest:.0f} s left" if rest is not None else "")
            )
        if one.missing_at_source:
            click.echo("    the source has no such collection: check its contract, or create it")
        for lost in one.lost[-1:]:
            click.echo(f"    changes from {lost['after']} to {lost['until']} were lost at the source; read again since")
        if one.conflicts:
            click.echo(f"    {one.conflicts} schema conflicts: see mongo_raw.schema_changes")


@cdc.command()
@click.argument("collection")
@click.option("--reason", default="requested", help="Kept with the snapshot.")
def resnapshot(collection: str, reason: str) -> None:
    """Read COLLECTION (database.collection) again, beside its table, and swap when all is there."""
    from .state import request_snapshot

    settings = get_settings()
    contract = _contract(settings, collection)
    asked = request_snapshot(settings, contract, reason)
    click.echo(
        f"asked for a new snapshot of {collection} at {asked:%Y-%m-%d %H:%M:%S} UTC; the capture begins it within seconds,"
        " or when it next runs; see `dataplatform cdc status`"
    )


@cdc.command()
@click.argument("collection")
@click.option("--everything", is_flag=True, help="Compare every document, not a sample.")
def reconcile(collection: str, everything: bool) -> None:
    """Compare COLLECTION with its tables; exit status 1 where they differ, 3 where no capture reached what was read."""
    from .hours import CollectionHours
    from .reconcile import NotReachedError
    from .reconcile import reconcile as compare

    settings = get_settings()
    contract = _contract(settings, collection)
    _must_have_tables(settings, contract)
    hours = CollectionHours(settings, _collections(settings).contracts)
    try:
        result = compare(settings, hours, contract, everything=everything)
    except NotReachedError as error:
        click.echo(str(error), err=True)
        raise SystemExit(3) from error
    click.echo(
        f"{collection}: {result.source_documents} documents at the source, {result.table_documents} in the table, "
        f"{result.sampled} compared ({result.moved_on} have changed since)"
    )
    for label, theirs, ours, flying in result.counts:
        click.echo(f"    {label}: {theirs} at the source, {ours} in the table ({flying} changes on their way)")
    for difference in result.differences[:100]:
        click.echo(f"    {difference.kind}: {difference.key}")
    if result.typed_behind:
        click.echo(f"    {result.typed_behind} rows of the typed table are not those of the raw one")
    if not result.ok:
        click.echo(f"run `dataplatform cdc repair {collection}`")
        raise SystemExit(1)


@cdc.command()
@click.argument("collection")
@click.option("--key", "keys", multiple=True, help="Extended JSON of an _id; without it all that differ.")
def repair(collection: str, keys: tuple[str, ...]) -> None:
    """Read the documents of COLLECTION that differ again, and land them as corrections."""
    from .hours import CollectionHours
    from .reconcile import reconcile as compare
    from .reconcile import repair as correct

    settings = get_settings()
    contract = _contract(settings, collection)
    hours = CollectionHours(settings, _collections(settings).contracts)
    keys = tuple(_key(key) for key in keys)
    if not keys:
        _must_have_tables(settings, contract)
        keys = tuple(one.key for one in compare(settings, hours, contract, everything=True).differences)
    if not keys:
        click.echo(f"{collection}: nothing differs")
        return
    file, count = correct(settings, hours, contract, keys)
    click.echo(f"{collection}: {count} corrections landed in {file}; `dataplatform catch-up` applies them")


@cdc.command("as-of")
@click.argument("collection")
@click.argument("key")
@click.option("--at", type=Time(), help="The time (UTC unless it says otherwise); default now.")
def as_of(collection: str, key: str, at: datetime | None) -> None:
    """The document of COLLECTION with this KEY (Extended JSON of its _id) at a time, replayed from its kept changes.

    Says on standard error where the document may hold later changes, or lack some; exit status 1 where there was none.
    """
    from .hours import CollectionHours

    settings = get_settings()
    contract = _contract(settings, collection)
    key = _key(key)
    _must_have_tables(settings, contract)
    at = at or datetime.now(UTC)
    found = None
    for moment in CollectionHours(settings, {collection: contract}).moments(collection, key):
        if datetime.fromisoformat(moment.changed_at) <= at:
            found = moment
    if found is None or found.document is None:
        since = "its history, as far as it is kept, begins later" if found is None else "it was deleted"
        click.echo(f"no document {key} at {at:%Y-%m-%d %H:%M:%S} UTC: {since}", err=True)
        raise SystemExit(1)
    click.echo(found.document)
    if not found.exact:
        click.echo(
            "not exact: it was looked up after its change, and no earlier state is kept to replay from", err=True
        )


@cdc.command("import")
@click.option("--connection", required=True, help="The connection whose capture the other engine is.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_(connection: str, files: tuple[Path, ...]) -> None:
    """Land FILES of Debezium's or Flink CDC's MongoDB envelopes, one message a line, in their order."""
    from .envelopes import import_envelopes

    settings = get_settings()
    for name, count in sorted(import_envelopes(settings, _collections(settings).contracts, connection, files).items()):
        click.echo(f"{name}: {count} records landed")


def _serve_metrics(settings: Settings, port: int) -> None:
    from .status import metrics_text, status_of

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = 404, ""
            if self.path == "/metrics":
                try:
                    contracts = load_collections_leniently(settings.schemas_dir)[0].contracts
                    status, body = 200, metrics_text(status_of(settings, contracts))
                except PlatformError as error:
                    status, body = 500, f"{error}\n"
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise PlatformError(
            f"cannot listen on it: {error.strerror}", where=f"127.0.0.1:{port}", fix="give a free port"
        ) from None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def _collections(settings: Settings) -> Collections:
    collections, problems = load_collections_leniently(settings.schemas_dir)
    for problem in problems:
        click.echo(str(problem), err=True)
    return collections


def _contract(settings: Settings, name: str) -> CollectionContract:
    contracts = _collections(settings).contracts
    if name not in contracts:
        raise PlatformError(
            f"no contract of `{name}`",
            where=str(settings.schemas_dir / "collections"),
            fix=f"the collections are {', '.join(sorted(contracts)) or 'none'}",
        )
    return contracts[name]


def _must_have_tables(settings: Settings, contract: CollectionContract) -> None:
    from .state import landing_of, read_applied

    if read_applied(landing_of(settings, contract)) is None:
        raise PlatformError(
            f"no hour of {contract.namespace} has been applied, so there are no tables yet",
            where=settings.dataset_prefix + "mongo_raw",
            fix="let `dataplatform cdc capture` run, then `dataplatform catch-up`; `dataplatform cdc status` says how far they are",
        )


def _key(text: str) -> str:
    """The canonical text of a key that a person wrote."""
    from .extended_json import canonical, parse

    try:
        return canonical(parse(text))
    except ValueError as error:
        raise PlatformError(
            f"not Extended JSON: {error}", where=text, fix='write an _id such as \'{"$oid":"…"}\' or \'"text"\''
        ) from None


def _say(line: str) -> None:
    click.echo(line, err=True)
