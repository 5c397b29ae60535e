"""The roundup adapter against a real Roundup tracker."""

import secrets
import socket
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from pydantic import JsonValue, SecretStr

from examples.demo.tracker import Tracker, prepare, seed
from toolgate.adapter import (
    AnyOperation,
    CannotTell,
    Credential,
    Found,
    NotFound,
    NothingDone,
    OutcomeUnknown,
    System,
)
from toolgate.testing import Tried, try_look_up, try_operation
from toolgate_adapters.roundup import change, comment, create, read, roundup, search

pytestmark = pytest.mark.anyio

PASSWORD = "a-password-for-tests"
SEEDED = 40


@dataclass(frozen=True)
class Desk:
    """A tracker, as an operation is tried on it."""

    tracker: Tracker
    system: System

    async def run(
        self,
        operation: AnyOperation,
        arguments: Mapping[str, JsonValue],
        *,
        key: str = "",
        remembered: Mapping[str, JsonValue] | None = None,
        tried: Tried | None = None,
    ) -> Tried:
        return await try_operation(
            roundup,
            operation,
            arguments,
            system=self.system,
            credential=credential(self.tracker.agent_credential),
            idempotency_key=key or a_key(),
            remembered=remembered,
            tried=tried,
        )

    async def look_up(
        self,
        operation: AnyOperation,
        arguments: Mapping[str, JsonValue],
        *,
        key: str,
        remembered: Mapping[str, JsonValue] | None = None,
    ) -> Found[Any] | NotFound | CannotTell:
        return await try_look_up(
            roundup,
            operation,
            arguments,
            system=self.system,
            credential=credential(self.tracker.agent_credential),
            idempotency_key=key,
            remembered=remembered,
        )

    async def ticket(self, number: JsonValue) -> dict[str, Any]:
        return (await self.run(read, {"id": number})).value

    async def titled(self, title: str) -> int:
        """How many tickets have this title."""
        total = (await self.run(search, {"text": title})).value["total"]
        assert isinstance(total, int)
        return total

    def as_agent(self) -> httpx.Client:
        """A client of the agent's own, beside the adapter."""
        user, _, password = self.tracker.agent_credential.partition(":")
        site = self.tracker.base_url.removesuffix("rest/data/")
        headers = {"X-Requested-With": "rest", "Origin": site.rstrip("/"), "Referer": site}
        return httpx.Client(
            base_url=self.tracker.base_url, auth=(user, password), headers=headers, trust_env=False
        )


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Generator[Desk]:
    folder = tmp_path_factory.mktemp("roundup") / "tracker"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    prepare(folder, port, PASSWORD)
    seed(folder, SEEDED)
    with Tracker(folder, port, PASSWORD) as tracker:
        options: dict[str, JsonValue] = {"base_url": tracker.base_url}
        yield Desk(tracker, System(name="tickets", root=Path(), options=options, tools={}))


def credential(secret: str) -> Credential:
    return Credential(secret=SecretStr(secret), sign_in="basic")


def a_key() -> str:
    return f"c-{secrets.token_hex(8)}"


def a_title() -> str:
    return f"Scanner {secrets.token_hex(6)} is stuck"


def a_ticket(**more: JsonValue) -> dict[str, JsonValue]:
    return {"title": a_title(), "description": "It has not moved since Monday.", **more}


async def test_a_search_without_words_counts_every_ticket_and_lists_no_more_than_asked(
    desk: Desk,
) -> None:
    found = (await desk.run(search, {"limit": 7})).value
    assert isinstance(found["tickets"], list)
    assert isinstance(found["total"], int)
    assert len(found["tickets"]) == 7
    assert found["total"] >= SEEDED


async def test_a_search_finds_titles_with_all_the_words_in_any_case_and_order(desk: Desk) -> None:
    new = a_ticket()
    made = (await desk.run(create, new)).value
    words = str(new["title"]).upper().split()
    found = (await desk.run(search, {"text": " ".join(reversed(words))})).value
    assert found["total"] == 1
    assert found["tickets"] == [
        {
            "id": made["id"],
            "title": new["title"],
            "status": "unread",
            "priority": None,
            "assigned_to": None,
            "updated": (await desk.ticket(made["id"]))["updated"],
        }
    ]


async def test_a_search_lists_the_last_changed_ticket_first(desk: Desk) -> None:
    for ticket in (3, 2):
        await desk.run(comment, {"id": ticket, "text": "Still the case."})
    rows: Any = (await desk.run(search, {"limit": 2})).value["tickets"]
    assert [row["id"] for row in rows] == [2, 3]


async def test_a_search_takes_names_of_status_priority_and_user(desk: Desk) -> None:
    wanted: dict[str, JsonValue] = {"status": "resolved", "priority": "bug", "limit": 100}
    rows: Any = (await desk.run(search, wanted)).value["tickets"]
    assert rows
    assert {(row["status"], row["priority"]) for row in rows} == {("resolved", "bug")}
    theirs: Any = (await desk.run(search, {"assigned_to": "priya.nair"})).value["tickets"]
    assert theirs
    assert {row["assigned_to"] for row in theirs} == {"priya.nair"}


async def test_a_search_for_a_user_who_does_not_exist_says_so(desk: Desk) -> None:
    with pytest.raises(NothingDone) as refused:
        await desk.run(search, {"assigned_to": "nobody.here"})
    assert refused.value.code == "bad_value"


async def test_a_percent_sign_in_a_search_is_only_a_percent_sign(desk: Desk) -> None:
    assert await desk.titled("%") == 0


async def test_a_ticket_is_read_with_its_messages_and_its_etag(desk: Desk) -> None:
    new = a_ticket(priority="urgent")
    made = (await desk.run(create, new)).value
    ticket = await desk.ticket(made["id"])
    assert ticket["title"] == new["title"]
    assert (ticket["status"], ticket["priority"]) == ("unread", "urgent")
    assert ticket["reporter"] == "toolgate-agent"
    assert ticket["etag"] == made["etag"]
    assert ticket["url"] == made["url"]
    (message,) = ticket["messages"]
    assert (message["author"], message["text"]) == ("toolgate-agent", new["description"])
    assert str(message["date"]).endswith("Z")


async def test_of_many_and_long_messages_the_latest_are_shown_shortened(desk: Desk) -> None:
    made = (await desk.run(create, a_ticket())).value
    for number in range(20):
        text = f"{number} " + "long " * 1000
        await desk.run(comment, {"id": made["id"], "text": text})
    ticket = await desk.ticket(made["id"])
    assert ticket["earlier_messages"] == 1
    assert [message["text"].split()[0] for message in ticket["messages"]] == [
        str(number) for number in range(20)
    ]
    assert {len(message["text"]) for message in ticket["messages"]} == {4000}
    assert all(message["shortened"] for message in ticket["messages"])


async def test_a_ticket_without_messages_and_fields_can_be_read(desk: Desk) -> None:
    with desk.as_agent() as client:
        bare = client.post("issue", json={"title": "bare"}).json()["data"]["id"]
    ticket = await desk.ticket(int(bare))
    assert (ticket["messages"], ticket["priority"], ticket["assigned_to"]) == ([], None, None)


@pytest.mark.parametrize("operation", [read, comment, change])
async def test_a_ticket_that_does_not_exist_is_not_found(desk: Desk, operation: AnyOperation) -> None:
    more: dict[str, dict[str, JsonValue]] = {
        "read": {},
        "comment": {"text": "hello"},
        "change": {"etag": "0" * 32, "title": "another"},
    }
    with pytest.raises(NothingDone) as refused:
        await desk.run(operation, {"id": 999_999, **more[operation.name]})
    assert refused.value.code == "not_found"


async def test_a_wrong_password_is_a_refused_sign_in(desk: Desk) -> None:
    tried = Tried()
    with pytest.raises(NothingDone) as refused:
        await try_operation(
            roundup,
            create,
            a_ticket(),
            system=desk.system,
            credential=credential("toolgate-agent:wrong"),
            tried=tried,
        )
    assert refused.value.code == "upstream_sign_in"
    assert tried.sends == 0


async def test_opening_a_ticket_counts_as_one_send_and_gives_the_page_for_people(desk: Desk) -> None:
    tried = await desk.run(create, a_ticket())
    assert tried.sends == 1
    with desk.as_agent() as client:
        page = client.get(str(tried.value["url"]))
    assert page.status_code == 200
    assert "It has not moved since Monday." in page.text


@pytest.mark.parametrize("field", ["status", "priority"])
async def test_a_name_that_does_not_exist_is_answered_with_those_that_do(desk: Desk, field: str) -> None:
    made = (await desk.run(create, a_ticket())).value
    tried = Tried()
    wrong: dict[str, JsonValue] = {"id": made["id"], "etag": made["etag"], field: "asap"}
    with pytest.raises(NothingDone) as refused:
        await desk.run(change, wrong, tried=tried)
    assert refused.value.code == "bad_value"
    assert {"status": "in-progress", "priority": "wish"}[field] in refused.value.message
    assert tried.sends == 0


async def test_a_new_ticket_with_a_wrong_priority_is_not_opened(desk: Desk) -> None:
    new, tried = a_ticket(priority="asap"), Tried()
    with pytest.raises(NothingDone) as refused:
        await desk.run(create, new, tried=tried)
    assert refused.value.code == "bad_value"
    assert tried.sends == 0
    assert await desk.titled(str(new["title"])) == 0


async def test_a_change_takes_effect_and_gives_the_new_etag(desk: Desk) -> None:
    made = (await desk.run(create, a_ticket())).value
    title = a_title()
    wanted = {"title": title, "status": "in-progress", "priority": "critical"}
    changed = await desk.run(change, {"id": made["id"], "etag": made["etag"], **wanted})
    assert changed.sends == 1
    ticket = await desk.ticket(made["id"])
    assert {name: ticket[name] for name in wanted} == wanted
    assert ticket["etag"] == changed.value["etag"] != made["etag"]


async def test_a_change_of_a_version_that_is_no_more_is_a_conflict_and_changes_nothing(
    desk: Desk,
) -> None:
    made = (await desk.run(create, a_ticket())).value
    await desk.run(change, {"id": made["id"], "etag": made["etag"], "status": "testing"})
    before = await desk.ticket(made["id"])
    with pytest.raises(NothingDone) as refused:
        await desk.run(change, {"id": made["id"], "etag": made["etag"], "title": a_title()})
    assert refused.value.code == "conflict"
    assert "read it again" in refused.value.message
    assert await desk.ticket(made["id"]) == before


async def test_a_change_of_nothing_is_refused(desk: Desk) -> None:
    with pytest.raises(NothingDone) as refused:
        await desk.run(change, {"id": 1, "etag": "0" * 32})
    assert refused.value.code == "bad_arguments"


async def test_a_comment_stands_last_on_the_ticket(desk: Desk) -> None:
    made = (await desk.run(create, a_ticket())).value
    text = "Grüße!\n\n> quoted\n<b>not markup</b> & 100 %"
    tried = await desk.run(comment, {"id": made["id"], "text": text})
    ticket = await desk.ticket(made["id"])
    assert [message["text"] for message in ticket["messages"]][1:] == [text]
    assert ticket["etag"] == tried.value["etag"]
    assert tried.sends == 1


async def test_comments_of_several_callers_at_one_time_are_all_kept(desk: Desk) -> None:
    made = (await desk.run(create, a_ticket())).value
    texts = {f"Number {number}." for number in range(4)}
    async with anyio.create_task_group() as together:
        for text in texts:
            together.start_soon(desk.run, comment, {"id": made["id"], "text": text})
    kept = [message["text"] for message in (await desk.ticket(made["id"]))["messages"][1:]]
    assert sorted(kept) == sorted(texts)


async def test_the_look_up_of_an_opened_ticket_finds_it(desk: Desk) -> None:
    key, new = a_key(), a_ticket()
    tried = await desk.run(create, new, key=key)
    found = await desk.look_up(create, new, key=key, remembered=tried.remembered)
    assert isinstance(found, Found)
    assert found.value.model_dump() == tried.value


async def test_the_look_up_of_a_ticket_that_was_never_sent_finds_nothing(desk: Desk) -> None:
    assert await desk.look_up(create, a_ticket(), key=a_key()) == NotFound()


async def test_while_the_send_may_be_under_way_the_look_up_cannot_tell(desk: Desk) -> None:
    new = a_ticket()
    remembered = (await desk.run(create, new)).remembered
    answer = await desk.look_up(create, new, key=a_key(), remembered=remembered)
    assert isinstance(answer, CannotTell)


async def test_once_no_send_can_arrive_any_more_the_look_up_finds_nothing(desk: Desk) -> None:
    new = a_ticket()
    remembered = (await desk.run(create, new)).remembered | {"until": 1.0}
    assert await desk.look_up(create, new, key=a_key(), remembered=remembered) == NotFound()


@pytest.mark.parametrize("link", ["spent", "lapsed"])
async def test_a_second_attempt_after_an_effect_gives_the_ticket_and_opens_no_other(
    desk: Desk, link: str
) -> None:
    key, new = a_key(), a_ticket()
    first = await desk.run(create, new, key=key)
    until = {"spent": first.remembered["until"], "lapsed": 1.0}[link]
    again = first.remembered | {"until": until}
    second = await desk.run(create, new, key=key, remembered=again)
    assert second.value == first.value
    assert await desk.titled(str(new["title"])) == 1


async def test_a_second_attempt_uses_the_link_that_the_first_did_not(desk: Desk) -> None:
    with desk.as_agent() as client:
        link = client.post("issue/@poe", json={}).json()["data"]["link"]
        message = made_message(client)
    remembered: dict[str, JsonValue] = {
        "message": message,
        "token": link.rpartition("/")[2],
        "until": 1e12,
    }
    tried = await desk.run(create, a_ticket(), remembered=remembered)
    ticket = await desk.ticket(tried.value["id"])
    assert [known["text"] for known in ticket["messages"]] == ["kept"]
    with desk.as_agent() as client:
        assert client.post(link, json={"title": "again"}).status_code == 400


async def test_a_second_attempt_gets_a_new_link_when_the_first_has_lapsed(desk: Desk) -> None:
    with desk.as_agent() as client:
        message = made_message(client)
    remembered: dict[str, JsonValue] = {"message": message, "until": 1.0}
    tried = await desk.run(create, a_ticket(), remembered=remembered)
    ticket = await desk.ticket(tried.value["id"])
    assert [known["text"] for known in ticket["messages"]] == ["kept"]
    assert tried.remembered["token"]


async def test_a_used_link_whose_ticket_is_not_to_be_seen_opens_no_other(desk: Desk) -> None:
    new = a_ticket()
    used = (await desk.run(create, new)).remembered
    with pytest.raises(OutcomeUnknown):
        await desk.run(create, new, remembered=used)
    assert await desk.titled(str(new["title"])) == 1


async def test_the_look_up_of_a_comment_finds_it_on_its_ticket_only(desk: Desk) -> None:
    key = a_key()
    ours, other = [(await desk.run(create, a_ticket())).value["id"] for _ in range(2)]
    tried = await desk.run(comment, {"id": ours, "text": "Here."}, key=key)
    found = await desk.look_up(comment, {"id": ours, "text": "Here."}, key=key)
    assert isinstance(found, Found)
    assert found.value.model_dump() == tried.value
    assert await desk.look_up(comment, {"id": other, "text": "Here."}, key=key) == NotFound()


async def test_the_look_up_of_a_comment_that_was_never_sent_finds_nothing(desk: Desk) -> None:
    made = (await desk.run(create, a_ticket())).value
    asked: dict[str, JsonValue] = {"id": made["id"], "text": "Nowhere."}
    assert await desk.look_up(comment, asked, key=a_key()) == NotFound()


async def test_a_second_attempt_at_a_comment_adds_no_second_one(desk: Desk) -> None:
    key = a_key()
    made = (await desk.run(create, a_ticket())).value
    asked: dict[str, JsonValue] = {"id": made["id"], "text": "Once."}
    first = await desk.run(comment, asked, key=key)
    second = await desk.run(comment, asked, key=key, remembered=first.remembered)
    assert second.value == first.value
    assert second.sends == 0
    assert len((await desk.ticket(made["id"]))["messages"]) == 2


async def test_a_message_that_no_ticket_refers_to_shows_in_no_ticket(desk: Desk) -> None:
    made = (await desk.run(create, a_ticket())).value
    before = await desk.ticket(made["id"])
    with desk.as_agent() as client:
        made_message(client)
    assert await desk.ticket(made["id"]) == before


def made_message(client: httpx.Client) -> int:
    body = {"content": "kept", "author": "@current_user", "date": "."}
    return int(client.post("msg", json=body).json()["data"]["id"])
