"""Approvals that take a proof: password, one-time code, passkey, two persons; over HTTP, against a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pyotp
import pytest
from people_parts import USD, Parts, running_people, usd
from soft_passkey import PRESENT, SoftPasskey

from gateway.adapters.redis.keys import tag
from gateway.core.directory import Permission, Principal, person_part
from gateway.core.errors import Conflict, Forbidden, NotFound, PaymentRequired, Problem, RateLimited
from gateway.core.quotes import canonical
from gateway.flows.quoting import WAITING_MOST
from gateway.flows.settling import Work
from gateway.flows.step_up import ATTEMPTS_WINDOW_S

PASSWORD = "correct horse battery"
STEP_UP = 300_000  # tokens of `large`: 30 USD at most
EXPLICIT = 50_000


@pytest.fixture
async def parts(valkey_url: str) -> AsyncIterator[Parts]:
    async with running_people(valkey_url) as running:
        await running.credit(1_000 * USD)
        for person in ("alice", "bob", "carol"):
            await running.must("POST", "/api/persons", {"id": person})
        yield running


async def quoted(parts: Parts, user: str = "alice", tokens: int = STEP_UP) -> str:
    with pytest.raises(PaymentRequired) as refused:
        await parts.place(user=user, model="large", tokens=tokens)
    quote = refused.value.members["quote"]
    assert refused.value.code == ("step_up_required" if tokens >= STEP_UP else "approval_required")
    return str(quote["id"])


async def run(parts: Parts, quote_id: str, user: str = "alice", tokens: int = STEP_UP) -> Work:
    return await parts.place(user=user, model="large", tokens=tokens, farebox_quote=quote_id)


async def code_of(parts: Parts, quote_id: str, user: str = "alice", tokens: int = STEP_UP) -> str:
    with pytest.raises(Problem) as refused:
        await run(parts, quote_id, user, tokens)
    return refused.value.code


def approve(parts: Parts, quote_id: str, user: str = "alice", **proof: Any) -> Any:
    return parts.must("POST", f"/api/quotes/{quote_id}/approve", proof, user=user)


def refused(parts: Parts, quote_id: str, user: str = "alice", **proof: Any) -> Any:
    return parts.refused("POST", f"/api/quotes/{quote_id}/approve", proof, user=user)


async def with_password(parts: Parts, user: str = "alice") -> None:
    await parts.must("POST", f"/api/persons/{user}/credentials", {"password": PASSWORD}, user=user)


async def with_totp(parts: Parts, user: str = "alice") -> pyotp.TOTP:
    path = f"/api/persons/{user}/credentials"
    made = (await parts.must("POST", path, {"totp": {}}, user=user))["totp"]
    assert made["confirmed"] is False and made["otpauth_url"].startswith("otpauth://totp/")
    totp = pyotp.TOTP(made["secret"])
    told = await parts.must("POST", path, {"totp": {"code": code(parts, totp)}}, user=user)
    assert told == {"totp": {"confirmed": True}}
    parts.clock.ahead_s += 60
    return totp


def code(parts: Parts, totp: pyotp.TOTP, ahead_s: int = 0) -> str:
    return totp.at(int(parts.clock.now_s()) + ahead_s)


async def with_passkey(parts: Parts, user: str = "alice") -> SoftPasskey:
    path = f"/api/persons/{user}/credentials"
    options = (await parts.must("POST", path, {"passkey": {}}, user=user))["passkey"]["options"]
    key = SoftPasskey("http://localhost:8402", options["rp"]["id"])
    made = await parts.must("POST", path, {"passkey": {"credential": key.create(options)}}, user=user)
    assert made["passkey"]["id"]
    return key


async def options_for(parts: Parts, quote_id: str, user: str = "alice", approved_max: str = "") -> Any:
    asked = f"?approved_max={approved_max}" if approved_max else ""
    return (await parts.must("GET", f"/api/quotes/{quote_id}{asked}", user=user))["passkey_options"]


# What takes a proof.


async def test_without_a_proof_a_step_up_is_not_approved(parts: Parts) -> None:
    quote_id = await quoted(parts)
    assert await refused(parts, quote_id) == (403, "step_up_required", None)
    assert await code_of(parts, quote_id) == "step_up_required"


async def test_a_click_is_enough_at_the_explicit_tier(parts: Parts) -> None:
    quote_id = await quoted(parts, tokens=EXPLICIT)
    assert (await approve(parts, quote_id))["status"] == "approved"
    assert ((await run(parts, quote_id, tokens=EXPLICIT)).ceiling or 0) <= 6 * USD


async def test_a_key_that_speaks_for_itself_proves_nothing(parts: Parts) -> None:
    with pytest.raises(PaymentRequired) as asked:
        await parts.place(model="large", tokens=STEP_UP)
    quote_id = asked.value.members["quote"]["id"]
    answer = await parts.refused("POST", f"/api/quotes/{quote_id}/approve", {"password": PASSWORD})
    assert answer == (403, "person_needed", None)


async def test_a_proof_of_somebody_without_credentials_is_not_good(parts: Parts) -> None:
    quote_id = await quoted(parts)
    for proof in ({"password": PASSWORD}, {"otp": "123456"}, {"passkey": {"id": "x"}}):
        assert await refused(parts, quote_id, **proof) == (403, "step_up_failed", None)


@pytest.mark.parametrize(
    "proof", [{"password": 7}, {"otp": ["1"]}, {"passkey": "x"}, {"passkey": {"id": 4, "response": []}}]
)
async def test_a_proof_of_the_wrong_shape_is_not_good_and_breaks_nothing(parts: Parts, proof: dict[str, Any]) -> None:
    await with_passkey(parts)
    quote_id = await quoted(parts)
    status, name, _ = await refused(parts, quote_id, **proof)
    assert (status, name) in {(403, "step_up_failed"), (422, "invalid_request")}


# Password.


async def test_the_password_approves_and_another_does_not(parts: Parts) -> None:
    await with_password(parts)
    quote_id = await quoted(parts)
    assert (await refused(parts, quote_id, password="wrong horse"))[:2] == (403, "step_up_failed")
    told = await approve(parts, quote_id, password=PASSWORD, approved_max=usd("25.00"))
    assert told["status"] == "approved" and told["approved_max"] == usd("25.00")
    work = await run(parts, quote_id)
    assert work.ceiling == 25 * USD


async def test_another_persons_password_is_not_good(parts: Parts) -> None:
    await with_password(parts, "bob")
    quote_id = await quoted(parts)
    assert (await refused(parts, quote_id, password=PASSWORD))[:2] == (403, "step_up_failed")
    assert (await refused(parts, quote_id, user="bob", password=PASSWORD))[:2] == (403, "foreign_quote")


async def test_guessing_is_stopped_also_when_done_at_once(parts: Parts) -> None:
    await with_password(parts)
    quote_id = await quoted(parts)
    guesses = [refused(parts, quote_id, password=f"guess number {number}") for number in range(12)]
    answers = await asyncio.gather(*guesses)
    assert sum(status == 429 for status, _, _ in answers) >= 7
    assert (await refused(parts, quote_id, password=PASSWORD))[:2] == (429, "rate_limited")


async def test_attempts_that_a_death_left_without_an_end_get_one_with_the_next(parts: Parts) -> None:
    await with_password(parts)
    quote_id = await quoted(parts)
    name = f"{tag(parts.org_id)}tries:{person_part(parts.org_id, 'alice')}"
    await parts.link.command("SET", name, 9, key=name)
    assert (await refused(parts, quote_id, password=PASSWORD))[:2] == (429, "rate_limited")
    assert 0 < await parts.link.command("PTTL", name, key=name) <= ATTEMPTS_WINDOW_S * 1_000


async def test_a_password_has_a_least_length_and_is_kept_as_a_hash(parts: Parts) -> None:
    path = "/api/persons/alice/credentials"
    assert await parts.refused("POST", path, {"password": "short"}, user="alice") == (
        422,
        "invalid_request",
        "password",
    )
    await with_password(parts)
    kept = await parts.people.secrets.secret(parts.org_id, "alice", "password")
    assert kept is not None and kept.startswith(b"$argon2id$")


async def test_whoever_has_a_credential_proves_it_before_another_is_set(parts: Parts) -> None:
    await with_password(parts)
    path = "/api/persons/alice/credentials"
    changes: list[dict[str, Any]] = [{"password": "a new passphrase"}, {"totp": {}}, {"passkey": {}}]
    for wanted in changes:
        assert (await parts.refused("POST", path, wanted, user="alice"))[:2] == (403, "step_up_required")
        wrong = wanted | {"proof": {"password": "wrong"}}
        assert (await parts.refused("POST", path, wrong, user="alice"))[:2] == (403, "step_up_failed")
    good = {"password": "a new passphrase", "proof": {"password": PASSWORD}}
    assert await parts.must("POST", path, good, user="alice") == {"password": True}
    quote_id = await quoted(parts)
    assert (await refused(parts, quote_id, password=PASSWORD))[:2] == (403, "step_up_failed")
    await approve(parts, quote_id, password="a new passphrase")


async def test_a_person_sets_no_other_persons_credentials(parts: Parts) -> None:
    answer = await parts.refused("POST", "/api/persons/bob/credentials", {"password": PASSWORD}, user="alice")
    assert answer[:2] == (403, "forbidden")


# Nobody who has a credential loses it, or gets another, without proving one.


async def test_words_of_one_method_finish_no_other(parts: Parts) -> None:
    await with_password(parts)
    path = "/api/persons/alice/credentials"
    tricks: list[dict[str, Any]] = [
        {"passkey": {"code": 1}}, {"totp": {"credential": 1}}, {"passkey": {"code": "1", "x": {}}}, {"totp": {"credential": {}}},
    ]  # fmt: skip
    for trick in tricks:
        assert (await parts.refused("POST", path, trick, user="alice"))[:2] == (403, "step_up_required"), trick
    invented = {
        "passkey": {"credential": SoftPasskey("http://localhost:8402", "localhost").create({"challenge": "AAAA"})}
    }
    assert (await parts.refused("POST", path, invented, user="alice"))[:2] == (403, "step_up_failed")


async def test_a_seed_that_was_shown_before_there_was_a_credential_is_not_confirmed_without_proof(parts: Parts) -> None:
    path = "/api/persons/alice/credentials"
    early = pyotp.TOTP((await parts.must("POST", path, {"totp": {}}, user="alice"))["totp"]["secret"])
    await with_password(parts)
    late = {"totp": {"code": code(parts, early)}}
    assert (await parts.refused("POST", path, late, user="alice"))[:2] == (403, "step_up_required")
    proved = late | {"proof": {"password": PASSWORD}}
    assert await parts.must("POST", path, proved, user="alice") == {"totp": {"confirmed": True}}


async def test_options_that_were_shown_before_there_was_a_credential_register_nothing(parts: Parts) -> None:
    path = "/api/persons/alice/credentials"
    options = (await parts.must("POST", path, {"passkey": {}}, user="alice"))["passkey"]["options"]
    await with_password(parts)
    late = {"passkey": {"credential": SoftPasskey("http://localhost:8402", options["rp"]["id"]).create(options)}}
    assert (await parts.refused("POST", path, late, user="alice"))[:2] == (403, "step_up_failed")


async def test_options_that_cross_a_first_credential_register_nothing(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_up, path = parts.people.step_up, "/api/persons/alice/credentials"
    has_any = step_up._has_any

    async def and_then_a_password_is_set(principal: Principal) -> bool:
        found = await has_any(principal)
        monkeypatch.undo()
        await with_password(parts)
        return found

    monkeypatch.setattr(step_up, "_has_any", and_then_a_password_is_set)
    options = (await parts.must("POST", path, {"passkey": {}}, user="alice"))["passkey"]["options"]
    late = {"passkey": {"credential": SoftPasskey("http://localhost:8402", options["rp"]["id"]).create(options)}}
    assert (await parts.refused("POST", path, late, user="alice"))[:2] == (403, "step_up_failed")


async def test_a_seed_is_good_until_the_first_code_of_its_successor(parts: Parts) -> None:
    totp, path = await with_totp(parts), "/api/persons/alice/credentials"
    proved = {"totp": {}, "proof": {"otp": code(parts, totp)}}
    fresh = pyotp.TOTP((await parts.must("POST", path, proved, user="alice"))["totp"]["secret"])
    unproved = await parts.refused("POST", path, {"password": PASSWORD}, user="alice")
    assert unproved[:2] == (403, "step_up_required"), "there still is a credential"
    parts.clock.ahead_s += 60
    first = await quoted(parts)
    await approve(parts, first, otp=code(parts, totp))
    await parts.must("POST", path, {"totp": {"code": code(parts, fresh)}}, user="alice")
    parts.clock.ahead_s += 60
    second = await quoted(parts, tokens=STEP_UP + 1)
    assert (await refused(parts, second, otp=code(parts, totp)))[:2] == (403, "step_up_failed")
    await approve(parts, second, otp=code(parts, fresh))


async def test_who_has_only_a_passkey_is_told_what_to_sign(parts: Parts) -> None:
    key, path = await with_passkey(parts), "/api/persons/alice/credentials"
    answer = await parts.ask("POST", path, {"password": PASSWORD}, user="alice")
    assert answer.status_code == 403 and answer.json()["code"] == "step_up_required"
    proof = key.sign(answer.json()["passkey_options"])
    good = {"password": PASSWORD, "proof": {"passkey": proof}}
    assert await parts.must("POST", path, good, user="alice") == {"password": True}
    assert (await parts.refused("POST", path, good, user="alice"))[:2] == (403, "step_up_failed"), "once"


async def test_a_passkey_signs_an_allowance_too(parts: Parts) -> None:
    key = await with_passkey(parts)
    wanted = {"session": "s1", "cap": usd("25.00")}
    asked = await parts.ask("POST", "/api/allowances", wanted, user="alice")
    assert asked.json()["code"] == "step_up_required"
    proof = key.sign(asked.json()["passkey_options"])
    larger = wanted | {"cap": usd("26.00"), "passkey": proof}
    assert (await parts.refused("POST", "/api/allowances", larger, user="alice"))[:2] == (403, "step_up_failed")
    await parts.must("POST", "/api/allowances", wanted | {"passkey": proof}, user="alice")


async def test_where_an_app_may_not_answer_it_sets_no_credentials_either(parts: Parts) -> None:
    parts.change_approvals(app_may_approve=False)
    answer = await parts.refused("POST", "/api/persons/alice/credentials", {"password": PASSWORD}, user="alice")
    assert answer[:2] == (403, "forbidden")


# One-time codes.


async def test_a_code_works_once(parts: Parts) -> None:
    totp = await with_totp(parts)
    first, second = await quoted(parts), await quoted(parts, tokens=STEP_UP + 1)
    now = code(parts, totp)
    await approve(parts, first, otp=now)
    assert (await refused(parts, second, otp=now))[:2] == (403, "step_up_failed"), "replayed"
    parts.clock.ahead_s += 30
    await approve(parts, second, otp=code(parts, totp))


async def test_one_code_shown_many_times_at_once_approves_one_quote(parts: Parts) -> None:
    totp = await with_totp(parts)
    quotes = [await quoted(parts, tokens=STEP_UP + number) for number in range(5)]
    now = code(parts, totp)
    answers = await asyncio.gather(
        *(parts.ask("POST", f"/api/quotes/{each}/approve", {"otp": now}, user="alice") for each in quotes)
    )
    assert sorted(answer.status_code for answer in answers) == [200, 403, 403, 403, 403]


async def test_codes_of_the_step_before_and_after_are_taken_and_no_others(parts: Parts) -> None:
    totp = await with_totp(parts)
    for ahead_s, good in ((-90, False), (90, False), (-30, True), (30, True)):
        quote_id = await quoted(parts, tokens=STEP_UP + 100 + ahead_s)
        answer = await parts.ask(
            "POST", f"/api/quotes/{quote_id}/approve", {"otp": code(parts, totp, ahead_s)}, user="alice"
        )
        assert answer.is_success is good, (ahead_s, answer.text)


async def test_a_seed_that_was_not_confirmed_proves_nothing(parts: Parts) -> None:
    path = "/api/persons/alice/credentials"
    made = (await parts.must("POST", path, {"totp": {}}, user="alice"))["totp"]
    quote_id = await quoted(parts)
    answer = await refused(parts, quote_id, otp=code(parts, pyotp.TOTP(made["secret"])))
    assert answer[:2] == (403, "step_up_failed")
    assert (await parts.refused("POST", path, {"totp": {"code": "000000"}}, user="alice"))[:2] == (
        403,
        "step_up_failed",
    )


async def test_a_seed_is_sealed_where_it_is_kept(parts: Parts) -> None:
    totp = await with_totp(parts)
    kept = await parts.people.secrets.secret(parts.org_id, "alice", "totp")
    assert kept is not None and totp.secret.encode() not in kept


# Passkeys.


async def test_a_passkey_signs_quote_amount_and_expiry(parts: Parts) -> None:
    key = await with_passkey(parts)
    quote_id = await quoted(parts)
    proof = key.sign(await options_for(parts, quote_id, approved_max="21.50"))
    told = await approve(parts, quote_id, passkey=proof, approved_max=usd("21.50"))
    assert told["status"] == "approved"
    assert (await run(parts, quote_id)).ceiling == 21_500_000_000


async def test_a_signature_for_one_amount_is_none_for_another(parts: Parts) -> None:
    key = await with_passkey(parts)
    quote_id = await quoted(parts)
    proof = key.sign(await options_for(parts, quote_id, approved_max="1.00"))
    assert (await refused(parts, quote_id, passkey=proof, approved_max=usd("25.00")))[:2] == (403, "step_up_failed")
    assert (await refused(parts, quote_id, passkey=proof))[:2] == (403, "step_up_failed")


async def test_a_signature_for_one_quote_is_none_for_another(parts: Parts) -> None:
    key = await with_passkey(parts)
    one, other = await quoted(parts), await quoted(parts, tokens=STEP_UP + 1)
    proof = key.sign(await options_for(parts, one))
    assert (await refused(parts, other, passkey=proof))[:2] == (403, "step_up_failed")


async def test_a_passkey_whose_count_goes_back_was_copied(parts: Parts) -> None:
    key = await with_passkey(parts)
    key.count = 10
    first, second = await quoted(parts), await quoted(parts, tokens=STEP_UP + 1)
    await approve(parts, first, passkey=key.sign(await options_for(parts, first)))
    key.count = 3
    proof = key.sign(await options_for(parts, second))
    assert (await refused(parts, second, passkey=proof))[:2] == (403, "step_up_failed")


async def test_a_passkey_must_verify_its_user_and_sign_at_our_origin(parts: Parts) -> None:
    key = await with_passkey(parts)
    quote_id = await quoted(parts)
    options = await options_for(parts, quote_id)
    assert (await refused(parts, quote_id, passkey=key.sign(options, flags=PRESENT)))[:2] == (403, "step_up_failed")
    phished = SoftPasskey("https://farebox.example", key.rp_id, key.key, key.credential_id, key.count)
    assert (await refused(parts, quote_id, passkey=phished.sign(options)))[:2] == (403, "step_up_failed")
    forged = SoftPasskey(key.origin, key.rp_id, credential_id=key.credential_id, count=key.count)
    assert (await refused(parts, quote_id, passkey=forged.sign(options)))[:2] == (403, "step_up_failed")
    await approve(parts, quote_id, passkey=key.sign(options))


async def test_the_same_registration_adds_one_passkey(parts: Parts) -> None:
    path = "/api/persons/alice/credentials"
    options = (await parts.must("POST", path, {"passkey": {}}, user="alice"))["passkey"]["options"]
    proof = {"passkey": {"credential": SoftPasskey("http://localhost:8402", options["rp"]["id"]).create(options)}}
    await parts.must("POST", path, proof, user="alice")
    assert (await parts.refused("POST", path, proof, user="alice"))[:2] == (403, "step_up_failed")


# Two persons.


async def test_two_persons_are_two_others_who_prove_themselves(parts: Parts) -> None:
    parts.change_approvals(two_persons_above=2 * USD)
    for person in ("alice", "bob", "carol"):
        await with_password(parts, person)
    quote_id = await quoted(parts, tokens=EXPLICIT)
    assert (await refused(parts, quote_id, password=PASSWORD))[:2] == (403, "own_request")
    assert (await refused(parts, quote_id, user="bob"))[:2] == (403, "step_up_required"), "a name is no proof"
    assert (await refused(parts, quote_id, user="ghost", password=PASSWORD))[:2] == (403, "step_up_failed")
    told = await approve(parts, quote_id, user="bob", approved_max=usd("4.00"), password=PASSWORD)
    assert told["status"] == "needs_second_person"
    assert await code_of(parts, quote_id, tokens=EXPLICIT) == "approval_required"
    again = await refused(parts, quote_id, user="bob", approved_max=usd("3.00"), password=PASSWORD)
    assert again[:2] == (403, "same_person")
    no_person = await parts.refused("POST", f"/api/quotes/{quote_id}/approve", {})
    assert no_person[:2] == (403, "person_needed")
    told = await approve(parts, quote_id, user="carol", password=PASSWORD)
    assert told["status"] == "approved" and told["approved_max"] == usd("4.00"), "the smaller of the two"
    assert (await run(parts, quote_id, tokens=EXPLICIT)).ceiling == 4 * USD


async def test_two_persons_who_answer_at_once_are_both_counted(parts: Parts) -> None:
    parts.change_approvals(two_persons_above=2 * USD)
    for person in ("bob", "carol"):
        await with_password(parts, person)
    quote_id = await quoted(parts, tokens=EXPLICIT)
    both = (approve(parts, quote_id, user=user, password=PASSWORD) for user in ("bob", "carol"))
    assert sorted(answer["status"] for answer in await asyncio.gather(*both)) == ["approved", "needs_second_person"]


# Each way to misuse an approval has a code of its own.


async def test_an_approval_is_for_this_request_person_and_price_book(parts: Parts) -> None:
    await with_password(parts)
    quote_id = await quoted(parts)
    await approve(parts, quote_id, password=PASSWORD)
    assert await code_of(parts, quote_id, tokens=STEP_UP + 1) == "quote_mismatch"
    assert await code_of(parts, quote_id, user="bob") == "foreign_quote"
    before = parts.policies
    parts.policies = type(before)(**{name: getattr(before, name) for name in before.__slots__} | {"digest": "other"})
    assert await code_of(parts, quote_id) == "quote_mismatch"
    parts.policies = before
    assert (await run(parts, quote_id)).granted > 0


async def test_a_body_that_names_something_twice_is_another_request(parts: Parts) -> None:
    assert canonical(b'{"a": 1, "b": {"c": 2}}') == canonical(b'{"b":{"c":2},"a":1}')
    assert canonical(b'{"m":[{"content":"evil","content":"harmless"}]}') != canonical(b'{"m":[{"content":"harmless"}]}')


async def test_asking_the_same_again_gets_the_quote_that_waits(parts: Parts) -> None:
    quotes = await asyncio.gather(*(quoted(parts, tokens=EXPLICIT) for _ in range(40)))
    assert len(set(quotes)) == 1
    assert len((await parts.must("GET", "/api/approvals", user="alice"))["data"]) == 1
    await parts.must("POST", f"/api/quotes/{quotes[0]}/refuse", {}, user="alice")
    assert await quoted(parts, tokens=EXPLICIT) not in quotes, "a refused one does not wait"


async def test_only_so_many_quotes_of_one_payer_wait(parts: Parts) -> None:
    asked = (quoted(parts, tokens=EXPLICIT + number) for number in range(WAITING_MOST))
    await asyncio.gather(*asked)
    with pytest.raises(RateLimited):
        await parts.place(user="alice", model="large", tokens=EXPLICIT - 1)
    assert await quoted(parts, tokens=EXPLICIT + 1), "what waits is still told"
    assert await quoted(parts, user="bob", tokens=EXPLICIT - 1), "others are asked"


async def test_an_approval_ends_with_its_quote(parts: Parts) -> None:
    quote_id = await quoted(parts, tokens=EXPLICIT)
    parts.clock.ahead_s = 901
    assert (await refused(parts, quote_id))[:2] == (409, "quote_expired")


async def test_an_approved_quote_expires_too(parts: Parts) -> None:
    parts.change_approvals(quote_lifetime_s=1)
    quote_id = await quoted(parts, tokens=EXPLICIT)
    await approve(parts, quote_id)
    for _ in range(40):
        try:
            await parts.ledger.void((await run(parts, quote_id, tokens=EXPLICIT)).hold_id, account=parts.account)
        except Conflict as refusal:
            assert refusal.code == "quote_expired"
            return
        await asyncio.sleep(0.05)
    pytest.fail("it was good for longer than a second")


async def test_an_approval_is_used_by_one_of_many_requests_at_once(parts: Parts) -> None:
    quote_id = await quoted(parts, tokens=EXPLICIT)
    await approve(parts, quote_id)
    answers = await asyncio.gather(*(run(parts, quote_id, tokens=EXPLICIT) for _ in range(50)), return_exceptions=True)
    works = [each for each in answers if isinstance(each, Work)]
    assert len(works) == 1
    assert {each.code for each in answers if isinstance(each, Problem)} == {"quote_used"}
    await parts.ledger.void(works[0].hold_id, account=works[0].account)
    again = await run(parts, quote_id, tokens=EXPLICIT)
    await parts.ledger.post(again.hold_id, 1_000, account=again.account)
    assert await code_of(parts, quote_id, tokens=EXPLICIT) == "quote_used"


async def test_a_refused_a_forged_and_a_foreign_quote(parts: Parts) -> None:
    quote_id = await quoted(parts, tokens=EXPLICIT)
    await parts.must("POST", f"/api/quotes/{quote_id}/refuse", {}, user="alice")
    assert await code_of(parts, quote_id, tokens=EXPLICIT) == "quote_refused"
    assert (await refused(parts, quote_id))[:2] == (409, "quote_refused")
    with pytest.raises(NotFound) as forged:
        await run(parts, f"{quote_id[:-6]}ffffff", tokens=EXPLICIT)
    assert forged.value.code == "unknown_quote"
    for nonsense in ("q_zz", "q_", "../x", "q_00" + "0" * 60):
        with pytest.raises(Problem) as unreadable:
            await run(parts, nonsense, tokens=EXPLICIT)
        assert unreadable.value.status in {404, 422}, nonsense


async def test_an_app_may_be_kept_from_answering(parts: Parts) -> None:
    quote_id = await quoted(parts, tokens=EXPLICIT)
    weak = await parts.make_key(permissions=(Permission.RELAY, Permission.READ))
    path = f"/api/quotes/{quote_id}/approve"
    assert (await parts.refused("POST", path, {}, user="alice", key=weak))[:2] == (403, "forbidden")
    parts.change_approvals(app_may_approve=False)
    assert (await parts.refused("POST", path, {}, user="alice"))[:2] == (403, "forbidden")


async def test_every_approval_is_in_the_audit_log_with_how_it_was_proved(parts: Parts) -> None:
    await with_password(parts)
    quote_id = await quoted(parts)
    await approve(parts, quote_id, password=PASSWORD)
    log = await parts.people.audit.read(parts.org_id, after=0, most=100)
    (entry,) = [each for each in log if each.action == "quote.approve"]
    assert (entry.subject, entry.authenticated) == (quote_id, "key+password")
    assert b"alice" in entry.actor.encode() and b'"open"' in entry.before and b'"approved"' in entry.after
    assert PASSWORD not in str([(each.before, each.after) for each in log])


async def test_approving_again_says_the_same_and_more_than_the_quote_buys_nothing(parts: Parts) -> None:
    quote_id = await quoted(parts, tokens=EXPLICIT)
    told = await approve(parts, quote_id, approved_max=usd("900.00"))
    assert await approve(parts, quote_id, approved_max=usd("900.00")) == told
    assert ((await run(parts, quote_id, tokens=EXPLICIT)).ceiling or 0) <= 6 * USD
    with pytest.raises((Conflict, Forbidden)):
        await run(parts, quote_id, tokens=EXPLICIT)


async def test_a_proof_of_the_wrong_kind_is_refused_also_where_none_is_needed(parts: Parts) -> None:
    quote_id = await quoted(parts, tokens=EXPLICIT)
    await approve(parts, quote_id)
    wrong: dict[str, Any] = {"password": True, "otp": ["1"], "passkey": "x"}
    for name, value in wrong.items():
        assert await refused(parts, quote_id, **{name: value}) == (422, "invalid_request", name)


async def test_a_proof_that_is_none_is_refused_also_of_whoever_has_nothing_to_prove(parts: Parts) -> None:
    path = "/api/persons/alice/credentials"
    wrong: dict[str, Any] = {"proof": "x", "proof.password": {"password": 7}, "proof.pin": {"pin": "1"}}
    for param, proof in wrong.items():
        answer = await parts.refused("POST", path, {"totp": {}, "proof": proof}, user="alice")
        assert answer == (422, "invalid_request", param)
    await parts.must("POST", path, {"totp": {}, "proof": None}, user="alice")


async def test_a_bad_proof_is_never_told_to_be_good_also_of_what_was_approved(parts: Parts) -> None:
    await with_password(parts)
    quote_id = await quoted(parts)
    await approve(parts, quote_id, password=PASSWORD)
    for proof in ({"password": "wrong horse"}, {"password": PASSWORD}, {}):
        assert (await refused(parts, quote_id, **proof))[:2] == (409, "quote_approved")
    work = await run(parts, quote_id)
    await parts.ledger.post(work.hold_id, 1_000, account=work.account)
    assert (await refused(parts, quote_id, password="wrong horse"))[:2] == (409, "quote_used")


async def test_a_yes_to_less_than_the_request_costs_in_any_case_is_refused_by_name(parts: Parts) -> None:
    quote_id = await quoted(parts, tokens=EXPLICIT)
    least = (await parts.must("GET", f"/api/quotes/{quote_id}", user="alice"))["min"]["amount"]
    assert float(least) > 1e-9
    assert await refused(parts, quote_id, approved_max=usd("0.000000001")) == (422, "invalid_request", "approved_max")
    assert (await approve(parts, quote_id, approved_max=usd("4.00")))["status"] == "approved"
