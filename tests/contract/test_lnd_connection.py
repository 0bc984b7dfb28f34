"""How the adapter reads certificate and macaroon, and what it makes of a node that is not ready."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path

import grpc
import grpc.aio
import pytest
from lnd.worlds import SimulatedWorld, adapter

from gateway.adapters.lnd import LndNode
from gateway.adapters.lnd_wire import about_us, final_refusal, no_such_payment, read_connection
from gateway.core.errors import Unavailable
from gateway.simulators.lightning import SimulatedNode

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
MACAROON = bytes(range(90))


def refusal(code: grpc.StatusCode, text: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), text)


def test_certificate_and_macaroon_are_taken_as_content_or_as_path(tmp_path: Path) -> None:
    (tmp_path / "tls.cert").write_text(PEM)
    (tmp_path / "admin.macaroon").write_bytes(MACAROON)
    expected = read_connection("node:10009", PEM, MACAROON.hex())
    assert (expected.tls_pem, expected.macaroon_hex) == (PEM.encode(), MACAROON.hex())
    for certificate in (PEM.encode(), tmp_path / "tls.cert", str(tmp_path / "tls.cert")):
        for macaroon in (MACAROON, MACAROON.hex().upper(), tmp_path / "admin.macaroon", f"{tmp_path}/admin.macaroon\n"):
            assert read_connection("node:10009", certificate, macaroon) == expected


def test_without_a_certificate_public_authorities_are_trusted() -> None:
    assert read_connection("node:10009", "", MACAROON).tls_pem is None


def test_a_missing_file_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lightning\.lnd\.tls_cert: cannot read .*nowhere"):
        read_connection("node:10009", tmp_path / "nowhere", MACAROON)
    with pytest.raises(ValueError, match=r"lightning\.lnd\.macaroon: cannot read .*nowhere"):
        read_connection("node:10009", PEM, tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text",
    [
        "wallet locked, unlock it to enable full RPC access",
        "wallet not created, create one to enable full RPC access",
        "waiting to start, RPC services not available",
        "the RPC server is in the process of starting up, but not yet ready to accept calls",
        "verification failed: signature mismatch after caveat verification",
    ],
)
def test_a_node_that_is_not_ready_refuses_nothing_for_good(text: str) -> None:
    error = refusal(grpc.StatusCode.UNKNOWN, text)
    assert about_us(error)
    assert final_refusal(error) is None


def test_only_the_nodes_own_words_mean_that_a_payment_never_began() -> None:
    assert no_such_payment(refusal(grpc.StatusCode.NOT_FOUND, "payment isn't initiated"))
    assert not no_such_payment(refusal(grpc.StatusCode.NOT_FOUND, "no such service"))
    assert not no_such_payment(refusal(grpc.StatusCode.UNAVAILABLE, "payment isn't initiated"))


async def test_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    node = SimulatedNode()
    await node.start()
    client = adapter(node)
    await client.identity()
    await node.close()
    listening = asyncio.ensure_future(anext(client.settled_invoices(after_settle_index=5)))
    with caplog.at_level(logging.WARNING, logger="gateway.adapters.lnd"):
        async with asyncio.timeout(5):
            while not caplog.records:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.6)
    assert len(caplog.records) == 1
    assert node.macaroon_hex not in caplog.text
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await client.close()


async def test_the_subscription_ends_with_the_adapter(simulated: SimulatedWorld) -> None:
    client = adapter(simulated.seller)

    async def listen() -> int:
        return len([invoice async for invoice in client.settled_invoices(after_settle_index=1)])

    listening = asyncio.create_task(listen())
    await client.identity()
    await client.close()
    async with asyncio.timeout(5):
        assert await listening == 0


def test_the_adapter_imports_without_warnings_and_without_the_unkept_client() -> None:
    unwanted = ("aiogrpc", "lndgrpc", "lndgrpc.client")
    code = f"import sys, gateway.adapters.lnd; print([name for name in {unwanted!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


async def test_a_call_in_flight_when_the_adapter_closes_is_unavailable(simulated: SimulatedWorld) -> None:
    client = adapter(simulated.seller)
    await client.identity()
    simulated.freeze_seller()
    asking = asyncio.create_task(client.identity())
    await asyncio.sleep(0.05)
    await client.close()
    with pytest.raises(Unavailable):
        await asking


async def test_a_cancelled_caller_stays_cancelled(simulated: SimulatedWorld) -> None:
    client = adapter(simulated.seller)
    await client.identity()
    simulated.freeze_seller()
    asking = asyncio.create_task(client.identity())
    await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    simulated.thaw_seller()
    assert await client.identity() == simulated.seller.public_key
    await client.close()


async def test_a_closed_adapter_makes_no_new_channel(simulated: SimulatedWorld) -> None:
    unused = LndNode.open(simulated.seller.address, tls_cert=simulated.seller.tls_cert_pem, macaroon=MACAROON)
    await unused.close()
