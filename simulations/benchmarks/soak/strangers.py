"""Strangers at the server's port: nodes that may not take part, questions for its owner alone, a flood of bytes."""

from __future__ import annotations

import ssl
import time
from contextlib import suppress
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

import psutil

from fedprune.deployment import certificates, devices, flower
from simulations.benchmarks.soak.outcome import FAILED, HELD, Failed, Hazard, Outcome
from simulations.benchmarks.soak.stage import SHORT, Actor, Stage, free_port, last_line

_ELSEWHERE = "127.0.0.2"
_OWNERS = ("/v1/control/list-runs", "/v1/control/start-run", "/v1/runtime/get-nodes", "/docs", "/openapi.json")
_FLOOD_BYTES, _MOST_BYTES = 3 * 2**30, 200 * 2**20
_PIECE = bytes(2**20)


def nodes(folder: Path) -> Outcome:
    """SuperNodes with a key that nobody enrolled, none, another authority, and without TLS, throughout a run."""
    with Stage(folder, settings=SHORT) as stage:
        stage.serve()
        mine = [stage.join(name) for name in ("kitchen", "attic")]
        strangers = {
            name: Actor(words, stage.environment(name), folder / f"{name.replace(' ', '_')}.log")
            for name, words in _nodes(stage).items()
        }
        run = stage.run()
        stage.finish(run)
        let_in = [name for name, one in strangers.items() if "Receiving" in one.text()]
        if not all("Receiving" in one.text() for one in mine):
            raise Failed("a device of the fleet got no message")
        result = stage.same("went on to its end")
        told = "; ".join(f"{name}: {_ended(one)}" for name, one in strangers.items())
        if let_in:
            return result._replace(verdict=FAILED, lost=f"messages went to: {', '.join(let_in)}")
        return result._replace(seen=f"in the log of each: {told}")


def _nodes(stage: Stage) -> dict[str, list[str]]:
    fleet, link = stage.fleet, f"127.0.0.1:{stage.port}"
    for name in ("unknown", "misled"):
        (stage.folder / name).mkdir()
        (stage.folder / name / "device.key").write_bytes(certificates.device().private)
        (stage.folder / name / "ca.crt").write_bytes((fleet / "ca.crt").read_bytes())
    (stage.folder / "misled" / "ca.crt").write_bytes(certificates.authority("another").public)
    (stage.folder / "misled" / "device.key").write_text(devices.read_join(fleet / "devices" / "attic.join").key)

    def node(name: str) -> list[str]:
        return flower.supernode(link, stage.folder / name, "partition-id=0", free_port())

    keyless = node("unknown")
    at = keyless.index("--auth-supernode-private-key")
    plain = ["flower-supernode", "--insecure", "--superlink", link, "--port", str(free_port())]
    return {
        "a key of nobody": node("unknown"),
        "no key": keyless[:at] + keyless[at + 2 :],
        "another authority": node("misled"),
        "no TLS": [*plain, "--node-config", "partition-id=0"],
    }


def _ended(node: Actor) -> str:
    code = node.process.poll()
    lines = [line for line in node.text().splitlines() if "Exit Code" in line or "failed" in line.lower()]
    return f"ended with {code}" if code is not None else f"waits ({last_line(lines[-1])[:60] if lines else 'silent'})"


def owners(folder: Path) -> Outcome:
    """Questions that are the owner's alone, from another address."""
    with Stage(folder) as stage:
        stage.serve()
        answers = {path: _status(stage, _ELSEWHERE, path) for path in _OWNERS}
        here, node = _status(stage, "127.0.0.1", _OWNERS[0]), _status(stage, _ELSEWHERE, "/v1/fleet/pull-messages")
        if wrong := [f"{path}: {code}" for path, code in answers.items() if code != 403]:
            raise Failed(f"answered from another address: {', '.join(wrong)}")
        if here != 200 or node in (200, 403, 404):
            raise Failed(f"the owner gets {here}, a device without a key {node}")
        return Outcome("none", "nothing", f"403 to each of {len(answers)}; a device's path without a key: {node}", HELD)


def _status(stage: Stage, source: str, path: str) -> int:
    client = _client(stage, source)
    try:
        client.request("POST", path, b"", {"content-type": "application/protobuf"})
        return client.getresponse().status
    finally:
        client.close()


def _client(stage: Stage, source: str) -> HTTPSConnection:
    context = ssl.create_default_context(cafile=str(stage.fleet / "ca.crt"))
    return HTTPSConnection("127.0.0.1", stage.port, context=context, source_address=(source, 0), timeout=60)


def flood(folder: Path) -> Outcome:
    """3 GB to the devices' part of the port from somebody without a key, declared and in chunks, during a run."""
    with Stage(folder, settings=SHORT) as stage:
        server = stage.serve()
        for name in ("kitchen", "attic"):
            stage.join(name)
        run = stage.run()
        stage.until(stage.reached(0, "choose"), 240, "the run does not begin", run)
        (link,) = server.children("fedprune.deployment.superlink")
        told, before = [], link.memory_info().rss
        most = before
        for way in ("declared", "in chunks"):
            sent, peak, answer = _pour(_client(stage, _ELSEWHERE), link, declared=way == "declared")
            most = max(most, peak)
            told.append(f"{way}: {answer} after {sent / 2**20:,.0f} MiB")
            if not link.is_running() or link.status() == psutil.STATUS_ZOMBIE:
                raise Failed(f"the server is dead; {'; '.join(told)}")
        stage.finish(run)
        grown = most - before
        result = stage.same("went on to its end")
        result = result._replace(
            seen="; ".join(told), figures={"flood_server_growth": (round(grown / 2**20, 1), "MiB at the most")}
        )
        if grown > _MOST_BYTES:
            return result._replace(verdict=FAILED, lost=f"{grown / 2**20:,.0f} MiB of the server's memory, at the most")
        return result._replace(lost=f"nothing: {grown / 2**20:.0f} MiB of memory at the most")


def _pour(client: HTTPSConnection, link: psutil.Process, *, declared: bool) -> tuple[int, int, str]:
    """(bytes sent, the server's largest resident memory meanwhile, what it answered)."""
    sent, peak, answer = 0, 0, "no answer"
    try:
        client.putrequest("POST", "/v1/fleet/push-messages")
        client.putheader("content-type", "application/protobuf")
        client.putheader(*(("content-length", str(_FLOOD_BYTES)) if declared else ("transfer-encoding", "chunked")))
        client.endheaders()
        try:
            while sent < _FLOOD_BYTES:
                client.send(_PIECE if declared else b"%x\r\n%b\r\n" % (len(_PIECE), _PIECE))
                sent += len(_PIECE)
                peak = max(peak, link.memory_info().rss)
            if not declared:
                client.send(b"0\r\n\r\n")
        except OSError:
            answer = "cut off"
        with suppress(OSError, HTTPException):
            answer = str(client.getresponse().status)
    except OSError as error:
        answer = type(error).__name__
    finally:
        client.close()
    until = time.monotonic() + 5
    while time.monotonic() < until:
        peak = max(peak, link.memory_info().rss)
        time.sleep(0.05)
    return sent, peak, answer


HAZARDS = {
    "strange_nodes": Hazard("nodes with a key of nobody, none, another authority, no TLS", nodes, 1200),
    "owners_questions": Hazard("questions for the owner alone from another address", owners, 180, owners),
    "flood": Hazard("3 GB sent to the port, twice, by somebody without a key", flood, 1200),
}
