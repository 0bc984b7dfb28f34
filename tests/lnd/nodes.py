"""A real pair of Lightning nodes for tests: btcd and two lnd on simnet, with a funded channel between them.

Starts within some 15 s and once a session; `built()` tells whether the binaries are there (`make lnd`). The seller
stands behind the gateway, the payer is the agent's. Readiness is polled, never slept for; every process is killed at
the end, by its id.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from lnd.build import binaries_dir, missing
from servers import free_port

from gateway import lnrpc

_USER = "farebox"
_CHANNEL_SAT, _PUSH_SAT = 10_000_000, 4_000_000
# Coinbases ripen after 100 blocks; SegWit is active on simnet after 300.
_FIRST_BLOCKS = 400
_CONFIRMATIONS = 6
_READY_WITHIN_S = 60.0
LEFT_OUT = "lnd is not built (`make lnd` does it, with Go): the tests against a real pair of nodes were left out."


def built() -> bool:
    """Whether the real nodes can be started."""
    return not missing(binaries_dir(os.environ))


def poll(ready: Callable[[], Any], what: str, within_s: float = _READY_WITHIN_S) -> Any:
    """Ask until the answer is true; an error counts as not yet."""
    end = time.monotonic() + within_s
    last: object = None
    while time.monotonic() < end:
        try:
            if answer := ready():
                return answer
        except (grpc.RpcError, httpx.HTTPError, OSError, LookupError) as error:
            last = error
        time.sleep(0.05)
    message = f"{what} was not ready within {within_s:.0f} s: {last!r}"
    raise AssertionError(message)


@dataclass
class Program:
    """One process with its log; `kill` is SIGKILL."""

    name: str
    directory: Path
    command: list[str]
    process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        assert self.process is None
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen([*self.command, *more], stdout=log, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class RealNode:
    """One lnd. `call` speaks to it directly, for what the adapter has no method for."""

    program: Program
    rpc_port: int
    peer_port: int
    public_key: str = ""
    _channel: grpc.Channel | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.rpc_port}"

    @property
    def tls_cert_pem(self) -> bytes:
        return (self.program.directory / "tls.cert").read_bytes()

    def macaroon(self, name: str = "admin") -> str:
        """`admin`, `invoice` or `readonly`, as hex."""
        path = self.program.directory / f"data/chain/bitcoin/simnet/{name}.macaroon"
        return path.read_bytes().hex()

    @property
    def macaroon_hex(self) -> str:
        return self.macaroon()

    def call(self, path: str, request: Any, response: Any) -> Any:
        """One unary call, such as `lnrpc.Lightning/NewAddress`."""
        if self._channel is None:
            self._channel = grpc.secure_channel(self.address, grpc.ssl_channel_credentials(self.tls_cert_pem))
        stub: Any = self._channel.unary_unary(
            f"/{path}", request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        return stub(request, timeout=30, metadata=(("macaroon", self.macaroon()),))

    def public_key_now(self) -> str:
        """Asks the node, which may not answer yet."""
        return str(self.info().identity_pubkey)

    def info(self) -> Any:
        return self.call("lnrpc.Lightning/GetInfo", lnrpc.lightning.GetInfoRequest(), lnrpc.lightning.GetInfoResponse)

    def pays(self, payee: RealNode) -> bool:
        """Pay one satoshi to the other node; whether it arrived."""
        invoice = payee.call(
            "lnrpc.Lightning/AddInvoice", lnrpc.lightning.Invoice(value_msat=1_000), lnrpc.lightning.AddInvoiceResponse
        )
        sent = self.call(
            "lnrpc.Lightning/SendPaymentSync",
            lnrpc.lightning.SendRequest(payment_request=invoice.payment_request),
            lnrpc.lightning.SendResponse,
        )
        return not sent.payment_error

    def start(self) -> None:
        self.program.start()

    def kill(self) -> None:
        """SIGKILL: what it had acknowledged must be there at the next start."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self.program.kill()


class RealPair:
    """btcd, the seller and the payer."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._rpc_port = free_port()
        binaries = binaries_dir(os.environ)
        self._btcd = Program("btcd", directory, self._btcd_command(binaries))
        self.seller = self._node("seller", binaries)
        self.payer = self._node("payer", binaries)

    def _btcd_command(self, binaries: Path) -> list[str]:
        (self.directory / "btcd.conf").touch()
        return [
            str(binaries / "btcd"),
            "--simnet",
            "--txindex",
            f"--configfile={self.directory / 'btcd.conf'}",
            f"--datadir={self.directory / 'btcd'}",
            f"--logdir={self.directory / 'btcd-logs'}",
            f"--rpcuser={_USER}",
            f"--rpcpass={_USER}",
            f"--rpccert={self.directory / 'rpc.cert'}",
            f"--rpckey={self.directory / 'rpc.key'}",
            f"--rpclisten=127.0.0.1:{self._rpc_port}",
            f"--listen=127.0.0.1:{free_port()}",
        ]

    def _node(self, name: str, binaries: Path) -> RealNode:
        directory = self.directory / name
        directory.mkdir()
        rpc_port, peer_port = free_port(), free_port()
        command = [
            str(binaries / "lnd"),
            f"--lnddir={directory}",
            f"--alias={name}",
            "--noseedbackup",
            "--norest",
            "--bitcoin.simnet",
            "--bitcoin.node=btcd",
            f"--btcd.rpchost=127.0.0.1:{self._rpc_port}",
            f"--btcd.rpcuser={_USER}",
            f"--btcd.rpcpass={_USER}",
            f"--btcd.rpccert={self.directory / 'rpc.cert'}",
            f"--rpclisten=127.0.0.1:{rpc_port}",
            f"--listen=127.0.0.1:{peer_port}",
            "--trickledelay=50",
        ]
        return RealNode(Program("lnd", directory, command), rpc_port, peer_port)

    def _btcd_call(self, method: str, *params: object) -> Any:
        answer = httpx.post(
            f"https://127.0.0.1:{self._rpc_port}/",
            json={"jsonrpc": "1.0", "id": 1, "method": method, "params": params},
            auth=(_USER, _USER),
            verify=False,
            timeout=60,
        ).json()
        assert answer["error"] is None, answer["error"]
        return answer["result"]

    def mine(self, blocks: int) -> None:
        """So many new blocks, paid to the payer."""
        self._btcd_call("generate", blocks)

    def start(self) -> None:
        """From nothing to a channel with money on both sides."""
        self._btcd.start()
        poll(lambda: (self.directory / "rpc.cert").exists() and self._btcd_call("getinfo"), "btcd")
        for node in (self.seller, self.payer):
            node.start()
        for node in (self.seller, self.payer):
            node.public_key = poll(node.public_key_now, "lnd")
        address = poll(
            lambda: (
                self.payer.call(
                    "lnrpc.Lightning/NewAddress",
                    lnrpc.lightning.NewAddressRequest(),
                    lnrpc.lightning.NewAddressResponse,
                ).address
            ),
            "the payer's wallet",
        )
        self._btcd.kill()
        self._btcd.start(f"--miningaddr={address}")
        poll(lambda: self._btcd_call("getinfo"), "btcd")
        self.mine(_FIRST_BLOCKS)
        poll(self._is_rich, "the payer's balance")
        self._open_channel()

    def _is_rich(self) -> bool:
        balance = self.payer.call(
            "lnrpc.Lightning/WalletBalance",
            lnrpc.lightning.WalletBalanceRequest(),
            lnrpc.lightning.WalletBalanceResponse,
        )
        synced = all(node.info().synced_to_chain for node in (self.seller, self.payer))
        return bool(synced and balance.confirmed_balance > 2 * _CHANNEL_SAT)

    def _open_channel(self) -> None:
        poll(self.connect, "the connection of the nodes")
        request = lnrpc.lightning.OpenChannelRequest(
            node_pubkey=bytes.fromhex(self.seller.public_key), local_funding_amount=_CHANNEL_SAT, push_sat=_PUSH_SAT
        )
        poll(
            lambda: self.payer.call("lnrpc.Lightning/OpenChannelSync", request, lnrpc.lightning.ChannelPoint),
            "the channel",
        )
        self.mine(_CONFIRMATIONS)
        self.wait_for_channel()
        self.wait_for_payments()

    def connect(self) -> bool:
        """Have the payer connect to the seller, if it is not yet."""
        if self.payer.info().num_peers:
            return True
        host = lnrpc.lightning.LightningAddress(
            pubkey=self.seller.public_key, host=f"127.0.0.1:{self.seller.peer_port}"
        )
        self.payer.call(
            "lnrpc.Lightning/ConnectPeer",
            lnrpc.lightning.ConnectPeerRequest(addr=host),
            lnrpc.lightning.ConnectPeerResponse,
        )
        return True

    def wait_for_channel(self) -> None:
        """Until both sides call the channel active."""
        for node in (self.payer, self.seller):
            poll(partial(self._channel_is_active, node), "the channel")

    def wait_for_payments(self) -> None:
        """Until a payment goes through each way: in its first second an active channel can still refuse."""
        for payer, payee in ((self.payer, self.seller), (self.seller, self.payer)):
            poll(partial(payer.pays, payee), "the first payment")

    def _channel_is_active(self, node: RealNode) -> bool:
        return self._reconnected() and bool(node.info().num_active_channels == 1)

    def _reconnected(self) -> bool:
        try:
            return self.connect()
        except grpc.RpcError:
            # Already connected the other way round, or not up yet: the channel's state tells.
            return True

    def restart(self, node: RealNode) -> None:
        """Kill one node and bring it back, channel and all."""
        node.kill()
        self.bring_back(node)

    def bring_back(self, node: RealNode) -> None:
        """Start a node that was killed, and wait for its channel."""
        if node.program.process is None:
            node.start()
        poll(node.info, "lnd")
        self.wait_for_channel()
        self.wait_for_payments()

    def stop(self) -> None:
        for node in (self.seller, self.payer):
            node.kill()
        self._btcd.kill()


@contextmanager
def running_pair(directory: Path) -> Iterator[RealPair]:
    """The pair, killed at the end whatever happened."""
    pair = RealPair(directory)
    try:
        pair.start()
        yield pair
    finally:
        pair.stop()


@pytest.fixture(scope="session")
def real_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPair]:
    """One pair for the whole session; a test that kills a node brings it back."""
    with running_pair(tmp_path_factory.mktemp("lnd")) as pair:
        yield pair


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One plain line where tests that know of real nodes ran, or would have, without them."""
    if built():
        return
    reports = [report for many in terminalreporter.stats.values() for report in many]
    ran = any("lightning_" in getattr(report, "nodeid", "") for report in reports)
    asked = any(Path(argument).name in ("tests", "lnd") for argument in terminalreporter.config.args)
    if ran or asked:
        terminalreporter.write_line(LEFT_OUT)
