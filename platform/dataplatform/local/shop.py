"""The simulated shop behind the marketplace: MongoDB collections that keep changing, with the dirt that real ones have.

Dirt: prices that are integers, decimals, doubles and text; telephone numbers once stored as numbers; thousands of free attribute
keys; field names that no SQL database takes; documents deleted and made again under the same `_id`; numbers and texts as `_id`
in one collection; dates before 1970; NaN. Payments are written in a transaction with their article and both accounts.
"""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from bson import Decimal128, Int64, ObjectId, Timestamp
from pymongo import InsertOne, MongoClient
from pymongo.errors import DuplicateKeyError, OperationFailure

from ..contracts.collections import CollectionContract, load_collections
from ..settings import Settings

DATABASE = "shop"
COLLECTIONS = ("articles", "users", "chats", "transactions", "reviews")
_WORDS = [
    "bicycle",
    "lamp",
    "camera",
    "chair",
    "table",
    "phone",
    "jacket",
    "guitar",
    "books",
    "stroller",
    "monitor",
    "desk",
    "tent",
    "skates",
    "자전거",
    "의자",
    "냉장고",
]
_CITIES = ("Seoul", "Busan", "Incheon", "Daegu", "Jeju")
_STATUS = ("on_sale", "reserved", "sold", "hidden")


@dataclass
class Shop:
    """A seeded sequence of changes to the shop's collections. Equal seeds make equal sequences, but for ObjectIds and times."""

    client: MongoClient[dict[str, Any]]
    seed: int = 1
    database: str = DATABASE
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.db = self.client[self.database]
        self.articles: list[ObjectId] = []
        self.users: list[Any] = []
        self.deleted: list[ObjectId] = []

    def fill(self, articles: int = 500, users: int = 100) -> None:
        """Make sure that the shop has something in it; documents that are there are taken up as they are."""
        self.users = [one["_id"] for one in self.db.users.find({}, {"_id": 1})]
        missing = users - len(self.users)
        if missing > 0:
            start = len(self.users)
            made = [self._user(start + number) for number in range(missing)]
            self.db.users.bulk_write([InsertOne(one) for one in made], ordered=False)
            self.users += [one["_id"] for one in made]
        self.articles = [one["_id"] for one in self.db.articles.find({}, {"_id": 1})]
        while len(self.articles) < articles:
            batch = [self._article() for _ in range(min(500, articles - len(self.articles)))]
            self.db.articles.insert_many(batch)
            self.articles += [one["_id"] for one in batch]

    def step(self) -> str:
        """Make one change, or one transaction of them; what it was."""
        what = self.rng.choices(
            ("view", "price", "article", "chat", "buy", "review", "user", "delete", "again", "dirt"),
            (30, 8, 10, 25, 8, 5, 6, 3, 2, 3),
        )[0]
        try:
            getattr(self, f"_do_{what}")()
        except (DuplicateKeyError, OperationFailure) as error:
            if not isinstance(error, DuplicateKeyError) and error.code not in (
                112,
                251,
                244,
            ):  # conflicts of transactions
                raise
            what = "conflict"
        self.counts[what] += 1
        return what

    def run(
        self, *, changes: int | None = None, per_second: float | None = None, stop: threading.Event | None = None
    ) -> int:
        """Make changes: so many, at most so many a second, until told to stop. How many were made."""
        stop = stop or threading.Event()
        made = 0
        started = time.monotonic()
        while not stop.is_set() and (changes is None or made < changes):
            self.step()
            made += 1
            if per_second is not None:
                stop.wait(max(0.0, started + made / per_second - time.monotonic()))
        return made

    # What happens.

    def _do_view(self) -> None:
        self.db.articles.update_one({"_id": self._any_article()}, {"$inc": {"views": 1}})

    def _do_price(self) -> None:
        self.db.articles.update_one(
            {"_id": self._any_article()}, {"$set": {"price": self._price(), "changed_at": datetime.now(UTC)}}
        )

    def _do_article(self) -> None:
        article = self._article()
        self.db.articles.insert_one(article)
        self.articles.append(article["_id"])

    def _do_chat(self) -> None:
        message = {"by": self.rng.choice(self.users), "text": self._text(6), "at": datetime.now(UTC)}
        if self.rng.random() < 0.1:
            message["photo"] = {
                "url": f"https://img.example/{self.rng.getrandbits(40):x}.jpg",
                "bytes": Int64(self.rng.getrandbits(33)),
            }
        self.db.chats.update_one(
            {"_id": {"article": self._any_article(), "buyer": self.rng.choice(self.users[:10])}},
            {"$push": {"messages": {"$each": [message], "$slice": -20}}, "$set": {"last_at": message["at"]}},
            upsert=True,
        )

    def _do_buy(self) -> None:
        article, buyer, seller = self._any_article(), *self.rng.sample(self.users, 2)
        amount = Decimal128(f"{self.rng.randrange(1, 90_000)}.{self.rng.randrange(100):02d}")
        with self.client.start_session() as session, session.start_transaction():
            self.db.transactions.insert_one(
                {
                    "article": article,
                    "buyer": buyer,
                    "seller": seller,
                    "amount": amount,
                    "fee": self.rng.choice([0, 0.5, Decimal128("0.25")]),
                    "at": datetime.now(UTC),
                    "state": "paid",
                },
                session=session,
            )
            self.db.articles.update_one({"_id": article}, {"$set": {"status": "sold"}}, session=session)
            self.db.users.update_one({"_id": buyer}, {"$inc": {"bought": 1}}, session=session)
            self.db.users.update_one({"_id": seller}, {"$inc": {"sold": 1}}, session=session)

    def _do_review(self) -> None:
        self.db.reviews.insert_one(
            {
                "article": self._any_article(),
                "by": self.rng.choice(self.users),
                "stars": self.rng.choice([1, 2, 3, 4, 5, "5", 4.5]),
                "manners": self.rng.sample(["kind", "on time", "quick answers"], self.rng.randrange(3)),
                "text": self._text(8),
            }
        )

    def _do_user(self) -> None:
        if self.rng.random() < 0.5:
            user = self._user(len(self.users))
            self.db.users.insert_one(user)
            self.users.append(user["_id"])
        else:
            manner = float("nan") if self.rng.random() < 0.05 else round(self.rng.uniform(20, 99), 1)
            self.db.users.update_one({"_id": self.rng.choice(self.users)}, {"$set": {"manner": manner}})

    def _do_delete(self) -> None:
        article = self._any_article()
        self.db.articles.delete_one({"_id": article})
        self.deleted.append(article)

    def _do_again(self) -> None:
        if self.deleted:
            article = self._article() | {"_id": self.deleted.pop(self.rng.randrange(len(self.deleted)))}
            self.db.articles.insert_one(article)

    def _do_dirt(self) -> None:
        dirt: dict[str, Any] = self.rng.choice(
            [
                {"price": "free"},
                {"price": None},
                {"region": [127.0, 37.5]},
                {"region": "Seoul"},
                {"$flag": True},
                {"source.system": "import"},
                {"Status": "SOLD"},
                {"views": Int64(2**40)},
                {"images": None},
            ]
        )
        article = self._article() | dirt
        self.db.articles.insert_one(article)
        self.articles.append(article["_id"])

    # What it is made of.

    def _any_article(self) -> ObjectId:
        """Mostly a young one."""
        back = min(len(self.articles) - 1, int(self.rng.expovariate(1 / 100)))
        return self.articles[-1 - back]

    def _article(self) -> dict[str, Any]:
        return {
            "_id": ObjectId(),
            "title": self._text(3),
            "description": self._text(20),
            "price": self._price(),
            "status": self.rng.choice(_STATUS),
            "seller": {"_id": self.rng.choice(self.users), "nickname": self._text(1)},
            "region": {"city": self.rng.choice(_CITIES), "at": {"lat": round(self.rng.uniform(33, 38), 5), "lng": 127}},
            "images": [
                {"url": f"https://img.example/{self.rng.getrandbits(40):x}.jpg", "width": 640, "height": 480}
                for _ in range(self.rng.randrange(4))
            ],
            "attributes": {f"attr_{self.rng.randrange(5000)}": self.rng.choice([1, "yes", 2.5]) for _ in range(3)},
            "views": 0,
            "created_at": datetime.now(UTC),
        }

    def _user(self, number: int) -> dict[str, Any]:
        born = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=self.rng.randrange(-15_000, 14_000))
        phone: Any = f"010-{self.rng.randrange(10_000):04d}-{self.rng.randrange(10_000):04d}"
        return {
            "_id": number if number % 10 else f"old-{number}",
            "nickname": self._text(1),
            "phone": phone if self.rng.random() < 0.9 else Int64(1_000_000_000 + number),
            "born_on": born,
            "joined_at": datetime.now(UTC),
            "manner": 36.5,
            "settings": {"push": self.rng.random() < 0.8, "radius_km": self.rng.choice([3, 5, 2.5])},
        }

    def _price(self) -> Any:
        amount = self.rng.randrange(1, 500) * 100
        return self.rng.choice([amount, amount, Int64(amount), Decimal128(f"{amount}.50"), float(amount)])

    def _text(self, words: int) -> str:
        return " ".join(self.rng.choices(_WORDS, k=words))


class Telling(Protocol):
    """What the demo gives a step."""

    settings: Settings

    def say(self, line: str = "") -> None: ...

    def check(self, name: str, holds: bool, detail: str = "") -> None: ...


@dataclass(frozen=True)
class Changed:
    """What was changed in the shop: told in words, and the source's time after the last of it (None: nothing)."""

    told: str
    reached: Timestamp | None = None


def change_collections(settings: Settings, *, articles: int = 400, changes: int = 1500) -> Changed:
    """Make changes in the shop's collections."""
    from ..cdc.connections import connect, operation_time

    contracts = shop_contracts(settings)
    if not contracts:
        return Changed("no collections of the shop are under contract")
    client = connect(settings, next(iter(contracts.values())).connection)
    try:
        shop = Shop(client, seed=int(time.time()))
        shop.fill(articles=articles)
        began = time.monotonic()
        shop.run(changes=changes)
        told = f"{changes:,} changes and transactions made in {time.monotonic() - began:.1f} s"
        return Changed(told, operation_time(client))
    finally:
        client.close()


def shop_contracts(settings: Settings) -> dict[str, CollectionContract]:
    """The contracts of the shop's collections by name."""
    contracts = load_collections(settings.schemas_dir).contracts
    return {name: one for name, one in contracts.items() if one.database == DATABASE}


def apply_collections(demo: Telling, reached: Timestamp, *, wait_seconds: float = 90.0) -> None:
    """A step of the demo: wait for the running capture to reach a time of the source, apply, and compare with the source."""
    from ..catch_up import definitions_of
    from ..cdc.hours import CollectionHours
    from ..cdc.reconcile import reconcile
    from ..cdc.status import status_of
    from ..runs import dagster_instance, execute

    settings = demo.settings
    contracts = shop_contracts(settings)
    hours = CollectionHours(settings, contracts)
    deadline = time.monotonic() + wait_seconds
    while time.monotonic() < deadline:
        states = hours.states()
        if states.keys() == contracts.keys() and all(
            unit.passed >= (reached.time, reached.inc) and one.snapshot is None for unit, one in states.values()
        ):
            break
        time.sleep(0.2)
    else:
        demo.check("the capture reached the last change", False, f"not within {wait_seconds:g} s")
        return
    until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    hours.close(until)
    with dagster_instance(settings) as instance:
        for piece in hours.due(until):
            outcome = execute(definitions_of(settings), instance, piece, hours.name)
            demo.say(f"  run {outcome.run_id[:8]} {'succeeded' if outcome.ok else 'failed'} in {outcome.seconds:.1f} s")
    demo.say(f"  {'collection':<20}{'documents':>10}{'changes':>10}{'columns':>9}{'left over':>11}{'lag':>8}")
    statuses = {one.collection: one for one in status_of(settings, contracts)}
    # Each waits until the capture has passed what it read of the source, which a quiet source lets it do now and then.
    with ThreadPoolExecutor(len(contracts)) as pool:
        compared = pool.map(lambda contract: reconcile(settings, hours, contract), contracts.values())
        reconciliations = dict(zip(contracts, compared, strict=True))
    for name in sorted(contracts):
        found, status = reconciliations[name], statuses[name]
        columns = len(hours.schema_of(name).fields)
        demo.say(
            f"  {name:<20}{found.table_documents:>10,}{status.changes:>10,}{columns:>9}{found.unmapped:>11,}"
            f"{status.lag_seconds or 0:>6.0f} s"
        )
        demo.check(f"{name} is what its source is", found.ok, f"{found.sampled} documents compared")
