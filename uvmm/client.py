# SPDX-License-Identifier: MIT
"""The control API, asked from another process. Imports little: `uvmm run` waits for it."""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from uvmm.errors import NotRunningError, UnknownGuestError, UvmmError
from uvmm.units import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ANSWER_WAIT_S = 30.0
_BUSY = {"error": "the daemon is busy; try again"}
_NOT_THERE = (FileNotFoundError, ConnectionRefusedError)


class RefusedError(UvmmError):
    """The daemon refused; `status` is what HTTP calls it."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status
        self.exit_code = 2 if status == http.client.UNPROCESSABLE_ENTITY else 1


class Client:
    """One daemon's control API; each call is a connection of its own."""

    def __init__(self, control_socket: Path, *, wait_s: float = ANSWER_WAIT_S) -> None:
        """
        Talk to a socket.

        Args:
            control_socket: The daemon's.
            wait_s: How long an answer to `get` may take.
        """
        self._socket = control_socket
        self._wait_s = wait_s

    def get(self, path: str) -> Any:
        """
        Return what the daemon answers.

        Raises:
            NotRunningError: If no daemon serves.
            RefusedError: If it refuses.
            UvmmError: If it does not answer in time, or not in HTTP.
        """
        return self._ask("GET", path, None, self._wait_s)

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, wait_s: float | None = None
    ) -> Any:
        """
        Have the daemon do something; returns its answer.

        Args:
            path: What.
            body: With what.
            wait_s: How long to wait; None is as long as it takes.

        Raises:
            NotRunningError: If no daemon serves.
            RefusedError: If it refuses.
            UvmmError: If it does not answer in time, or not in HTTP.
        """
        return self._ask("POST", path, body, wait_s)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """
        Have the daemon change something; returns its answer.

        Raises:
            NotRunningError: If no daemon serves.
            RefusedError: If it refuses.
            UvmmError: If it does not answer in time, or not in HTTP.
        """
        return self._ask("PATCH", path, body, ANSWER_WAIT_S)

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, wait_s: float | None
    ) -> Any:
        link = _UnixConnection(self._socket, wait_s)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            link.request(method, path, None if body is None else json.dumps(body), headers)
            answer = link.getresponse()
            status, words = answer.status, answer.read()
            told = _BUSY if _is_busy(answer) else json.loads(words)
        except _NOT_THERE:
            raise NotRunningError(
                f"no daemon serves {self._socket.parent}; start one with 'uvmm up'"
            ) from None
        except PermissionError:
            raise UvmmError(
                f"you may not control the daemon of {self._socket.parent}; use sudo, or join "
                "the group that 'uvmm up --group' named"
            ) from None
        except TimeoutError:
            raise UvmmError(f"the daemon did not answer within {wait_s:.0f} s") from None
        except (ConnectionError, http.client.IncompleteRead):
            raise UvmmError(
                "the daemon broke off: it is busy, or has just ended; try again"
            ) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UvmmError(f"the daemon broke off: {str(error) or repr(error)}") from None
        finally:
            link.close()
        if status >= http.client.BAD_REQUEST:
            raise RefusedError(told.get("error", f"status {status}"), status=status)
        return told


def guest_path(name: str, verb: str = "") -> str:
    """
    Return the API's path of a guest, or of what is done to it.

    Raises:
        UnknownGuestError: If no guest can be called so.
    """
    # It would be the path of something else, of which the API can only say Not Found.
    if not name or "/" in name:
        raise UnknownGuestError(f"there is no guest {shown(name)}; 'uvmm ps' lists them")
    path = f"/v1/guests/{quote(os.fsencode(name), safe='')}"
    return f"{path}/{verb}" if verb else path


def _is_busy(answer: http.client.HTTPResponse) -> bool:
    """Tell whether not the daemon has answered, but its server, which has no room."""
    kind = answer.headers.get_content_type()
    return answer.status == http.client.SERVICE_UNAVAILABLE and kind != "application/json"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, wait_s: float | None) -> None:
        super().__init__("uvmm", timeout=wait_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
