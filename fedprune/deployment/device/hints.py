"""Why a device cannot reach its server, found out by trying: name, port, certificate, clock."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

_PATIENCE_S = 5.0
_AHEAD_S, _BEHIND_S = 5, 300  # what Flower lets pass of the time that a device signs its requests at
_CLOCK = "set this device's clock, e.g. with: sudo timedatectl set-ntp true"


def why(address: str, ca: Path) -> str:
    """What keeps a device that trusts ``ca`` from the server at ``address`` (host:port), and what to do, in one line.

    "" where nothing does but, perhaps, its key.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        client = HTTPSConnection(
            host, int(port), timeout=_PATIENCE_S, context=ssl.create_default_context(cafile=str(ca))
        )
        client.request("HEAD", "/")
        date = client.getresponse().getheader("date")
        client.close()
    except ssl.SSLCertVerificationError as error:
        return _untrusted(host, error)
    except ssl.SSLError as error:
        return f"what listens at {address} does not speak TLS ({error.reason}): is it a fedprune server?"
    except socket.gaierror:
        return f"this device finds no machine of the name {host}: is that its name, and is there a network?"
    except ConnectionRefusedError:
        return f"nothing listens at {address}: is the server running, and is its port right?"
    except TimeoutError:
        return f"{address} does not answer: is the server on, on this network, and its port open in its firewall?"
    except ValueError:  # a name of labels that no network has
        return f"{address} is no address of a machine: is the join file as enrol wrote it?"
    except OSError as error:
        return f"{address} cannot be reached ({error.strerror or error}): is this device on the network?"
    except HTTPException as error:
        return f"what listens at {address} answers nonsense ({type(error).__name__}): is it a fedprune server?"
    return _clock(date)


def _untrusted(host: str, error: ssl.SSLCertVerificationError) -> str:
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    said = error.verify_message
    if "not yet valid" in said:
        return f"the server's certificate is not valid yet, since here it is {now}: {_CLOCK}"
    if "expired" in said:
        return f"the server's certificate is out of date, if it is {now}: {_CLOCK}; or, there, fedprune server renew"
    if "mismatch" in said:
        return f"the server's certificate does not hold for {host}: there, fedprune server renew FLEET --host {host}"
    return f"the server at {host} is not of this device's fleet ({said}): join with the file that its enrol wrote"


def _clock(date: str | None) -> str:
    try:
        ahead = (datetime.now(UTC) - parsedate_to_datetime(date or "")).total_seconds()
    except (ValueError, TypeError):
        return ""
    if -_BEHIND_S <= ahead <= _AHEAD_S:
        return ""
    off = f"{abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    return f"this device's clock is {off}; Flower takes at most {_AHEAD_S} s ahead and {_BEHIND_S} s behind: {_CLOCK}"
