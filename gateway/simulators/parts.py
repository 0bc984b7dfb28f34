"""All simulated parts of a demo in one process: an upstream, the gateway's Lightning node, and an agent's wallet on
another.

`python -m gateway.simulators.parts --data-dir D --ready-file F` writes F, in one move, once everything answers:
`{upstream_url, wallet_url, lnd: {address, tls_cert, macaroon}}`. It ends when its standard input closes, so that it
never outlives whoever started it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

import msgspec
import uvicorn
import uvloop

from gateway.simulators.lightning import LightningNetwork, SimulatedNode
from gateway.simulators.upstream import upstream_app
from gateway.simulators.wallet import wallet_app

_POLL_S = 0.01


async def run_parts(data_dir: Path, ready_file: Path) -> None:
    """Serve until standard input closes."""
    network = LightningNetwork()
    node_dir, wallet_dir = data_dir / "lnd", data_dir / "wallet"
    node_dir.mkdir(parents=True, exist_ok=True)
    wallet_dir.mkdir(parents=True, exist_ok=True)
    node = SimulatedNode(network=network, data_dir=node_dir)
    payer = SimulatedNode(network=network, data_dir=wallet_dir)
    await node.start()
    await payer.start()
    servers = [_server(upstream_app()), _server(wallet_app(payer))]
    tasks = [asyncio.create_task(server.serve()) for server in servers]
    try:
        urls = [await _url(server) for server in servers]
        certificate = node_dir / "tls.cert"
        certificate.write_bytes(node.tls_cert_pem)
        ready = {
            "upstream_url": urls[0],
            "wallet_url": urls[1],
            "lnd": {"address": node.address, "tls_cert": str(certificate), "macaroon": node.macaroon_hex},
        }
        _write(ready_file, msgspec.json.encode(ready))
        await asyncio.to_thread(sys.stdin.buffer.read)
    finally:
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)
        await node.close()
        await payer.close()


def _server(app: object) -> uvicorn.Server:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        host="127.0.0.1", port=0, log_level="critical", access_log=False, lifespan="off", server_header=False,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    return uvicorn.Server(config)


async def _url(server: uvicorn.Server) -> str:
    while not server.started:
        await asyncio.sleep(_POLL_S)
    port = server.servers[0].sockets[0].getsockname()[1]
    return f"http://127.0.0.1:{port}"


def _write(path: Path, content: bytes) -> None:
    """In one move, readable by this user alone: there is a macaroon in it."""
    partial = path.with_suffix(".part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.replace(path)


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description="Serve all simulated parts of a demo.")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--ready-file", type=Path, required=True)
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_parts(args.data_dir, args.ready_file))


if __name__ == "__main__":
    main()
