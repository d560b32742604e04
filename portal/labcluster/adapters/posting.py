"""How notices leave the site: an HTTPS request, or a mail. No error of theirs holds a secret."""

from __future__ import annotations

import logging
import smtplib
import ssl
from email.message import EmailMessage
from typing import Any

import anyio
import httpx

from labcluster.errors import UnreachableError
from labcluster.models.settings import MailSettings, NoticeSettings

# It writes every request's whole address, which for a webhook is its secret.
logging.getLogger("httpx").setLevel(logging.WARNING)

_SECONDS = 10.0


class Post:
    """Implements `services.notices.Sender`."""

    def __init__(self, settings: NoticeSettings) -> None:
        self._settings = settings

    def webhook(self, url: str, payload: dict[str, Any]) -> None:
        """POST as JSON; only an answer of success is one. No redirect is followed, no answer is read."""
        anyio.run(self._post, url, payload)

    async def _post(self, url: str, payload: dict[str, Any]) -> None:
        # A deadline for all of it: a server may answer one byte in a while.
        try:
            with anyio.fail_after(_SECONDS):
                verify = ssl.create_default_context(cafile=self._settings.webhook_ca_file)
                async with (
                    httpx.AsyncClient(verify=verify, timeout=_SECONDS, follow_redirects=False) as client,
                    client.stream("POST", url, json=payload) as answer,
                ):
                    status = answer.status_code
        except TimeoutError:
            raise UnreachableError(f"it did not answer within {_SECONDS:.0f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise UnreachableError(f"it cannot be reached ({type(error).__name__})") from None
        if not 200 <= status < 300:
            raise UnreachableError(f"it answered {status}")

    def mail(self, address: str, subject: str, text: str) -> None:
        """Hand a mail to the site's server."""
        settings = self._settings.mail
        if settings is None:
            raise UnreachableError("this site has no mail server")
        try:
            message = EmailMessage()
            message["From"], message["To"], message["Subject"] = settings.sender, address, subject
            message.set_content(text)
            with _server(settings) as server:
                if settings.user and settings.password_file:
                    server.login(settings.user, settings.password_file.read_text().strip())
                server.send_message(message)
        except smtplib.SMTPResponseException as error:
            raise UnreachableError(f"the mail server answered {error.smtp_code}") from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise UnreachableError(f"the mail server cannot be used ({type(error).__name__})") from None


def _server(settings: MailSettings) -> smtplib.SMTP:
    context = ssl.create_default_context(cafile=settings.ca_file)
    if settings.security == "tls":
        return smtplib.SMTP_SSL(settings.host, settings.port, timeout=_SECONDS, context=context)
    server = smtplib.SMTP(settings.host, settings.port, timeout=_SECONDS)
    if settings.security == "starttls":
        try:
            server.starttls(context=context)
        except BaseException:
            server.close()
            raise
    return server
