"""Dex as a browser's forms and a client's requests meet it, by the management host's address."""

from __future__ import annotations

import html
import re
import ssl
from pathlib import Path
from typing import Any

import httpx


class Dex:
    """Logins without a browser: pages are fetched, forms are posted, redirects are followed."""

    def __init__(self, domain: str, address: str, ca: Path) -> None:
        self.issuer = f"https://dex.{domain}:5556/dex"
        self._name = f"dex.{domain}"
        self._address = address
        self._client = httpx.Client(verify=ssl.create_default_context(cafile=str(ca)), timeout=10)

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def post(self, path: str, **form: str) -> httpx.Response:
        """A request to one of its endpoints."""
        return self._client.post(self._here(httpx.URL(f"{self.issuer}/{path}")), data=form)

    def device_login(self, user: str, password: str, client: str = "labctl-laptop") -> dict[str, Any]:
        """The tokens of a device login, confirmed at once; LookupError if Dex does not know the user."""
        scope = "openid profile groups offline_access"
        device = self.post("device/code", client_id=client, scope=scope).json()
        self._confirm(self.post("device/auth/verify_code", user_code=device["user_code"]), user, password)
        grant = "urn:ietf:params:oauth:grant-type:device_code"
        answer = self.post("token", grant_type=grant, device_code=device["device_code"], client_id=client)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def code_login(self, user: str, password: str, client: str, secret: str, back: str) -> dict[str, Any]:
        """The tokens of a browser's login for a client with a secret."""
        query = {
            "client_id": client,
            "redirect_uri": back,
            "response_type": "code",
            "scope": "openid profile",
        }
        first = self._client.get(self._here(httpx.URL(f"{self.issuer}/auth", params={**query, "state": "s"})))
        code = httpx.URL(self._confirm(first, user, password).headers["location"]).params["code"]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": back}
        answer = self.post("token", **form, client_id=client, client_secret=secret)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def _confirm(self, page: httpx.Response, user: str, password: str) -> httpx.Response:
        page = self._follow(page)
        action = re.search(r'<form method="post" action="([^"]*)"', page.text)
        assert action, page.text
        target = page.url.join(html.unescape(action[1]))
        answer = self._client.post(self._here(target), data={"login": user, "password": password})
        if answer.status_code == 401:
            raise LookupError(re.sub(r"\s+", " ", "".join(re.findall(r'error-box">([^<]*)', answer.text))))
        return self._follow(answer)

    def _follow(self, answer: httpx.Response) -> httpx.Response:
        while answer.is_redirect:
            target = answer.url.join(answer.headers["location"])
            if target.host not in (self._name, self._address):
                return answer
            answer = self._client.get(self._here(target))
        return answer

    def _here(self, url: httpx.URL) -> httpx.URL:
        return url.copy_with(host=self._address)
