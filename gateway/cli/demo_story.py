"""What an agent lives through on a running demo, printed step by step; every step checks what it says."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import httpx

from gateway.cli.demo_people import PeopleStory
from gateway.cli.demo_telling import StepFailed, must, say

MODEL = "gpt-4o-mini"
_CHAT = "/v1/chat/completions"
# Large enough for a few calls, small enough to see it run out.
DEPOSIT_SATS = 50
TINY_DEPOSIT_SATS = 1
_REFUND_FEE_MSAT = 10_500


def tell_story(demo: dict[str, Any]) -> bool:
    """Tell it. False, with the reason printed, when a step fails."""
    with httpx.Client(base_url=demo["base_url"], timeout=30) as gateway, httpx.Client(timeout=30) as wallet:
        story = _Story(gateway, wallet, demo["wallet_url"])
        try:
            people = PeopleStory(gateway, demo["app_key"])
            for number, (title, step) in enumerate(chain(story.steps(), people.steps()), start=1):
                print(f"\n{number}. {title}", flush=True)
                step()
        except (StepFailed, httpx.HTTPError, KeyError) as error:
            print(f"   FAILED: {error!r}", flush=True)
            return False
    print("\nEvery step went as it must.", flush=True)
    return True


class _Story:
    def __init__(self, gateway: httpx.Client, wallet: httpx.Client, wallet_url: str) -> None:
        self._gateway, self._wallet, self._wallet_url = gateway, wallet, wallet_url
        self._challenge: dict[str, Any] = {}
        self._credential = ""

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Title and action of each step."""
        yield f"An agent calls {_CHAT} with nothing in its hands", self._ask
        yield "It pays the invoice from its own Lightning wallet", self._pay
        yield "It retries with the proof, and the answer streams", self._stream
        yield "A second call spends the rest of the same credit; no payment, no account", self._second
        yield f"A credit of {TINY_DEPOSIT_SATS} sat and a huge answer: the stream ends where the money ends", self._cut
        yield "The agent takes back what it did not spend", self._refund

    def _ask(self) -> None:
        answer = self._gateway.post(_CHAT, json=_body(), headers={"farebox-deposit": str(DEPOSIT_SATS)})
        must(answer.status_code == 402, f"402 was due, {answer.status_code} came")
        self._challenge = answer.json()
        offer = answer.headers["www-authenticate"]
        say(f"402 {self._challenge['title']}: this call costs from {self._challenge['cost']['amount']} USD")
        say(f"invoice over {self._challenge['amountSats']} sats: {self._challenge['invoice'][:48]}...")
        say(f"WWW-Authenticate: {offer[:60]}...")

    def _pay(self) -> None:
        preimage = self._pay_invoice(self._challenge["invoice"])
        proven = hashlib.sha256(bytes.fromhex(preimage)).hexdigest() == self._challenge["paymentHash"]
        must(proven, "the preimage is not the payment's")
        self._credential = f"{self._challenge['macaroon']}:{preimage}"
        size = len(base64.b64decode(self._challenge["macaroon"]))
        say(f"paid; the preimage unlocks the macaroon ({size} bytes), which is now worth {DEPOSIT_SATS} sats")

    def _stream(self) -> None:
        before = self._available()
        text, note = self._stream_chat(output_tokens=40)
        say(f"streamed: {text[:60]}...")
        say(f"usage {note['usage']['output_tokens']} output tokens, cost {note['cost']['amount_msat']} msat")
        must(note["usage"]["output_tokens"] == 40, "40 tokens were due")
        must(before - self._available() == note["cost"]["amount_msat"], "the balance does not match the cost")

    def _second(self) -> None:
        answer = self._gateway.post(_CHAT, json=_body(), headers=self._proof())
        must(answer.status_code == 200, f"200 was due, {answer.status_code} came")
        say(
            f"200, Farebox-Cost: {answer.headers['farebox-cost']}, Farebox-Balance: {answer.headers['farebox-balance']}"
        )

    def _cut(self) -> None:
        kept = self._credential
        offer = self._gateway.post(_CHAT, json=_body(), headers={"farebox-deposit": str(TINY_DEPOSIT_SATS)}).json()
        self._credential = f"{offer['macaroon']}:{self._pay_invoice(offer['invoice'])}"
        _, note = self._stream_chat(output_tokens=100_000)
        left = self._available()
        must(note["cut"] == "credit", "the stream should have been cut")
        must(left >= 0 and note["cost"]["amount_msat"] + left == TINY_DEPOSIT_SATS * 1_000, "a msat is missing")
        say(
            f"cut after {note['usage']['output_tokens']} of 100,000 tokens: "
            f"{note['cost']['amount_msat']} msat, {left} left"
        )
        self._credential = kept

    def _refund(self) -> None:
        available = self._available()
        amount = available - _REFUND_FEE_MSAT
        invoice = self._wallet.post(f"{self._wallet_url}/invoice", json={"amount_msat": amount}).json()["invoice"]
        answer = self._gateway.post("/l402/refund", json={"payment_request": invoice}, headers=self._proof())
        must(answer.status_code == 200, f"the refund was refused: {answer.text[:200]}")
        refund = answer.json()
        must(refund["state"] == "paid" and refund["refunded_msat"] == amount, f"the refund is {refund}")
        say(
            f"of {available} msat {amount} came back over Lightning "
            f"(fee {refund['fee_msat']}); left {self._available()}"
        )

    def _pay_invoice(self, invoice: str) -> str:
        paid = self._wallet.post(f"{self._wallet_url}/pay", json={"invoice": invoice})
        must(paid.status_code == 200, f"the wallet refused: {paid.text[:200]}")
        return str(paid.json()["preimage"])

    def _proof(self) -> dict[str, str]:
        return {"authorization": f"L402 {self._credential}"}

    def _available(self) -> int:
        return int(self._gateway.get("/l402/balance", headers=self._proof()).json()["available_msat"])

    def _stream_chat(self, *, output_tokens: int) -> tuple[str, dict[str, Any]]:
        """The text, and what Farebox's own comment says of the cost."""
        headers = {**self._proof(), "x-sim-output-tokens": str(output_tokens)}
        body = {**_body(), "stream": True, "max_tokens": output_tokens}
        text, note = "", None
        with self._gateway.stream("POST", _CHAT, json=body, headers=headers) as answer:
            must(answer.status_code == 200, f"200 was due, {answer.status_code} came")
            for line in answer.iter_lines():
                if line.startswith(": farebox "):
                    note = json.loads(line.removeprefix(": farebox "))
                elif line.startswith("data: {"):
                    choices = json.loads(line.removeprefix("data: "))["choices"]
                    text += (choices[0]["delta"].get("content") or "") if choices else ""
        must(note is not None, "no word of the cost came")
        return text, note or {}


def _body() -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Tell me what a toll booth is for."}]}
