"""Asking a server, patiently: repeated tries, growing pauses, and what the server says of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from saebook.errors import EnvironmentProblem, RecordingError

AGAIN_LATER = {408, 425, 429, 500, 502, 503, 504}
LONGEST_PAUSE_S = 300.0


class Dropped(Exception):
    """A connection was refused or broke off; trying again may help."""


class Requester:
    """GET requests that survive dropped connections and busy servers.

    Parameters
    ----------
    tries
        Tries in a row without any success before it gives up.
    pause_s
        First pause, s; each later one is twice as long, with up to a quarter added at random so
        that many clients don't come back at once. A server's Retry-After goes before it.
    timeout_s
        Silence after which a connection counts as dropped, s.
    sleep
        Waits that many seconds.

    Examples
    --------
    >>> Requester().pause(0, None) >= 1.0
    True
    """

    def __init__(
        self,
        *,
        tries: int = 6,
        pause_s: float = 1.0,
        timeout_s: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import requests

        self.tries, self.pause_s, self.timeout_s = tries, pause_s, timeout_s
        self.sleep = sleep
        self._session = requests.Session()
        self._reached: set[str] = set()

    def get(self, url: str, *, headers: Mapping[str, str] | None = None, **options: Any) -> Any:
        """Return the answer to one GET, trying again where that can help.

        Parameters
        ----------
        url, headers
            Of the request; redirects are followed.
        **options
            As for ``requests.Session.get``, such as ``params`` and ``stream``.

        Raises
        ------
        EnvironmentProblem
            The host can't be reached, or was busy at every try.
        RecordingError
            It answered that there is no such thing, or that it may not be read.
        """
        reason: str = ""
        for attempt in range(self.tries):
            asked = None
            try:
                response = self._try(url, headers, options)
            except Dropped as dropped:
                reason = str(dropped)
                if urlsplit(url).netloc not in self._reached and attempt:
                    # Nothing was ever heard of this host: most likely there is no network.
                    break
            else:
                if response.status_code not in AGAIN_LATER:
                    return self._good(response, url)
                reason = f"it answered {response.status_code} {response.reason}"
                asked = _retry_after(response.headers.get("Retry-After"))
                response.close()
                if asked is not None and asked > LONGEST_PAUSE_S:
                    reason += f" and asks to come back in {asked:,.0f} s"
                    break
            if attempt + 1 < self.tries:
                self.sleep(self.pause(attempt, asked))
        host = urlsplit(url).netloc
        if host not in self._reached:
            raise EnvironmentProblem(
                f"{host} can't be reached ({reason}). Check the network, or give the path of a "
                "file that is already here."
            )
        raise EnvironmentProblem(f"{url}: {reason}, {self.tries} times. Try again later.")

    def pause(self, attempt: int, asked: float | None) -> float:
        """Return how long to wait after a failed try, s: what the server asked, or a growing time.

        Parameters
        ----------
        attempt
            Failed tries before this one.
        asked
            Seconds that the server asked for, or None.
        """
        if asked is not None:
            return asked
        return min(self.pause_s * 2.0**attempt * (1 + random.random() / 4), LONGEST_PAUSE_S)

    def _try(self, url: str, headers: Mapping[str, str] | None, options: dict[str, Any]) -> Any:
        import requests

        try:
            response = self._session.get(
                url,
                # A compressed answer would make ranges and lengths mean something else.
                headers={"Accept-Encoding": "identity", **(headers or {})},
                timeout=self.timeout_s,
                **options,
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            raise Dropped(_in_words(error)) from error
        except (requests.exceptions.ChunkedEncodingError, requests.TooManyRedirects) as error:
            raise Dropped(_in_words(error)) from error
        for answer in (*response.history, response):
            self._reached.add(urlsplit(answer.url).netloc)
        return response

    def _good(self, response: Any, url: str) -> Any:
        if response.status_code < 400 or response.status_code == 416:
            return response
        response.close()
        meaning = {
            401: "it isn't open to everybody",
            403: "it isn't open to everybody",
            404: "there is no such file or data set",
            410: "it has been removed",
        }
        raise RecordingError(
            f"{url}: {meaning.get(response.status_code, 'the request was refused')} "
            f"({response.status_code} {response.reason}). Check its name."
        )


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _in_words(error: Exception) -> str:
    """The innermost cause of a connection error, which alone says something."""
    import requests

    if isinstance(error, requests.Timeout):
        return "no answer in time"
    cause: Any = error
    while True:
        inner = getattr(cause, "reason", None) or next(
            (a for a in getattr(cause, "args", ()) if isinstance(a, Exception)), None
        )
        if not isinstance(inner, Exception):
            break
        cause = inner
    text = getattr(cause, "strerror", None) or str(cause).rsplit(": ", 1)[-1]
    return text.strip() or type(cause).__name__
